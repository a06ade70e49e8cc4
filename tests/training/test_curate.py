"""What is trained on: each question once, people's answers before models', and nothing that is measured with."""

from __future__ import annotations

from typing import Any

import numpy as np

from gateway.quality.same import plain
from gateway.shards.lessons import PERSON, Lesson
from gateway.training.curate import Curated, Rules, curate
from gateway.training.private import scrubbed

SYSTEM = "Write the date as YYYY-MM-DD."


def vector(*values: float) -> bytes:
    row = np.zeros(384, "<f4")
    row[: len(values)] = values
    return (row / np.linalg.norm(row)).tobytes()


ONE, OTHER = vector(1.0), vector(0.0, 1.0)
NO_RULES = Rules()


def lesson(n: int, question: str, answer: str | dict[str, Any], *, model: str = "expert", **more: Any) -> Lesson:
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
    message = answer if isinstance(answer, dict) else {"role": "assistant", "content": answer}
    return Lesson(f"{n:032x}", n, "", None, "p", model, {"core": "regex"}, {"messages": messages, **more}, message)


def run(*lessons: Lesson, rules: Rules = NO_RULES, vectors: dict[str, bytes] | None = None) -> Curated:
    [found] = curate(lessons, [ONE] * len(lessons), vectors or {}, rules)
    return found


def answers(found: Curated) -> list[str]:
    return [pair.messages[-1]["content"] for pair in found.pairs]


def test_each_question_counts_once_with_its_latest_answer() -> None:
    found = run(lesson(1, "1 May?", "old"), lesson(2, "2 May?", "b"), lesson(3, " 1 may ", "new"))
    assert answers(found) == ["b", "new"] and found.left_out == {"asked before": 1}


def test_what_a_person_has_shown_beats_a_models_answer_however_old() -> None:
    found = run(lesson(1, "1 May?", "shown", model=PERSON), lesson(2, "1 May?", "told"))
    assert answers(found) == ["shown"] and found.demonstrated == 1


def test_questions_that_mean_the_same_count_once() -> None:
    near = vector(1.0, 0.1)
    vectors = {"Say it.": ONE, "Tell it.": near, "Else.": OTHER}
    found = run(*(lesson(n, text, text) for n, text in enumerate(vectors)), vectors=vectors)
    assert answers(found) == ["Tell it.", "Else."]


def test_what_a_licence_forbids_is_left_out_but_not_what_people_say() -> None:
    rules = Rules(barred={"expert"})
    found = run(lesson(1, "a", "x"), lesson(2, "b", "y", model=PERSON), rules=rules)
    assert answers(found) == ["y"] and found.left_out == {"its teacher's licence": 1}


def test_what_is_measured_with_is_not_trained_on() -> None:
    rules = Rules(evaluations={plain("when was it")})
    found = run(lesson(1, "When was it?", "x"), lesson(2, "And this?", "y"), rules=rules)
    assert answers(found) == ["y"] and found.left_out == {"measured with": 1}


def test_answers_are_cleaned() -> None:
    fenced, thought = '```json\n{"a": 1}\n```', "<think>\nhm\n</think>\n\n2020-05-01 "
    found = run(lesson(1, "a", fenced), lesson(2, "b", thought), lesson(3, "c", "<think>only</think>"))
    assert answers(found) == ['{"a": 1}', "2020-05-01"] and found.left_out == {"no answer left": 1}


def test_calls_are_kept_with_their_tools() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f"}}]}
    found = run(lesson(1, "a", call, tools=[{"type": "function"}]))
    assert found.pairs[0].tools == ({"type": "function"},)
    assert found.pairs[0].messages[-1] == call


def test_there_is_a_limit_and_the_newest_count() -> None:
    found = run(*(lesson(n, f"q {n}", str(n)) for n in range(5)), rules=Rules(most=2))
    assert answers(found) == ["3", "4"] and found.left_out == {"more than are used": 3}


def test_other_tasks_are_other_clusters() -> None:
    lessons = [lesson(1, "a", "x"), lesson(2, "b", "y"), lesson(3, "c", "z")]
    found = curate(lessons, [ONE, OTHER, OTHER], {})
    assert [len(one.pairs) for one in found] == [2, 1]


def test_people_are_taken_out_alike_in_question_and_answer() -> None:
    user = {"role": "user", "content": "Write to ann.berg@web.de or call +49 30 1234567, IP 10.1.2.3, on 2020-05-01."}
    answer = {"role": "assistant", "content": "ann.berg@web.de"}
    shown = scrubbed([user, answer])
    assert shown[1]["content"] == "person1@example.com"
    assert "ann" not in shown[0]["content"] and "1234567" not in shown[0]["content"]
    assert "10.1.2.3" not in shown[0]["content"] and "2020-05-01" in shown[0]["content"]
    [card] = scrubbed([{"role": "user", "content": "4111 1111 1111 1111, 5 apples, order 12345, 12.50 EUR"}])
    assert card["content"] == "0000 0000 0000 0001, 5 apples, order 12345, 12.50 EUR"
