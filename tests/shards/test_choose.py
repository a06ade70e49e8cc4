"""What is given: what is relevant, once, told apart, and within its room."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.shards import Example, Kind, Shard
from gateway.shards.choose import Candidate, Choice, Floors, choose
from gateway.shards.rendering import MOST_SHARDS, ROOMS, Size


def fact(id: str, text: str, cosine: float | None = 0.8, score: float = 1.0, slot: str = "") -> Candidate:
    return Candidate(Shard(id, Kind.CONTENT, fact=text, slot=slot), cosine, score)


def task(id: str, cosine: float = 0.9) -> Candidate:
    return Candidate(Shard(id, Kind.PROCESS, examples=(Example("1 May", "2019-05-01"),)), cosine, 1.0)


def given_of(choice: Choice) -> list[str]:
    return [one.shard for one in choice.renderings]


def why(choice: Choice, id: str) -> str:
    return next(one.why for one in choice.considered if one.shard == id)


def test_what_has_nothing_to_do_with_the_question_is_out() -> None:
    choice = choose([fact("a", "Ann chairs the board.", 0.2)], "When is lunch?", Size.TINY, Floors(fact=0.4))
    assert given_of(choice) == []
    assert why(choice, "a") == "not relevant: 0.20 is below 0.40"


def test_without_a_vector_it_is_not_known_whether_it_is_relevant() -> None:
    choice = choose([fact("a", "Ann chairs the board.", None)], "Who chairs the board?", Size.LARGE, Floors())
    assert given_of(choice) == []


def test_a_very_small_reader_is_given_one_fact_and_larger_ones_more() -> None:
    candidates = [
        fact("a", "Ann chairs the board."),
        fact("b", "Ann chairs no other board in town.", 0.75, 0.9),
    ]
    assert given_of(choose(candidates, "Who chairs the board?", Size.TINY, Floors())) == ["a"]
    assert given_of(choose(candidates, "Who chairs the board?", Size.SMALL, Floors())) == ["a", "b"]


def test_of_two_that_say_the_same_one_is_given() -> None:
    candidates = [fact("a", "Ann Lee chairs the board."), fact("b", "The board Ann Lee chairs.", 0.79, 0.9)]
    choice = choose(candidates, "Who chairs the board?", Size.SMALL, Floors())
    assert given_of(choice) == ["a"]
    assert why(choice, "b") == "says the same as a"


def test_facts_of_different_things_are_told_apart_by_what_the_question_names() -> None:
    candidates = [
        fact("a", "The warden of Ost Tower is Mira."),
        fact("b", "The warden of Brill Tower is Otto.", 0.79, 0.9),
        fact("c", "The warden of Kell Tower is Ines.", 0.78, 0.8),
    ]
    choice = choose(candidates, "Who is the warden of Brill Tower?", Size.TINY, Floors())
    assert given_of(choice) == ["b"]
    assert why(choice, "a") == "ambiguous: the question names another"


def test_where_the_question_does_not_tell_them_apart_none_is_given_to_a_small_reader() -> None:
    candidates = [fact("a", "The warden of Ost Tower is Mira."), fact("b", "The warden of Brill Tower is Otto.")]
    choice = choose(candidates, "Who is the warden of the tower?", Size.TINY, Floors())
    assert given_of(choice) == []
    assert why(choice, "a") == "ambiguous: 2 say the same of different things"
    assert len(given_of(choose(candidates, "Who is the warden?", Size.LARGE, Floors()))) == 2


def test_slots_tell_entities_apart() -> None:
    candidates = [
        fact("a", "It is open until five.", slot="ost tower|hours"),
        fact("b", "One may come until nine.", slot="brill tower|hours"),
    ]
    assert given_of(choose(candidates, "How long is Brill Tower open?", Size.TINY, Floors())) == ["b"]


def test_one_process_is_enough_for_a_small_reader() -> None:
    choice = choose([task("a"), task("b", 0.8)], "3 June", Size.TINY, Floors())
    assert given_of(choice) == ["a"]
    assert why(choice, "b") == "another process fits better"


def test_what_may_not_be_given_says_why() -> None:
    barred = Candidate(Shard("a", Kind.CONTENT, fact="Ann chairs."), 0.9, 1.0, barred="not proven for core")
    choice = choose([barred], "Who chairs?", Size.TINY, Floors())
    assert given_of(choice) == [] and why(choice, "a") == "not proven for core"


def test_a_passage_is_given_once() -> None:
    shards = [Shard(id, Kind.CONTENT, fact=text, passage="Both of it.") for id, text in (("a", "One."), ("b", "Two."))]
    choice = choose([Candidate(one, 0.9, 1.0) for one in shards], "What?", Size.LARGE, Floors())
    assert given_of(choice) == ["a"]


words = st.lists(
    st.sampled_from("Ann Otto tower board open five nine is the of chairs warden 7 12".split()), min_size=1
)
candidates = st.lists(
    st.builds(
        lambda id, text, cosine, score: fact(id, " ".join(text), cosine, score),
        st.text("abcdef0123456789", min_size=8, max_size=8),
        words,
        st.floats(0, 1),
        st.floats(0, 1),
    ),
    max_size=12,
    unique_by=lambda one: one.shard.id,
)


@given(candidates, st.sampled_from(Size), st.none() | st.integers(1, 60))
def test_the_room_is_never_exceeded_and_each_candidate_is_accounted_for(
    found: list[Candidate], size: Size, tokens: int | None
) -> None:
    choice = choose(found, "Who chairs the board?", size, Floors(), tokens)
    assert len(choice.renderings) <= MOST_SHARDS
    assert sum(one.tokens for one in choice.renderings) <= min(ROOMS[size].tokens, tokens or ROOMS[size].tokens)
    assert [one.shard for one in choice.considered] == [one.shard.id for one in found]
    assert {one.shard for one in choice.considered if one.is_in} == set(given_of(choice)) == set(choice.shards)
    assert all(one.why for one in choice.considered)
