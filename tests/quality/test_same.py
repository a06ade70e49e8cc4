"""Which pairs of answers say the same."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.quality.same import final_of, same_answer


def calling(name: str, arguments: Any, content: str | None = None) -> dict[str, Any]:
    return {
        "content": content,
        "tool_calls": [{"type": "function", "function": {"name": name, "arguments": arguments}}],
    }


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Paris", "paris."),
        ("Paris", "The capital of France is Paris."),
        ("84", "12 times 7 is 84."),
        ("84", "84.0"),
        ("1,250", "1250"),
        ("42 km", "42 km."),
        ("First 12 * 7 = 84. The answer is 84.", "7 twelves: 70 + 14. Final answer: **84**"),
        (r"We find \boxed{3.5}", "#### 3.50"),
        ("Yes.", "Yes, it is."),
        ("positive", "Positive"),
        ("Label: billing", "billing"),
        ('{"a": 1, "b": ""}', '```json\n{"a": 1.0}\n```'),
        ('["x", "y"]', '["y", "x"]'),
        ("```python\nx = 1\n```", "Here:\n```python\nx = 1  # one\n\n```"),
        ("The museum opens at nine on weekdays.", "On weekdays the museum opens at nine."),
        ("2020-06-02", "It is 2020-06-02."),
        ("Невский проспект", "невский проспект."),
        ("東京", "東京。"),
    ],
)
def test_the_same(one: str, other: str) -> None:
    assert same_answer(one, other)
    assert same_answer(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Paris", "Lyon"),
        ("Paris", ""),
        ("84", "85"),
        ("-5", "5"),
        ("It is 84.", "It is 48."),
        ("Yes", "No"),
        ("Yes, because it is old.", "No, because it is old."),
        ("It is allowed.", "It is not allowed."),
        ("positive", "not positive"),
        ("positive", "negative"),
        ("2020-06-02", "2020-06-03"),
        ("The answer is 84.", "The answer is 85."),
        ('{"a": 1}', '{"a": 2}'),
        ('{"a": 1}', "a is 1"),
        ("```python\nx = 1\n```", "```python\nx = 2\n```"),
        ("```python\nx = 1\n```", "x is one"),
        ("The train leaves at 5:30 from Kell.", "The train leaves at 6:30 from Kell."),
        ("Otto Frei, a ferryman from Kell", "Otto is a sailor"),
        ("東京", "大阪"),
    ],
)
def test_not_the_same(one: str, other: str) -> None:
    assert not same_answer(one, other)
    assert not same_answer(other, one)


def test_calls_are_compared_by_name_and_arguments() -> None:
    call = calling("look_up", '{"city": "Paris", "days": 2}')
    assert same_answer(call, calling("look_up", '{"days": 2.0, "city": "paris"}', "One moment."))
    assert not same_answer(call, calling("look_up", '{"city": "Lyon", "days": 2}'))
    assert not same_answer(call, calling("forecast", '{"city": "Paris", "days": 2}'))
    assert not same_answer(call, "It is sunny in Paris.")
    assert not same_answer(calling("a", "{broken"), calling("a", "{}"))
    assert same_answer(calling("a", ""), calling("a", "{}"))
    legacy = {"content": None, "function_call": {"name": "look_up", "arguments": '{"city": "Paris", "days": 2}'}}
    assert same_answer(call, legacy)


def test_messages_are_compared_by_their_words() -> None:
    assert same_answer({"content": "84"}, {"content": [{"type": "text", "text": "84"}]})
    assert same_answer({"content": None}, {"content": ""})


def test_the_last_marked_result_counts() -> None:
    assert final_of("The answer is 5. No: the answer is 6.") == "6"
    assert final_of(r"so \boxed{x + 1}") == "x + 1"
    assert final_of("Nothing is marked here.") is None


def test_what_is_made_to_do_harm_is_compared_all_the_same() -> None:
    deep, wide = "[" * 900 + "]" * 900, f"[{','.join(map(str, range(5000)))}]"
    assert same_answer(deep, deep)
    assert same_answer(wide, wide)
    assert same_answer(f"[{'9' * 4000}]", f"[{'9' * 4000}]")
    assert not same_answer("9" * 4000, "8")


TEXTS = st.text(alphabet=st.characters(codec="utf-8"), max_size=60)


@given(TEXTS)
def test_every_text_is_the_same_as_itself(text: str) -> None:
    assert same_answer(text, text)


@given(TEXTS, TEXTS)
def test_it_does_not_matter_which_comes_first(one: str, other: str) -> None:
    assert same_answer(one, other) == same_answer(other, one)
