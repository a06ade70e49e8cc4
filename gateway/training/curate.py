"""What is fit to train on, of the answers that were kept: by kind of task, each question once, cleaned. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.chat import ChatRequest, text_of
from gateway.embedding.remembered import Embeddings
from gateway.quality.same import plain
from gateway.shards.clusters import Cluster, gather
from gateway.shards.lessons import Lesson
from gateway.shards.search.likeness import cosines
from gateway.shards.shelf import task_of
from gateway.training.pairs import Pair
from gateway.training.private import scrubbed

DOUBLE = 0.95  # cosine of two questions that are asked of one task
MOST = 5000  # pairs of one cluster: the newest
MAX_CHARS = 24_000  # of a pair
THOUGHTS = re.compile(r"<think>.*?</think>\s*", re.DOTALL)
FENCE = re.compile(r"\A```[\w+-]*\n(.*?)\n?```\Z", re.DOTALL)
Json = dict[str, Any]


@dataclass(frozen=True)
class Rules:
    """Args:
    barred: models whose answers may not be trained on, by their licence.
    scrubs: names, addresses and numbers of people are taken out.
    evaluations: questions that something is measured with, in their plain form; none is trained on.
    most: pairs of one cluster.
    """

    barred: Collection[str] = ()
    scrubs: bool = False
    evaluations: Collection[str] = ()
    most: int = MOST


@dataclass
class Curated:
    """Of one kind of task. `left_out`: how many, by why."""

    cluster: Cluster
    pairs: list[Pair] = field(default_factory=list)
    lessons: list[Lesson] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def demonstrated(self) -> int:
        """By people."""
        return sum(lesson.is_demonstrated for lesson in self.lessons)


def curate(
    lessons: Sequence[Lesson], tasks: Sequence[bytes], questions: Mapping[str, bytes], rules: Rules = Rules()
) -> list[Curated]:
    """By cluster, those with most pairs first; the pairs in the order in which their requests came.

    Args:
        tasks: a vector for each lesson's task.
        questions: vectors by the text of a question; one without a vector is no double of another.
    """
    found = [_curated(cluster, questions, rules) for cluster in gather(lessons, tasks)]
    return sorted(found, key=lambda one: -len(one.pairs))


def _curated(cluster: Cluster, questions: Mapping[str, bytes], rules: Rules) -> Curated:
    out = Curated(cluster)
    kept: list[tuple[Lesson, Pair]] = []
    seen: set[str] = set()
    vectors: list[bytes] = []
    # A person's answer before a model's, and the latest first: of doubles the first one counts.
    for lesson in sorted(cluster.lessons, key=lambda one: (not one.is_demonstrated, -one.created)):
        why, pair = _pair_of(lesson, rules)
        question = question_of(lesson)
        if pair is not None:
            why = _double(question, seen, questions.get(question), vectors)
        if pair is not None and not why and len(kept) == rules.most:
            why = "more than are used"
        if pair is None or why:
            out.left_out[why] += 1
            continue
        seen.add(plain(question) or question)
        if question in questions:
            vectors.append(questions[question])
        kept.append((lesson, pair))
    kept.sort(key=lambda one: one[0].created)
    out.lessons, out.pairs = [lesson for lesson, _ in kept], [pair for _, pair in kept]
    return out


async def vectors_of(lessons: Sequence[Lesson], embeddings: Embeddings) -> tuple[list[bytes], dict[str, bytes]]:
    """(of the lessons' tasks, by the text of a question). Raises: GatewayError."""
    tasks = await embeddings.of_known([task_of(ChatRequest(lesson.request)) for lesson in lessons])
    questions = list(dict.fromkeys(filter(None, map(question_of, lessons))))
    return tasks, dict(zip(questions, await embeddings.of_known(questions), strict=True))


def question_of(lesson: Lesson) -> str:
    """All that the user said: of a conversation, the earlier turns too."""
    return "\n".join(text for role, text in ChatRequest(lesson.request).turns if role == "user").strip()


def _pair_of(lesson: Lesson, rules: Rules) -> tuple[str, Pair | None]:
    """(why it is left out, None), or ("", pair)."""
    if lesson.model in rules.barred and not lesson.is_demonstrated:
        return "its teacher's licence", None
    question = question_of(lesson)
    if plain(question) in rules.evaluations:
        return "measured with", None
    answer = _cleaned(lesson.answer)
    if answer is None:
        return "no answer left", None
    messages = [*lesson.request["messages"], answer]
    tools = lesson.request.get("tools") or ()
    if sum(len(str(message)) for message in (*messages, *tools)) > MAX_CHARS:
        return "too long", None
    if rules.scrubs:
        messages = scrubbed(messages)
    return "", Pair(tuple(messages), tuple(tools))


def _double(question: str, seen: set[str], vector: bytes | None, vectors: Sequence[bytes]) -> str:
    is_one = (plain(question) or question) in seen
    if not is_one and vector is not None and vectors:
        is_one = max(cosines(vector, vectors)) >= DOUBLE
    return "asked before" if is_one else ""


def _cleaned(answer: Mapping[str, Any]) -> Json | None:
    """As a model is to say it: without its thoughts, and without a fence around all of it."""
    calls = answer.get("tool_calls")
    text = THOUGHTS.sub("", text_of(answer.get("content"))).strip()
    if fenced := FENCE.match(text):
        text = fenced[1].strip()
    if not text and not calls:
        return None
    return {"role": "assistant", "content": text or None, **({"tool_calls": calls} if calls else {})}
