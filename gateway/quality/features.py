"""What can be seen of a draft before anybody else has answered: numbers, for the combiner.

A feature that is not there is left out. None is a text, or can be read back into one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gateway.chat import ChatRequest, text_of
from gateway.given import ADAPTER, FACT, Adapted, Given
from gateway.stems import stem
from gateway.trace import Trace

WINDOW = 16  # tokens
LEAST_CERTAIN = 0.1  # quantile
NO_CHANCE = -30.0  # what an impossible token counts as
SOFT_CHECKS = ("agreement", "grounded", "judge", "used_shard", "logprob")
RELATIVE = re.compile(r"\b(?:today|tomorrow|tonight|yesterday|next|last|this|now|ago)\b", re.IGNORECASE)
WORD = re.compile(r"[^\W_]+")
NUMBER = re.compile(r"\d+(?:[.,:/-]\d+)*")
ASKS_NUMBER = re.compile(
    r"\b(?:when|how (?:many|much|long|old|far|often)|(?:what|which) (?:year|date|day|time))\b", re.I
)
NAME = re.compile(r"(?<![.!?]\s)(?<!^)\b[^\W\d_a-z][\w'’-]+")


def features_of(request: ChatRequest, answer_body: Mapping[str, Any], trace: Trace) -> dict[str, float]:
    """Args:
    answer_body: the draft, as a `chat.completion` with the log-probabilities that the model gave.
    trace: of the tier that the draft comes from.
    """
    choices = answer_body.get("choices") or [{}]
    choice = min(choices, key=_mean_logprob)  # of several, the least certain
    message = choice.get("message") or {}
    text = text_of(message.get("content"))
    features = _of_trace(trace)
    given = _given_in(trace)
    if given is not None:
        features |= _of_shards(given, text)
    features |= _of_tokens(choice)
    features |= _of_kind(request, message, text, "typed_p" in features, given is not None and bool(given.notes))
    prompt = "\n".join(said for _, said in request.turns)
    features["answer_words"] = _log_words(text)
    features["prompt_words"] = _log_words(prompt)
    told = set(NUMBER.findall(text)) | set(NAME.findall(text))
    if told:
        features["told_in_prompt"] = sum(one in prompt for one in told) / len(told)
    features["is_relative"] = float(RELATIVE.search(text) is not None)  # which day "tomorrow" is, hangs on when
    features["has_number"] = float(any(map(str.isdigit, text)))
    features["is_cut"] = float(choice.get("finish_reason") == "length")
    return features


def _of_tokens(choice: Mapping[str, Any]) -> dict[str, float]:
    tokens = _tokens(choice)
    logprobs = [_logprob(token) for token in tokens]
    known = [logprob for logprob in logprobs if logprob is not None]
    if not known:
        return {}
    ranked = sorted(known)
    margins = [margin for token in tokens if (margin := _margin(token)) is not None]
    features = {
        "logprob_mean": sum(known) / len(known),
        "logprob_min": ranked[0],
        "logprob_q10": ranked[int(LEAST_CERTAIN * (len(ranked) - 1))],
        "logprob_window": min(_window_means(known)),
        "tokens": math.log1p(len(known)),
    }
    if margins:
        features["logprob_margin"] = sum(margins) / len(margins)
    return features


def _tokens(choice: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    content = (choice.get("logprobs") or {}).get("content")
    return [token for token in content if isinstance(token, Mapping)] if isinstance(content, list) else []


def _logprob(token: Mapping[str, Any]) -> float | None:
    value = token.get("logprob")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        return None
    return min(0.0, max(NO_CHANCE, float(value)))


def _mean_logprob(choice: Mapping[str, Any]) -> float:
    known = [logprob for token in _tokens(choice) if (logprob := _logprob(token)) is not None]
    return sum(known) / len(known) if known else 0.0


def _margin(token: Mapping[str, Any]) -> float | None:
    """By how much the likeliest token is likelier than the next."""
    top = token.get("top_logprobs")
    values = [_logprob(one) for one in top if isinstance(one, Mapping)] if isinstance(top, list) else []
    known = sorted(value for value in values if value is not None)
    return known[-1] - known[-2] if len(known) > 1 else None


def _window_means(values: Sequence[float]) -> Iterator[float]:
    total = sum(values[:WINDOW])
    width = min(WINDOW, len(values))
    yield total / width
    for place in range(width, len(values)):
        total += values[place] - values[place - width]
        yield total / width


def _of_kind(
    request: ChatRequest, message: Mapping[str, Any], text: str, is_typed: bool, has_notes: bool
) -> dict[str, float]:
    wanted = request.body.get("response_format")
    is_json = isinstance(wanted, Mapping) and wanted.get("type") in ("json_object", "json_schema")
    if message.get("tool_calls") or message.get("function_call"):
        kind = "kind_tool"
    elif is_typed:
        kind = "kind_closed"
    elif is_json or text.strip()[:1] in ("{", "["):
        kind = "kind_json"
    elif has_notes:
        kind = "kind_noted"
    else:
        kind = "kind_text"
    return {kind: 1.0}


def _of_trace(trace: Trace) -> dict[str, float]:
    """What typed decoding, checks and shards left there; of several hops, the last one's."""
    features: dict[str, float] = {}
    for hop in trace.walk():
        facts = hop.facts or {}
        for name in SOFT_CHECKS if hop.kind == "tier" else ():
            if _is_number(facts.get(name)):
                features[f"check_{name}"] = float(facts[name])
        typed = facts.get("typed")
        if isinstance(typed, Mapping):
            features |= {f"typed_{name}": float(typed[name]) for name in ("p", "margin") if _is_number(typed.get(name))}
            if _is_number(typed.get("options")):
                features["typed_options"] = math.log1p(typed["options"])
        adapted = facts.get(ADAPTER)
        if isinstance(adapted, Adapted) and adapted.serving:
            features |= {"adapter_rate": adapted.rate, "adapter_pairs": math.log1p(adapted.pairs)}
    return features


def _given_in(trace: Trace) -> Given | None:
    found = None
    for hop in trace.walk():
        if hop.kind == "shards":
            found = (hop.facts or {}).get(FACT)
    return found if isinstance(found, Given) else None


def _of_shards(given: Given, text: str) -> dict[str, float]:
    features = {"shards": float(len(given.shards))}
    if given.notes:
        asked, noted = _stems(given.question), _stems("\n".join(given.notes))
        told = _stems(text) - asked
        features["told_in_notes"] = len(told & noted) / len(told) if told else 0.0
        features["told_words"] = math.log1p(len(told))
        features["note_words"] = _log_words("\n".join(given.notes))
        features["is_memory"] = float(any(one.get("in") and one.get("kind") == "memory" for one in given.considered))
        features["asked_in_notes"] = len(asked & noted) / len(asked) if asked else 0.0
        if ASKS_NUMBER.search(given.question):
            features["number_told"] = float(any(any(map(str.isdigit, word)) for word in told))
    if given.answers:  # those of the examples most like the request come last
        answer = _bare(text)
        same = [_bare(one) == answer for one in given.answers]
        features["examples_same"] = sum(same) / len(same)
        features["last_example_same"] = float(same[-1])
    if given.known:
        features |= _of_neighbours(given.known, _bare(text))
    rates = [one["rate"] for one in given.considered if one.get("in") and _is_number(one.get("rate"))]
    if rates and given.answers:
        features["shard_rate"] = float(max(rates))
    likeness = [one["cosine"] for one in given.considered if one.get("in") and _is_number(one.get("cosine"))]
    if likeness:
        features["shard_likeness"] = float(max(likeness))
    return features


def _of_neighbours(known: Sequence[tuple[str, float]], answer: str) -> dict[str, float]:
    """How alike the requests are that were answered so, and those that were answered otherwise."""
    same = max((likeness for said, likeness in known if _bare(said) == answer), default=0.0)
    other = max((likeness for said, likeness in known if _bare(said) != answer), default=0.0)
    return {"neighbour": max(same, other), "neighbour_same": same, "neighbour_margin": same - other}


def _stems(text: str) -> set[str]:
    return {stem(word.lower()) for word in WORD.findall(text) if len(word) > 2 or word.isdigit()}


def _bare(text: str) -> str:
    return " ".join(WORD.findall(text.lower()))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _log_words(text: str) -> float:
    return math.log1p(len(text.split()))
