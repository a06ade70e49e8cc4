"""A document as passages under its headings and the sentences in them, and those sentences as content shards."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import PurePath

from gateway.shards import Kind, Shard
from gateway.shards.reading.documents import Document, Markup
from gateway.shards.reading.markdown import Outline, Paragraph, read_markdown
from gateway.shards.reading.plain_text import read_rst, read_text
from gateway.shards.reading.sentences import split_long, split_sentences
from gateway.tokens import estimate
from gateway.trace import new_id

MIN_PASSAGE_TOKENS, MAX_PASSAGE_TOKENS = 200, 400
CONTEXT_TOKENS = 150  # around a sentence, of its paragraph
MIN_WORDS = 4
MAX_SENTENCE_CHARS = 600
MAX_TITLE_CHARS = 200

BLANK = Shard(id="", kind=Kind.CONTENT)
_READERS = {Markup.MARKDOWN: read_markdown, Markup.TEXT: read_text, Markup.RST: read_rst}


@dataclass(frozen=True)
class Fact:
    """A sentence of a document.

    Args:
        text: the sentence.
        context: what stands around it in its paragraph, about 150 tokens; "" where it stands alone.
        title: "Document title > Heading".
        passage_hash: sha256 of the text of its passage.
    """

    text: str
    context: str
    title: str
    passage_hash: str


@dataclass(frozen=True)
class Passage:
    """Paragraphs that follow each other under one heading, 200 to 400 tokens where there are as many."""

    title: str
    paragraphs: tuple[tuple[str, ...], ...]  # of each the sentences

    @property
    def text(self) -> str:
        return "\n\n".join(" ".join(sentences) for sentences in self.paragraphs)

    @property
    def hash(self) -> str:
        return sha256(self.text.encode("utf-8", "replace")).hexdigest()


def passages_of(document: Document) -> list[Passage]:
    """In order; none crosses a heading."""
    outline = _READERS[document.markup](document.text)
    title = document.title or outline.title or PurePath(document.source).stem
    out: list[Passage] = []
    waiting: list[tuple[str, ...]] = []
    tokens, under = 0, ""
    for heading, sentences in _pieces(outline, title):
        size = sum(map(estimate, sentences))
        if waiting and (heading != under or tokens >= MIN_PASSAGE_TOKENS or tokens + size > MAX_PASSAGE_TOKENS):
            out.append(Passage(under, tuple(waiting)))
            waiting, tokens = [], 0
        waiting.append(sentences)
        tokens, under = tokens + size, heading
    return [*out, Passage(under, tuple(waiting))] if waiting else out


def _pieces(outline: Outline, title: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(title, sentences) of each paragraph; a longer one than a passage in parts."""
    for paragraph in outline.paragraphs:
        heading, part, tokens = _title(title, paragraph), list[str](), 0
        for sentence in _sentences(paragraph):
            size = estimate(sentence)
            if part and tokens + size > MAX_PASSAGE_TOKENS:
                yield heading, tuple(part)
                part, tokens = [], 0
            part.append(sentence)
            tokens += size
        if part:
            yield heading, tuple(part)


def _title(title: str, paragraph: Paragraph) -> str:
    headings = paragraph.headings[1:] if paragraph.headings[:1] == (title,) else paragraph.headings
    whole = " > ".join([title, *headings])
    return whole if len(whole) <= MAX_TITLE_CHARS else whole[: MAX_TITLE_CHARS - 1].rstrip() + "…"


def _sentences(paragraph: Paragraph) -> list[str]:
    return [sentence for part in paragraph.parts for sentence in split_sentences(part)]


def facts_of(document: Document) -> list[Fact]:
    """Each sentence that states something, once. Headings, fragments, questions and what is on every page are none."""
    out: dict[str, Fact] = {}
    for passage in passages_of(document):
        hash = passage.hash
        for sentences in passage.paragraphs:
            for place, sentence in enumerate(sentences):
                for text in split_long(sentence):
                    if is_fact(text) and (key := same_words(text)) not in out:
                        context = _around(sentences, place)
                        out[key] = Fact(text, "" if context == text else context, passage.title, hash)
    return list(out.values())


def shards_of(document: Document, like: Shard = BLANK, make_id: Callable[[], str] = new_id) -> Iterator[Shard]:
    """A content shard for each fact; tenant, scope, writer, lot and the like are those of `like`."""
    for fact in facts_of(document):
        yield replace(
            like,
            id=make_id(),
            kind=Kind.CONTENT,
            fact=fact.text,
            passage=fact.context,
            title=fact.title,
            source=document.source,
            source_hash=fact.passage_hash,
        )


def _around(sentences: tuple[str, ...], place: int) -> str:
    """The sentence with its neighbours, as many as there is room for."""
    first = last = place
    room = CONTEXT_TOKENS - estimate(sentences[place])
    grew = True
    while grew:
        grew = False
        for other in (first - 1, last + 1):
            if 0 <= other < len(sentences) and estimate(sentences[other]) <= room:
                room -= estimate(sentences[other])
                first, last, grew = min(first, other), max(last, other), True
    return " ".join(sentences[first : last + 1])


_BOILERPLATE = re.compile(
    r"all rights reserved|^(?:copyright\b|©|\(c\) ?\d)|\bcookies?\b.{0,60}\b(?:accept|consent|preferences|use)|"
    r"\b(?:accept|use)s? (?:of )?cookies\b|^(?:table of contents|back to top|skip to|jump to|click here|read more|"
    r"see (?:also|below|above|image|figure|fig\.|table|list)\b|sign up|log ?in|subscribe|share (?:this|on)|"
    r"follow us|privacy policy|terms of (?:use|service)|"
    r"advertisement|page \d+(?: of \d+)?$|retrieved (?:on )?\d|last (?:updated|modified|edited)|"
    r"this page was last|main article:|further information:|edit this page|previous\b.{0,40}\bnext$)",
    re.IGNORECASE,
)
_ENDED = re.compile(r"[.!…。！][\"”’»)\]]*$")
_DANGLING = re.compile(
    r"(?:[,([–—-]|\b(?:the|a|an|of|and|or|to|in|on|at|by|for|from|with|as|that|which|is|are|was|were|le|de|la))$"
)
_CONTINUED = re.compile(r"(?:where|and|or|which|but|with|such|whose|while|nor|than|so that|that|as well as)\b")
_SPACELESS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\u0e00-\u0e7f]")


def is_fact(sentence: str) -> bool:
    """Does a sentence state something that may be given to a model on its own?"""
    words = max(len(sentence.split()), len(_SPACELESS.findall(sentence)) // 2)
    if words < MIN_WORDS or len(sentence) > MAX_SENTENCE_CHARS:
        return False
    if sentence[-1] in ":?？" or sentence.rstrip('"”’)]')[-1:] == "?" or _BOILERPLATE.search(sentence):
        return False
    seen = [char for char in sentence if not char.isspace()]
    if 2 * sum(map(str.isalpha, seen)) < len(seen) and ": " not in sentence:
        return False
    return not _CONTINUED.match(sentence) and (_ENDED.search(sentence) is not None or _stands_unended(sentence))


def _stands_unended(sentence: str) -> bool:
    """Is it whole without a full stop, as an item of a list or a row of a table, rather than cut off, or a row of
    names?"""
    if _DANGLING.search(sentence) or sentence.count("(") > sentence.count(")"):
        return False
    words = [word for word in sentence.split() if word[0].isalpha()]
    return ": " in sentence or not words or any(word[0].islower() or not word[0].isupper() for word in words)


def same_words(text: str) -> str:
    """Equal for sentences that differ only in white space, case and marks at their ends."""
    return " ".join(text.casefold().split()).strip(" .!…\"'“”‘’")
