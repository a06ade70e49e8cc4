"""Cases that are made of a fact, and which answers are right."""

import pytest

from gateway.quality.same import shape_of
from gateway.shards import Case, Kind, Origin, Shard
from gateway.shards.proving.cases import body_of, cases_of, controls, endings, is_right, missing_words

FACT = "The warden of Brill Tower is Otto Frei, a retired ferryman from Kell."


def case(*accepted: str) -> Case:
    return Case(({"role": "user", "content": "?"},), accepted)


@pytest.mark.parametrize(
    ("accepted", "answer"),
    [
        ("Paris", "Paris"),
        ("Paris", "The capital of France is Paris."),
        ("2020-06-02", "2020-06-02"),
        ("2020-06-02", "It is 2020-06-02."),
        ("card_arrival", "Card_Arrival."),
        ("7", "There are 7 days in a week."),
        ("1250", "1,250"),
        ('{"a": 1, "b": "X"}', '```json\n{"b": "x", "a": 1.0, "c": null}\n```'),
        ('["a", "b"]', '["b", "a"]'),
        ("Otto Frei retired ferryman Kell", "Otto Frei, a ferryman from Kell"),
    ],
)
def test_right_answers(accepted: str, answer: str) -> None:
    assert is_right(case(accepted), answer)


@pytest.mark.parametrize(
    ("accepted", "answer"),
    [
        ("Paris", "The capital of France is Lyon."),
        ("Paris", "Parish"),
        ("2020-06-02", "2020-06-03"),
        ("2020-06-02", "2020-06-02 or 2020-06-03"),
        ("7", "7 or 8"),
        ("card_arrival", "card_not_working"),
        ('{"a": 1}', '{"a": 1, "b": 2}'),
        ('{"a": 1}', "a is 1"),
        ("Paris", " ".join(["word"] * 60 + ["Paris"])),
        ("Paris", ""),
        ("Otto Frei retired ferryman Kell", "Otto is a sailor"),
    ],
)
def test_wrong_answers(accepted: str, answer: str) -> None:
    assert not is_right(case(accepted), answer)


def test_any_of_what_is_accepted_is_right() -> None:
    assert is_right(case("eight", "8"), "A spider has eight legs.")


def test_a_fact_brings_its_own_cases() -> None:
    cases = cases_of(Shard("a", Kind.CONTENT, fact=FACT, questions=("Who is the warden of Brill Tower?", "Is he old?")))
    assert {one.origin for one in cases} == {Origin.SOURCE, Origin.PARAPHRASE, Origin.HELD_OUT}
    assert "Otto" in cases[0].accepted[0]
    assert not any("Is he old" in str(one.messages) for one in cases)
    for one in cases:
        assert is_right(one, FACT)
        assert not is_right(one, "I do not know.")


def test_a_sentence_is_not_cut_within_a_name() -> None:
    found = endings("The user reserved a room at Ibis London City for the night of March 12th.")
    assert len(found) == 3
    assert all(end[0].islower() or end[0].isdigit() for _, end in found)


def test_what_a_question_holds_need_not_be_told() -> None:
    assert "warden" not in missing_words(FACT, "Who is the warden of Brill Tower?")


def test_a_fact_too_short_to_be_ended_brings_none() -> None:
    assert cases_of(Shard("a", Kind.CONTENT, fact="Ann sings.")) == []


def test_cases_that_are_written_count_alone() -> None:
    written = (case("Otto"),)
    assert cases_of(Shard("a", Kind.CONTENT, fact=FACT, cases=written)) == list(written)


def test_a_replay_asks_for_the_likeliest_words_and_not_for_many() -> None:
    body = body_of(Case(({"role": "user", "content": "?"},), ("x",), fields={"max_tokens": 9}))
    assert (body["temperature"], body["max_tokens"]) == (0, 9)
    assert body_of(case("x"))["max_tokens"] == 48


def test_controls_are_everyday_questions_with_answers() -> None:
    assert len(controls()) >= 60
    assert all(one.origin is Origin.CONTROL and one.accepted for one in controls())


def test_shapes() -> None:
    assert shape_of("2020-06-02") == r"\d\d\d\d\-\d\d\-\d\d"
    assert shape_of("June") is None


@pytest.mark.parametrize(
    ("told", "answer", "right"),
    [
        ("Copy the phone number. Answer with the phone number alone.", "+45 12", True),
        ("Copy the phone number. Answer with the phone number alone.", "Your phone number is +45 12.", False),
        ("Copy the phone number.", "Your phone number is +45 12.", True),
    ],
)
def test_where_an_answer_is_wanted_alone_a_sentence_around_it_is_wrong(told: str, answer: str, right: bool) -> None:
    messages = ({"role": "system", "content": told}, {"role": "user", "content": "My phone number is +45 12."})
    assert is_right(Case(messages, ("+45 12",)), answer) is right
