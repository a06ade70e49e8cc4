"""The arithmetic in an answer is right."""

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.checks.recompute import Recompute
from gateway.checks.sums.arithmetic import NotArithmetic, is_rounded, value_of
from gateway.checks.sums.equations import equations_in, rewritten
from gateway.trace import Trace
from tests.checks.drafts import asking, calls, judged, passes, prefix, whole

CHECK = Recompute()


def found(text: str) -> list[bool]:
    return [equation.is_right for equation in equations_in(rewritten(text))]


@pytest.mark.parametrize(
    "text",
    [
        "12 * 7 = 84",
        "So 12 × 7 is 84.",
        "12 times 7 equals 84",
        "12 * 7, so the total is 84.",
        "$12 * 7 = $84",
        "3 apples + 4 apples = 7 apples in all",
        "12 dollars per hour * 5 hours = 60 dollars",
        "20% of 50 = 10",
        "50% + 25% = 75%",
        "10 / 50 = 20%",
        "200 * 15% = 30",
        "10 / 3 = 3.33",
        "10 / 3 ≈ 3.3",
        "4 + 4.1 = about 8",
        "1,000 + 2,500 = 3,500",
        "1/2 cup + 1/4 cup = 3/4 cup",
        r"\(12 \times 7 = 84\)",
        r"\frac{1}{2} + \frac{1}{3} = \frac{5}{6}",
        "2^10 = 1024",
        "**12 * 7 = 84**",
        "- 12 * 7 = 84",
        "x = 12 * 7 = 84",
        "(3 + 4) * 2 = 14",
        "-5 + 3 = -2",
        "-10 / 3 = -3.33",
        "0.1 + 0.2 = 0.30000000000000004",
        "80 kg - 5 kg = 75kg",
        "5 + 3 = 8 = 4 * 2",
    ],
)
def test_right(text: str) -> None:
    assert found(text) and all(found(text))


@pytest.mark.parametrize(
    "text",
    [
        "12 * 7 = 85",
        "So 12 × 7 is 85.",
        "12 * 7, so the total is 85.",
        "3 apples + 4 apples = 8 apples.",
        "20% of 50 is 11.",
        "10 / 3 = 3.34",
        "10 / 3 = 3",
        "2**10 = 1025",
        "The answer is **12 * 7 = 83**.",
        "2) 5 + 5 = 11",
        "x = 12 * 7 = 86",
        "5 + 3 = 8 = 4 * 3",
    ],
)
def test_wrong(text: str) -> None:
    assert not all(found(text))


@pytest.mark.parametrize(
    "text",
    [
        "2x + 3 = 7",
        "f(2) = 2 + 3",
        "sqrt(16) + 2 = 6",
        "√16 + 1 = 5",
        "5! + 1 = 121",
        "17 mod 5 + 1 = 3",
        "17 / 5 = 3 remainder 2",
        "2 hours * 60 = 120 minutes",
        "2 feet + 6 inches = 30 inches",
        "2 dozen + 3 = 27",
        "100 + 20% = 120",
        "10:30 + 2 = 12:30",
        "2015-2010 = 5 years",
        "3,5 + 1,5 = 5",
        "2H2 + O2 = 2H2O",
        "3 + 4 is 2 more than 5",
        "Is 2 + 2 = 5?",
        "2 + 2 = 5 is wrong.",
        "1 + 1 = 10 in binary",
        "(3 + 4)(2 + 1) = 21",
        "a + 5 = 7",
        "```python\nx = 1 + 1 == 3\n```",
        "if a <= 2 + 2 >= 5 != 3",
        "In 2024 there were 12 of 7.",
        "1 / 0 = 5",
    ],
)
def test_left_alone(text: str) -> None:
    assert found(text) == []


def test_a_wrong_equation_fails_the_draft() -> None:
    verdict = judged(CHECK, whole("First, 12 * 7 = 84. Then 84 + 6 = 91. The answer is 91."))
    assert (verdict.passed, verdict.reason) == (False, "wrong: 84 + 6 = 91")
    assert passes(CHECK, whole("First, 12 * 7 = 84. Then 84 + 6 = 90. The answer is 90."))


def test_what_the_user_states_may_be_quoted() -> None:
    assert passes(CHECK, whole("You wrote 2 + 2 = 5, and I see why."), asking("Why is 2 + 2 = 5?"))
    assert passes(CHECK, whole("You wrote 2 + 2 = 5."), asking("I think 2 + 2 = 5."))
    assert not passes(CHECK, whole("It says 2 + 2 = 5."), asking("What does it say?"))


def test_the_result_stands_in_the_working() -> None:
    verdict = judged(CHECK, whole("12 * 7 = 84. The answer is 48."))
    assert (verdict.passed, verdict.reason) == (False, "the result 48 is not in its working")
    assert passes(CHECK, whole("10 / 3 = 3.333. The final answer is 3.33"))
    assert passes(CHECK, whole(r"12 * 7 = 84, so \boxed{84}"))
    assert passes(CHECK, whole("5 + 5 = 10, less than what you have. Answer: 30"), asking("I have 30."))
    assert passes(CHECK, whole("The answer is 48.")), "without working there is nothing to hold it against"


async def test_numbers_without_end_break_nothing() -> None:
    digits = "9" * 6000
    text = f"{digits} + 1 = 2. 1 + 1 = 2. The answer is {digits}."
    assert (await CHECK(asking("?"), whole(text), Trace("tier", "t"))).passed


def test_every_choice_is_judged_calls_and_beginnings_are_not() -> None:
    verdict = judged(CHECK, whole("1 + 1 = 2", "1 + 1 = 3"))
    assert (verdict.passed, verdict.reason) == (False, "choice 1: wrong: 1 + 1 = 3")
    assert passes(CHECK, whole(calls(("add", '{"a": 1}'))))
    assert passes(CHECK, whole(""))
    assert passes(CHECK, prefix("1 + 1 = 3"))


async def test_long_answers_are_read_beside_the_event_loop() -> None:
    text = "Some words. " * 500
    assert not (await CHECK(asking("?"), whole(f"1 + 1 = 3. {text}"), Trace("tier", "t"))).passed
    assert (await CHECK(asking("?"), whole(f"1 + 1 = 2. {text}"), Trace("tier", "t"))).passed


@given(st.integers(-999, 999), st.integers(-999, 999), st.sampled_from("+-*"))
def test_sums_of_any_numbers(a: int, b: int, sign: str) -> None:
    right = {"+": a + b, "-": a - b, "*": a * b}[sign]
    first, second = f"({a})", f"({b})"
    assert value_of(f"{first} {sign} {second}") == right
    if a >= 0 and b >= 0:
        assert found(f"{a} {sign} {b} = {right}") == [True]
        assert found(f"{a} {sign} {b} = {right + 1}") == [False]


@given(st.text(alphabet="0123456789+-*/()=. x%,\n", max_size=80))
def test_nothing_breaks_it(text: str) -> None:
    judged(CHECK, whole(text))


@pytest.mark.parametrize(
    "expression",
    ["__import__('os')", "9**9**9", "2**-1000", "1/0", "a", "'a' * 3", "1 if 1 else 2", "(" * 500, "1" * 5000, ""],
)
def test_only_arithmetic_has_a_value(expression: str) -> None:
    with pytest.raises(NotArithmetic):
        value_of(expression)


def test_rounding() -> None:
    assert is_rounded(Fraction(1, 3), "0.33") and is_rounded(Fraction(2, 3), "0.67")
    assert not is_rounded(Fraction(2, 3), "0.66") and not is_rounded(Fraction(10, 3), "3")


@pytest.mark.parametrize(
    "text",
    ["9" * 20_000, "\n" * 20_000, "1 = " * 5_000, "1 is " * 4_000, "(1)" * 6_000, "1+1=2 " * 3_000, "*" * 20_000],
)
def test_it_is_quick_on_what_is_made_to_be_slow(text: str) -> None:
    started = time.perf_counter()
    list(equations_in(rewritten(text)))
    assert time.perf_counter() - started < 2
