"""Shards are data: what could speak to a model as a turn of its own is taken out, and what reads like an instruction
waits for somebody to look at it."""

from __future__ import annotations

import base64
import binascii
import codecs
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

from gateway.shards import Case, Example, Json, Kind, Shard
from gateway.shards.safety.control_tokens import clean, has_marks, skeleton_of, visible
from gateway.shards.safety.suspicions import FORMS, OVERRIDE, matching

__all__ = ["clean", "screened", "suspect", "urls_in"]

MARKS = "holds marks of a chat template"
HIDDEN = "holds characters that are not seen"
ENCODED = "encoded: "
URL_IN_PROCESS = "a process shard that carries a URL"
CHECK_IN_PROCESS = "a process shard whose check runs code or asks elsewhere"
LOOKED_AT = 20_000  # characters

TAGS_OR_DIRECTION = re.compile(
    "[\U000e0000-\U000e007f\u202a-\u202e\u2066-\u2069]|(?<=[a-zA-Z])[\u200b-\u200d\u2060\u00ad](?=[a-zA-Z|])"
)
SPACED_OUT = re.compile(r"(?<!\w)(?:[a-z0-9][\s._*-]{1,4}){5,}[a-z0-9](?!\w)")
FUSED = re.compile(r"(ignore|disregard|forget)(all|the|your)?(previous|prior|above)?(instructions|rules|prompts?)")
BASE64 = re.compile(r"(?<![\w+/=])[A-Za-z0-9+/_-]{24,}={0,2}(?![\w+/=])")
HEXADECIMAL = re.compile(r"(?<![0-9a-fA-F])(?:[0-9a-fA-F]{2}){16,}(?![0-9a-fA-F])")
LEET = str.maketrans("013457@$!|", "oieastasil")
URLS = re.compile(
    r"(?:\b(?:https?|hxxps?|ftp|wss?|file)://|\bwww\.(?=\w))[^\s<>\"'`)\]}]+|\b(?:data|javascript|vbscript):[^\s<>\"')]+"
    r"|(?<=\()//[\w-]+\.[^\s)]+",
    re.IGNORECASE,
)
REACHING_CHECKS = frozenset({"http", "python", "judge", "code_runs"})


def suspect(text: str, *, is_procedure: bool = False) -> str | None:
    """Why a text looks like an instruction to the model rather than data; None where it does not.

    Args:
        is_procedure: it says how a task is done, so it may say what answers look like.
    """
    text = text[:LOOKED_AT]
    if has_marks(text):
        return MARKS
    if TAGS_OR_DIRECTION.search(text):
        return HIDDEN
    for reason in _reasons(text):
        if not (is_procedure and reason in FORMS):
            return reason
    return next(_encoded(text), None)


def _reasons(text: str) -> Iterator[str]:
    words = plain(text)
    yield from matching(words)
    if not text.isascii():  # in other alphabets nothing has to look like ASCII
        yield from matching(re.sub(r"\s+", " ", unicodedata.normalize("NFKC", visible(text)).lower()).strip())
    for other in dict.fromkeys((_unmarked(words), _joined(text), _unleet(words))):
        if other and other != words:
            yield from matching(other)


def plain(text: str) -> str:
    """Lower case, look-alikes read, every blank single, for patterns."""
    return re.sub(r"\s+", " ", skeleton_of(visible(text)).text.lower()).strip()


def _unmarked(words: str) -> str:
    """Without Markdown, comments and hyphens between words."""
    return re.sub(r"\s+", " ", re.sub(r"[*_`~#<>/\\|]+|(?<=\w)-(?=\w)|<!--|-->", " ", words)).strip()


def _joined(text: str) -> str:
    """W o r d s written like this, as words again: where two blanks stand between them, else one known line of them."""
    spaced = skeleton_of(visible(text)).text.lower()
    found = SPACED_OUT.search(spaced)
    if not found:
        return ""
    words = [re.sub(r"[\s._*-]", "", word) for word in re.split(r"[\s._*-]{2,}", found.group())]
    return FUSED.sub(r"\1 \2 \3 \4", " ".join(words))


def _unleet(words: str) -> str:
    return re.sub(r"\b(?=\w*[a-z])(?=\w*[0-9@$!|])[\w@$!|]{3,}", lambda word: word.group().translate(LEET), words)


def _encoded(text: str) -> Iterator[str]:
    """Reasons for what is in it in base64, hexadecimal, percent signs, ROT13 or back to front."""
    readings: list[str] = [unquote(text)] if "%" in text else []
    readings += [decoded for blob in BASE64.findall(text) if (decoded := _decoded(blob, _from_base64))]
    readings += [decoded for blob in HEXADECIMAL.findall(text) if (decoded := _decoded(blob, bytes.fromhex))]
    for reading in readings:
        if reading != text:
            yield from (ENCODED + reason for reason in matching(plain(reading)))
    for turned in (codecs.encode(text, "rot13"), text[::-1]):
        yield from (ENCODED + reason for reason in matching(plain(turned)) if reason == OVERRIDE)


def _from_base64(blob: str) -> bytes:
    padded = blob.rstrip("=")
    return base64.urlsafe_b64decode((padded + "=" * (-len(padded) % 4)).replace("+", "-").replace("/", "_"))


def _decoded(blob: str, decode: Callable[[str], bytes]) -> str:
    try:
        text = decode(blob).decode()
    except (binascii.Error, ValueError):
        return ""  # a hash, a name: no text
    return text if text.isprintable() or "\n" in text else ""


def urls_in(text: str) -> tuple[str, ...]:
    """What a client could be made to fetch, in the order it stands there; "www." addresses too."""
    return tuple(dict.fromkeys(url.rstrip(".,;:!?*_") for url in URLS.findall(skeleton_of(visible(text)).text)))


def screened(shard: Shard) -> tuple[Shard, tuple[str, ...]]:
    """The shard with every text cleaned, and why it has to wait for review; no reasons: it need not.

    With reasons it comes back as `needs_review`, and says why.
    """
    reasons = tuple(dict.fromkeys(_faults(shard)))
    shard = _cleaned(shard)
    if not reasons:
        return shard, ()
    return replace(shard, needs_review=True, why="; ".join(reasons)), reasons


def _cleaned(shard: Shard) -> Shard:
    return replace(
        shard,
        title=clean(shard.title),
        trigger=clean(shard.trigger),
        fact=clean(shard.fact),
        passage=clean(shard.passage),
        slot=clean(shard.slot),
        source=clean(shard.source),
        why=clean(shard.why),
        questions=tuple(map(clean, shard.questions)),
        steps=tuple(map(clean, shard.steps)),
        options=tuple(map(clean, shard.options)),
        examples=tuple(Example(clean(one.user), clean(one.assistant)) for one in shard.examples),
        checks=tuple(_walked(shard.checks)),
        schema=_walked(shard.schema),
        cases=tuple(map(_clean_case, shard.cases)),
    )


def _clean_case(case: Case) -> Case:
    messages: tuple[Json, ...] = tuple(_walked(message) for message in case.messages)
    return replace(
        case, messages=messages, accepted=tuple(map(clean, case.accepted)), fields=_walked(dict(case.fields))
    )


def _walked(value: Any) -> Any:
    """JSON with its texts cleaned, keys too."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {clean(key) if isinstance(key, str) else key: _walked(item) for key, item in value.items()}
    return [_walked(item) for item in value] if isinstance(value, (list, tuple)) else value


def _faults(shard: Shard) -> Iterator[str]:
    is_procedure = shard.kind is Kind.PROCESS
    for text in _texts(shard):
        reason = suspect(text, is_procedure=is_procedure)
        if reason:
            yield reason
    if is_procedure:
        yield from _process_faults(shard)


def _texts(shard: Shard) -> Iterator[str]:
    yield from (shard.title, shard.trigger, shard.fact, shard.passage, *shard.questions, *shard.steps, *shard.options)
    yield from (text for one in shard.examples for text in (one.user, one.assistant))
    yield from _strings(shard.schema)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _strings(key)
            yield from _strings(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item)


def _process_faults(shard: Shard) -> Iterator[str]:
    """No URL but those that an example's own question holds: answers may pick them out."""
    told = (shard.title, shard.trigger, shard.fact, shard.passage, *shard.questions, *shard.steps, *shard.options)
    if any(map(urls_in, (*told, *_strings(shard.schema), *_strings(shard.checks)))):
        yield URL_IN_PROCESS
    elif any(url not in one.user for one in shard.examples for url in urls_in(one.assistant)):
        yield URL_IN_PROCESS
    names = [check if isinstance(check, str) else next(iter(check), "") for check in shard.checks if check]
    if any(name in REACHING_CHECKS for name in names):
        yield CHECK_IN_PROCESS
