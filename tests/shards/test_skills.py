from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.checks import CHECKS
from gateway.config import plugins
from gateway.errors import InvalidRequest
from gateway.shards import Case, Example, Kind, Scope, Shard, State
from gateway.shards.reading.skills import (
    MAX_NAME,
    PORTABLE_CHECKS,
    TRAVELS,
    read_skill,
    skill_name,
    skill_of,
    skill_text,
    write_skill,
)

DATA = Path(__file__).parents[1] / "data" / "documents"
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
DATES = Shard(
    id="a" * 32,
    kind=Kind.PROCESS,
    tenant="acme",
    state=State.LIVE,
    title="Dates to ISO",
    trigger="Use when a date is to be written as ISO 8601.",
    questions=("What is 3 May 2020 in ISO?",),
    steps=("Find the day.", "Write YYYY-MM-DD."),
    examples=(Example("3 May 2020", "2020-05-03"), Example("1 June", "a\n```b\n- c\n```")),
    checks=("not_empty", {"regex": "^[0-9]"}),
    options=("a date", "none"),
    schema={"type": "object", "maxProperties": 3},
    cases=(Case(({"role": "user", "content": "a user's words"},), ("x",)),),
)


def skill(body: str, head: str = "name: dates\ndescription: Writes dates.") -> str:
    return f"---\n{head}\n---\n{body}"


def travelled(shard: Shard) -> dict[str, Any]:
    return {name: getattr(shard, name) for name in TRAVELS}


# -- from other tools --------------------------------------------------------------------------------------------------


def test_a_skill_of_another_tool_is_read_and_its_scripts_are_not() -> None:
    read = read_skill(
        DATA / "review-notes", Shard(id="", kind=Kind.PROCESS, tenant="acme", scope=Scope.GLOBAL, lot="l")
    )
    shard = read.shard
    assert (shard.kind, shard.tenant, shard.scope, shard.lot) == (Kind.PROCESS, "acme", Scope.GLOBAL, "l")
    assert shard.state is State.CANDIDATE and len(shard.id) == 32 and len(shard.source_hash) == 64
    assert shard.source == str(DATA / "review-notes")
    assert shard.title == "Review notes"
    assert shard.trigger == "Writes review notes for a change. Use when the user asks for a review."
    assert shard.steps == (
        "Read the whole change first.",
        "Name the worst fault: what happens; where",
        "Say what to change.",
    )
    assert shard.examples == (
        Example("The loop never ends.", "Fault: endless loop."),
        Example("a < b", "Fault: wrong sign."),
    )
    assert [path.name for path in read.references] == ["GUIDE.md"]
    assert read.left_out == (
        "code blocks: 1",
        "paragraphs: 1",
        "references/: add them as documents",
        "scripts/: code is never imported",
    )
    assert read_skill(DATA / "review-notes" / "SKILL.md").shard.steps == shard.steps
    assert not (DATA / "review-notes" / "scripts" / "run.sh.ran").exists()


@pytest.mark.parametrize(
    ("body", "steps"),
    [
        ("- one\n- two\n", ("one", "two")),
        ("- about it\n\n1. one\n2. two\n", ("one", "two")),
        ("1. about it\n\n## Workflow\n\n* one\n* two\n", ("one", "two")),
        ("# T\n\n## Step 1: one\n\nText.\n\n## Step 2 - two\n\n- detail\n", ("one", "two")),
        ("1) one\n   goes on\n\n   and on\n2) two\n", ("one goes on and on", "two")),
        ("1. one\n\n```\n2. code\n```\n\n2. two\n\n## References\n\n3. a book\n", ("one", "two")),
        ("1. one\n2. User: says who asks.\n", ("one", "User: says who asks.")),
    ],
)
def test_steps_are_the_list_that_says_so(body: str, steps: tuple[str, ...]) -> None:
    assert skill_of(skill(body)).shard.steps == steps


@pytest.mark.parametrize(
    "body",
    [
        "Input: 3 May\nOutput: 05-03\n",
        "**User:** 3 May\n\n**Assistant:** 05-03\n",
        "- Input: 3 May\n- Output: 05-03\n",
        "### Input\n\n```\n3 May\n```\n\n### Output\n\n~~~text\n05-03\n~~~\n",
        "## Examples\n\n```\n3 May\n```\n\nbecomes\n\n```\n05-03\n```\n",
        "Example 1\n\nQ: 3 May\nA: 05-03\n\nThis is how it is done.\n",
        "Input 1: as follows\n```\n3 May\n```\nOutput 1:\n```\n05-03\n```\n",
    ],
)
def test_examples_are_found_in_the_forms_that_people_use(body: str) -> None:
    assert skill_of(skill(body)).shard.examples == (Example("3 May", "05-03"),)


def test_more_than_a_shard_holds_is_left_out_and_told() -> None:
    body = "".join(f"{n}. step {n}\n" for n in range(1, 30)) + f"30. {'x' * 600}\n"
    read = skill_of(skill(body))
    assert read.shard.steps == tuple(f"step {n}" for n in range(1, 17))
    assert read.left_out == ("steps: 14, too many or too long",)


# -- there and back ----------------------------------------------------------------------------------------------------


def test_a_skill_is_readable_by_other_tools_and_holds_nothing_of_users(tmp_path: Path) -> None:
    path = write_skill(DATES, tmp_path)
    assert path == tmp_path / "dates-to-iso" / "SKILL.md"
    text = path.read_text()
    head = yaml.safe_load(text.split("---\n")[1])
    assert set(head) == {"name", "description", "metadata"}
    assert (head["name"], head["description"]) == ("dates-to-iso", DATES.trigger)
    assert all(isinstance(value, str) for value in head["metadata"].values())
    assert set(head["metadata"]) == {f"onion-gateway.{name}" for name in ("questions", "checks", "options", "schema")}
    assert "1. Find the day.\n2. Write YYYY-MM-DD." in text and "- a date\n- none" in text
    assert "a user's words" not in text and DATES.id not in text and "acme" not in text and "live" not in text
    back = read_skill(path.parent)
    assert travelled(back.shard) == travelled(DATES)
    assert back.shard.id != DATES.id and back.shard.state is State.CANDIDATE and not back.left_out


CHARS = st.characters(exclude_categories=("Cs", "Cc"), include_characters="\n\t")
TEXT = st.one_of(
    st.text(CHARS, min_size=1, max_size=60),
    st.sampled_from(
        [
            "- a",
            "1. a\n2. b",
            "```\nx\n```",
            "Input: a",
            "# b",
            "---",
            "<!-- c -->",
            " a  b ",
            "*a*",
            "[a](b)",
            "a:",
            "'",
        ]
    ),
).filter(str.strip)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
FLAT = TEXT.map(str.strip)
LISTS = st.lists(TEXT, max_size=4).map(tuple)
PROCESS = st.builds(
    Shard,
    id=st.just("b" * 32),
    kind=st.just(Kind.PROCESS),
    title=TEXT | st.just(""),
    trigger=TEXT | st.just("") | st.just("long " * 400),
    questions=LISTS,
    fact=FLAT | st.just(""),
    passage=FLAT | st.just(""),
    steps=LISTS,
    examples=st.lists(st.builds(Example, TEXT, TEXT), min_size=1, max_size=4).map(tuple),
    checks=st.lists(
        st.sampled_from(sorted(PORTABLE_CHECKS)) | st.builds(lambda value: {"regex": value}, JSON), max_size=3
    ).map(tuple),
    options=LISTS,
    schema=st.none() | st.dictionaries(TEXT, JSON, max_size=3),
)


@settings(max_examples=60, deadline=None)
@given(PROCESS)
def test_what_is_exported_and_imported_is_equal(shard: Shard) -> None:
    text = skill_text(shard)
    assert NAME.fullmatch(yaml.safe_load(text.split("\n---\n")[0])["name"])
    assert 1 <= len(yaml.safe_load(text.split("\n---\n")[0])["description"]) <= 1024
    back = skill_of(text)
    assert travelled(back.shard) == travelled(shard)
    assert skill_text(back.shard) == text


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=100), st.lists(st.text(max_size=8)))
def test_names_are_as_the_specification_has_them(title: str, trigger: list[str]) -> None:
    shard = replace(DATES, title=title, trigger=" ".join(trigger))
    taken: list[str] = []
    for _ in range(12):
        name = skill_name(shard, taken)
        assert NAME.fullmatch(name) and len(name) <= MAX_NAME and name not in taken
        taken.append(name)


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("title", ["../../etc/passwd", "/etc/passwd", "..", "a\0b", ".ssh", "C:\\x", "a/b"])
def test_no_title_leads_out_of_the_folder(title: str, tmp_path: Path) -> None:
    path = write_skill(replace(DATES, title=title), tmp_path / "skills")
    assert path.resolve().parent.parent == (tmp_path / "skills").resolve()
    assert travelled(read_skill(path).shard)["title"] == title if "\0" not in title else True


def test_nothing_is_overwritten_unasked_nor_written_through_links(tmp_path: Path) -> None:
    path = write_skill(DATES, tmp_path)
    with pytest.raises(InvalidRequest, match="is there already"):
        write_skill(DATES, tmp_path)
    assert write_skill(DATES, tmp_path, taken=["dates-to-iso"]).parent.name == "dates-to-iso-2"
    assert write_skill(DATES, tmp_path, overwrite=True) == path
    outside = tmp_path / "outside.txt"
    outside.write_text("kept")
    path.unlink()
    path.symlink_to(outside)
    with pytest.raises(InvalidRequest, match="cannot be written"):
        write_skill(DATES, tmp_path, overwrite=True)
    with pytest.raises(InvalidRequest, match="it is a link"):
        read_skill(path)
    (tmp_path / "linked").mkdir()
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "dates-to-iso").symlink_to(tmp_path / "linked")
    with pytest.raises(InvalidRequest, match="is a link"):
        write_skill(DATES, tmp_path / "more")
    assert outside.read_text() == "kept" and not list((tmp_path / "linked").iterdir())


BOMB = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no front matter", "begins with front matter"),
        ("---\nname: a\n", "begins with front matter"),
        (skill("", "- a\n- b"), "is a mapping"),
        (skill("- a", "name: a"), "needs 'description'"),
        (skill("- a", "name: 3\ndescription: b"), "needs 'name', a text"),
        (skill("Only prose."), "no steps"),
        (skill("- a", f"{BOMB}name: a\ndescription: b"), "too intricate"),
        (skill("- a", "name: a\ndescription: b\nx: " + "[" * 5000), "too intricate"),
        (skill("- a", "name: a\ndescription: b\nx: [" + "1," * 30_000 + "1]"), "too intricate"),
        (skill("- a", "name: a\ndescription: b\nx: " + "y" * 300_000), "more than 256 KB"),
        (
            skill("- a", "name: a\ndescription: !!python/object/apply:os.system [id]"),
            "is not YAML: could not determine",
        ),
        (skill("- a", "name: a\ndescription: Use when: asked"), "is not YAML: mapping values .* in its line 2"),
        (skill("- a", "name: a\ndescription: b\nx: 2020-99-99"), "is not YAML that can be read"),
        (skill("- a", "name: a\ndescription: b\nx: " + "9" * 5000), "is not YAML that can be read"),
    ],
)
def test_front_matter_that_is_wrong_or_hostile_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        skill_of(text)


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("steps", "[1]", "steps[0]"),
        ("steps", "[", "metadata.onion-gateway.steps"),
        ("schema", "[]", "schema"),
        ("examples", '[{"user": "a"}]', "examples[0].assistant"),
        ("title", '"a\\u0000"', "title"),
        ("checks", "3", "checks"),
    ],
)
def test_values_of_ours_that_are_wrong_are_refused(field: str, value: str, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        skill_of(skill("- a", f"name: a\ndescription: b\nmetadata: {{onion-gateway.{field}: '{value}'}}"))
    assert caught.value.param == param


def test_checks_that_could_act_are_not_taken_from_a_file() -> None:
    checks = '["not_empty", {"python": "import os"}, {"http": "http://10.0.0.1"}, {"a": 1, "b": 2}, 3]'
    read = skill_of(skill("- a", f"name: a\ndescription: b\nmetadata: {{onion-gateway.checks: '{checks}'}}"))
    assert read.shard.checks == ("not_empty",)
    assert len(read.left_out) == 4 and "check 'python': it is not taken from a file" in read.left_out


def test_what_is_portable_is_a_check() -> None:
    plugins.load()
    assert CHECKS.keys() >= PORTABLE_CHECKS


def test_only_process_shards_are_skills() -> None:
    with pytest.raises(InvalidRequest, match="only process shards"):
        skill_text(Shard(id="c" * 32, kind=Kind.CONTENT, fact="The crane is old."))


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="there is no"):
        read_skill(tmp_path)
    os.mkfifo(tmp_path / "SKILL.md")
    with pytest.raises(InvalidRequest, match="is not a file"):
        read_skill(tmp_path)
    (tmp_path / "SKILL.md").unlink()
    (tmp_path / "SKILL.md").write_bytes(b"---\0" * 100)
    with pytest.raises(InvalidRequest, match="binary data"):
        read_skill(tmp_path)
    (tmp_path / "SKILL.md").write_bytes(b"x" * (3 * 2**20))
    with pytest.raises(InvalidRequest, match="more than 2 MB"):
        read_skill(tmp_path)
