from __future__ import annotations

import io
import os
import socket
import zipfile
from dataclasses import replace
from hashlib import sha256
from importlib.util import find_spec
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.shards import Kind, Scope, Shard, State
from gateway.shards.reading import documents as documents_module
from gateway.shards.reading.documents import Document, Markup, Skipped, decode, read_documents
from gateway.shards.reading.facts import CONTEXT_TOKENS, MAX_PASSAGE_TOKENS, facts_of, is_fact, passages_of, shards_of
from gateway.shards.reading.formats import INSTALL, Unreadable, convert
from gateway.shards.reading.formats_child import without_running_lines
from gateway.shards.reading.reingest import Plan, plan
from gateway.tokens import estimate

DATA = Path(__file__).parents[1] / "data" / "documents"


def read(*paths: Path) -> tuple[list[Document], dict[str, str]]:
    """The documents, and why others are left out, by name."""
    found = list(read_documents(paths))
    skipped = {Path(one.source).name: one.why for one in found if isinstance(one, Skipped)}
    return [one for one in found if isinstance(one, Document)], skipped


def facts(text: str, markup: Markup = Markup.MARKDOWN) -> list[str]:
    return [fact.text for fact in facts_of(Document("notes.md", text, markup))]


# -- what a document says ----------------------------------------------------------------------------------------------


def test_markdown_gives_its_sentences_items_and_rows_and_nothing_else() -> None:
    [handbook], _ = read(DATA / "handbook.md")
    assert [
        (fact.title.removeprefix("Depot handbook").removeprefix(" > "), fact.text) for fact in facts_of(handbook)
    ] == [
        ("", "The depot in Lindau opened in 1974."),
        ("", "It has 12 gates, e.g. for lorries from the U.S. Army."),
        ("Opening hours", "The gates open at 5 a.m."),
        ("Opening hours", "Visitors sign in at gate 3."),
        ("Opening hours", "a valid badge of the depot"),
        ("Opening hours", "a helmet that is not older than five years"),
        ("Opening hours", "Gate: 1; Opens: 5:00; Keeper: Ada Byron"),
        ("Opening hours", "Gate: 2; Keeper: Grace Hopper"),
        ("Fire drills", "Fire drills take place on the first Monday of a month."),
        (
            "Fire drills",
            "They last c. 20 minutes; nobody may leave the yard before the count is done, and the keeper of gate 1 has"
            " signed the list of all people who were inside; the gates were closed for the time being, and no lorry was"
            " let in.",
        ),
    ]


def test_plain_text_and_restructured_text_have_headings_too() -> None:
    (guide, notes), _ = read(DATA / "guide.rst", DATA / "notes.txt")
    assert [(fact.title, fact.text) for fact in facts_of(guide)] == [
        ("Cranes", "The yard crane was built by Demag in 1974."),
        ("Cranes > Brakes", "The brakes are checked before each shift."),
    ]
    assert [(fact.title, fact.text) for fact in facts_of(notes)] == [
        ("THE LINDAU DEPOT", "The crane lifts up to 40 tonnes."),
        ("THE LINDAU DEPOT", "Its operator sits 28.5 m above the yard."),
        ("THE LINDAU DEPOT > 2.1 Maintenance", "The crane is greased every Friday"),
    ]


def test_a_shard_has_its_paragraph_around_it_and_the_hash_of_its_passage() -> None:
    text = "# Cranes\n\nThe crane is old. It was built in 1974. Demag built the crane.\n\nOne sentence stands alone."
    document = Document("docs/cranes.md", text)
    like = Shard(id="", kind=Kind.CONTENT, tenant="acme", scope=Scope.GLOBAL, lot="l1", needs_review=True)
    shards = list(shards_of(document, like))
    assert [shard.passage for shard in shards] == [
        "The crane is old. It was built in 1974. Demag built the crane."
    ] * 3 + [""]
    assert {shard.source for shard in shards} == {"docs/cranes.md"}
    passage = "The crane is old. It was built in 1974. Demag built the crane.\n\nOne sentence stands alone."
    assert {shard.source_hash for shard in shards} == {sha256(passage.encode()).hexdigest()}
    assert shards[1].keys == ("Cranes: It was built in 1974.",)
    assert {(one.kind, one.tenant, one.scope, one.lot, one.needs_review) for one in shards} == {
        (Kind.CONTENT, "acme", Scope.GLOBAL, "l1", True)
    }
    assert len({shard.id for shard in shards}) == 4


def test_a_list_keeps_the_line_that_introduces_it_in_its_passage() -> None:
    first, second = facts_of(
        Document("a.md", "# Crew\n\nA driver needs:\n\n- a badge of the depot\n- a helmet of plastic\n")
    )
    assert first.context == second.context == "A driver needs: a badge of the depot a helmet of plastic"


def test_what_stands_around_a_sentence_is_cut() -> None:
    text = " ".join(f"The crane number {n} was built in the year {1900 + n} by some firm." for n in range(99))
    made = facts_of(Document("a.md", text))
    assert len(made) == 99
    assert all(fact.text in fact.context and estimate(fact.context) <= CONTEXT_TOKENS + 20 for fact in made)
    assert made[50].context.startswith("The crane number 4")


def test_passages_are_of_a_size_and_never_cross_a_heading() -> None:
    paragraph = " ".join(f"The crane number {n} was built in the year {1900 + n} by some firm." for n in range(6))
    long = paragraph * 9
    text = "\n\n".join(["# One", *[paragraph] * 7, "## Two", paragraph, long])
    made = passages_of(Document("a.md", text))
    sizes = [(passage.title, estimate(passage.text)) for passage in made]
    assert all(size <= MAX_PASSAGE_TOKENS + 5 for _, size in sizes)
    assert [title for title, _ in sizes if title == "One"] and sizes[-1][0] == "One > Two"
    assert all(size >= 180 for _, size in sizes[:2])


@pytest.mark.parametrize(
    "sentence",
    [
        "Too short.",
        "Who may enter the yard?",
        "Drivers need these things:",
        "Copyright 2024 by the depot.",
        "We use cookies to improve your visit.",
        "where F is the force on it.",
        "12 345 678 90 --- 12 345",
        "Home Products About Contact",
        "They were seen in the",
        "It was built by Demag (in the",
        "x " * 400,
    ],
)
def test_what_states_nothing_is_no_fact(sentence: str) -> None:
    assert not is_fact(sentence)
    assert facts(f"The crane is very old.\n\n{sentence}\n") == ["The crane is very old."]


def test_a_sentence_that_stands_twice_is_one_fact() -> None:
    assert facts("The crane is old now.\n\n## More\n\n*The crane  is old now*\n\nThe Crane is old now!") == [
        "The crane is old now."
    ]


def test_scripts_without_spaces_between_words_give_facts() -> None:
    assert facts("# 河\n\n莱茵河流经六个国家。它长一千二百公里。") == ["莱茵河流经六个国家。", "它长一千二百公里。"]


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="# \n-|`>*_[](1.a B:\t~=<!", max_size=120), st.sampled_from(Markup))
def test_any_text_can_be_read(text: str, markup: Markup) -> None:
    for fact in facts_of(Document("a", text, markup)):
        assert is_fact(fact.text)


# -- files and folders -------------------------------------------------------------------------------------------------


def test_folders_are_read_in_order_and_what_is_left_out_is_told(tmp_path: Path) -> None:
    for name in ("b.md", "a.TXT", "sub/c.rst", ".hidden/d.md", ".e.md", "f.png", "README"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("The crane is old.")
    (tmp_path / "g.md").write_bytes(b"\x89PNG\r\n\x00\x00 not text")
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)
    (tmp_path / "sub" / "again.md").symlink_to(tmp_path / "b.md")
    (tmp_path / "broken.md").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.md")
    found, skipped = read(tmp_path, tmp_path / "missing.md", tmp_path / ".e.md", Path("a\0b.md"))
    assert [Path(document.source).relative_to(tmp_path).as_posix() for document in found] == [
        "a.TXT", "b.md", "sub/c.rst", ".e.md",
    ]  # fmt: skip
    assert "is hidden" in skipped[".hidden"] and "is hidden" in skipped[".e.md"]
    assert skipped["f.png"].startswith("'.png' files are not read; documents are .md,")
    assert skipped["README"].startswith("files without a suffix")
    assert skipped["g.md"] == "it is not text but binary data"
    assert skipped["loop"] == skipped["again.md"] == "it has been read under another name"
    assert skipped["broken.md"] == skipped["missing.md"] == "there is no such file"
    assert skipped["pipe.md"] == "it is not a file"
    assert "null" in skipped["a\0b.md"]


def test_a_socket_and_what_may_not_be_read_are_told_of(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(tmp_path / "s.md"))
        assert read(tmp_path)[1] == {"s.md": "it is not a file"}
    if os.geteuid() != 0:
        (tmp_path / "t.md").touch(0)
        assert "Permission denied" in read(tmp_path / "t.md")[1]["t.md"]


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(tmp_path / "large.md", "wb") as file:
        file.truncate(33 * 2**20)
    assert read(tmp_path)[1] == {"large.md": "it has 33 MB; at most 32 are read"}
    monkeypatch.setattr(documents_module, "_read_folder", None)
    monkeypatch.setattr(os, "fstat", lambda number: os.stat(tmp_path / "large.md"))
    monkeypatch.setattr(documents_module, "MAX_BYTES", 2**20)
    with pytest.raises(Unreadable, match="more than 1 MB"):
        documents_module._bytes_of(tmp_path / "large.md")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be-bom", "utf-32", "cp1252", "latin-1"])
def test_text_is_read_in_the_encodings_that_files_have(encoding: str) -> None:
    text = "Lindau – Größe: “5 €”.\nZwei."
    if encoding == "latin-1":
        text = "Größe \x81 und mehr Text, der kein Zeichen wie dieses hat.\nZwei."
    if encoding == "utf-16-be-bom":
        data = b"\xfe\xff" + text.encode("utf-16-be")
    else:
        data = text.replace("\n", "\r\n").encode(encoding)
    assert decode(data) == text


@pytest.mark.parametrize("data", [b"a\0b", bytes(range(256)) * 9, b"\xff\xfea", "a\0b".encode("utf-16")])
def test_binary_data_is_not_text(data: bytes) -> None:
    with pytest.raises(Unreadable, match="it is not"):
        decode(data)


# -- other formats -----------------------------------------------------------------------------------------------------

TYPES = """<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">
<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>
<Default Extension="xml" ContentType="application/xml"/><Override PartName="/word/document.xml"
 ContentType="application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/></Types>"""
RELATIONS = """<?xml version="1.0"?>
<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="r1"
 Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument"
 Target="word/document.xml"/></Relationships>"""
WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"


def docx(heading: str, text: str, times: int = 1) -> bytes:
    """A Word document; its text so many times over."""
    style = '<w:pPr><w:pStyle w:val="Heading1"/></w:pPr>'
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", TYPES)
        archive.writestr("_rels/.rels", RELATIONS)
        with archive.open("word/document.xml", "w") as file:
            file.write(f'<w:document xmlns:w="{WORD}"><w:body>'.encode())
            file.write(f"<w:p>{style}<w:r><w:t>{heading}</w:t></w:r></w:p>".encode())
            for _ in range(times):
                file.write(f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>".encode())
            file.write(b"</w:body></w:document>")
    return out.getvalue()


def pdf(lines: list[str]) -> bytes:
    content = "BT /F1 12 Tf 72 720 Td 14 TL " + " ".join(f"({line}) Tj T*" for line in lines) + " ET"
    objects = [
        "<</Type/Catalog/Pages 2 0 R>>",
        "<</Type/Pages/Kids[4 0 R]/Count 1>>",
        "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
        "<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Resources<</Font<</F1 3 0 R>>>>/Contents 5 0 R>>",
        f"<</Length {len(content)}>>stream\n{content}\nendstream",
    ]
    out, places = "%PDF-1.4\n", []
    for number, written in enumerate(objects, start=1):
        places.append(len(out))
        out += f"{number} 0 obj{written}\nendobj\n"
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    end = f"trailer<</Size 6/Root 1 0 R>>\nstartxref\n{len(out)}\n%%EOF"
    return f"{out}xref\n0 6\n0000000000 65535 f \n{table}{end}".encode()


def test_without_the_extra_the_message_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.shards.reading.formats.find_spec", lambda name: None)
    (tmp_path / "a.pdf").write_bytes(pdf(["The crane is old."]))
    assert read(tmp_path)[1] == {"a.pdf": f"'.pdf' files are read by markitdown, which is not installed: {INSTALL}"}


def test_html_pdf_and_word_are_read(tmp_path: Path) -> None:
    pytest.importorskip("markitdown")
    (tmp_path / "a.docx").write_bytes(docx("Cranes", "The yard crane was built in 1974. It is old now."))
    (tmp_path / "b.pdf").write_bytes(pdf(["The yard crane was", "built in 1974. It is old now."]))
    page = "<title>Yard</title><h1>Cranes</h1><script>x</script><p>The <b>crane</b> was made in K\xf6ln.</p>"
    (tmp_path / "c.html").write_bytes(page.encode("latin-1"))
    found, skipped = read(tmp_path)
    assert not skipped
    said = [[(fact.title, fact.text) for fact in facts_of(document)] for document in found]
    assert said == [
        [("Cranes", "The yard crane was built in 1974."), ("Cranes", "It is old now.")],
        [("b", "The yard crane was built in 1974."), ("b", "It is old now.")],
        [("Yard > Cranes", "The crane was made in Köln.")],
    ]


def test_a_broken_file_and_one_that_takes_too_long_are_told_of() -> None:
    if find_spec("markitdown") is None:
        pytest.skip("markitdown is not installed")
    with pytest.raises(Unreadable, match=r"cannot be read as '\.docx': BadZipFile"):
        convert(b"PK\3\4 no archive", ".docx")
    with pytest.raises(Unreadable, match="not read within 0.01 s"):
        convert(b"<p>The crane is old.</p>", ".html", timeout_s=0.01)
    with pytest.raises(Unreadable, match="no text in it"):
        convert(b"<p> </p>", ".html")


@pytest.mark.slow
def test_a_document_that_unpacks_to_more_than_the_memory_it_may_have_is_refused() -> None:
    pytest.importorskip("markitdown")
    with pytest.raises(Unreadable, match="too much memory"):
        convert(docx("Cranes", "a" * 2**20, times=1900), ".docx")


def test_lines_that_head_and_foot_each_page_go() -> None:
    pages = [f"Depot handbook\nThe crane {n} is old.{'!' * n}\nPage {n} of 3" for n in (1, 2, 3)]
    assert without_running_lines("\n".join(pages)).split("\n") == [f"The crane {n} is old.{'!' * n}" for n in (1, 2, 3)]


# -- read again --------------------------------------------------------------------------------------------------------


def again(text: str, existing: tuple[Shard, ...] = (), now: float = 100.0) -> Plan:
    ids = count()
    return plan(Document("a.md", text), existing, now=now, make_id=lambda: f"{now:g}-{next(ids)}")


def test_only_what_changed_is_new_and_what_it_replaces_is_retired() -> None:
    first = again("# Cranes\n\nThe crane is old. Demag built it in 1974. It lifts 40 tonnes.", now=1)
    live = tuple(replace(shard, state=State.LIVE) for shard in first.add)
    second = again(
        "# Cranes\n\nThe crane is old. Demag built it in 1975. Nobody has seen any other crane.", live, now=2
    )
    assert [(shard.id, shard.state) for shard in second.keep] == [("1-0", State.LIVE)]
    kept = second.keep[0]
    assert "1975" in kept.passage and kept.version == 2 and kept.source_hash == second.add[0].source_hash
    assert [(shard.fact, shard.supersedes) for shard in second.add] == [
        ("Demag built it in 1975.", "1-1"),
        ("Nobody has seen any other crane.", None),
    ]
    assert [(shard.id, shard.state, shard.valid_to, shard.why) for shard in second.supersede] == [
        ("1-1", State.RETIRED, 2, f"edited in its source: see {second.add[0].id}"),
        ("1-2", State.RETIRED, 2, "no longer in its source"),
    ]


def test_an_unchanged_document_changes_nothing() -> None:
    text = "# Cranes\n\nThe crane is old. Demag built it in 1974."
    first = again(text)
    assert again(text, first.add) == Plan((), first.add, ())


def test_a_sentence_retired_for_harm_is_not_added_again_but_one_that_comes_back_is() -> None:
    text = "The crane is old now."
    (shard,) = again(text, now=1).add
    harmful = replace(shard, state=State.RETIRED, why="harm")
    assert again(text, (harmful,), now=2) == Plan((), (harmful,), ())
    gone = again("Nothing is left of it.", (shard,), now=2).supersede
    assert [one.fact for one in again(text, gone, now=3).add] == [text]
    (closed,) = again("Nothing is left of it.", (harmful,), now=2).supersede
    assert (closed.valid_to, closed.why) == (2, "harm")


SENTENCES = st.lists(st.sampled_from([f"The crane number {n} is old." for n in range(9)]), max_size=12)
TEXTS = st.lists(st.tuples(st.sampled_from(["# One", "## Two", ""]), SENTENCES), max_size=4).map(
    lambda parts: "\n\n".join(f"{heading}\n\n{' '.join(sentences)}" for heading, sentences in parts)
)


@settings(max_examples=60, deadline=None)
@given(TEXTS, TEXTS)
def test_reading_one_version_then_another_is_as_reading_the_other(old: str, new: str) -> None:
    before = again(old, now=1).add
    made = again(new, before, now=2)
    alone = again(new, now=3).add
    now = sorted((*made.keep, *made.add), key=lambda shard: shard.fact)
    texts = [(one.fact, one.passage, one.title, one.source_hash) for one in now]
    assert texts == sorted((one.fact, one.passage, one.title, one.source_hash) for one in alone)
    ids = {shard.fact: shard.id for shard in before}
    assert all(shard.id == ids[shard.fact] for shard in made.keep)
    assert {shard.fact for shard in made.keep} == ids.keys() & {shard.fact for shard in alone}
    assert {one.id for one in made.supersede} == {one.id for one in before} - {one.id for one in made.keep}
    assert all(shard.state is State.RETIRED and shard.valid_to == 2 for shard in made.supersede)
