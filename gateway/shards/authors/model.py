"""A large model writes shards: what small ones failed at, told as steps and new examples."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gateway.chat import ChatRequest, Json, text_of
from gateway.quality.same import plain
from gateway.shards import Example, Shard, Trust
from gateway.shards.authors.examples import answer_of, author, question_of, usable
from gateway.shards.clusters import Cluster
from gateway.shards.proving.proof import Ask
from gateway.shards.safety.screen import screened

log = logging.getLogger(__name__)
SHOWN = 8  # requests that the author sees
MAX_TOKENS = 1500
GRAM = 6  # words in a row of a known answer that a step may not hold
MOST_STEPS, MOST_EXAMPLES = 7, 8

TASK = """You write a short guide for a small language model that fails at a task.
Below are the task and requests with the answers that are right. Reply with one JSON object:
{"trigger": "Use when ...", "questions": [3 to 5 other ways to ask for the same kind of thing],
 "steps": [at most 7 short steps], "examples": [{"user": "...", "assistant": "..."}, ... 4 to 8 of them]}
Make the examples up: none of them may be one of the requests below. Their answers have exactly the form of the answers
below. The steps are general: no names, numbers or answers of the requests below, nothing about any user."""


async def author_process(cluster: Cluster, ask: Ask, name: str, before: Shard | None = None) -> Shard | None:
    """What `examples` makes of the cluster, with the model's trigger, steps and examples in front. None where there
    is too little to learn from, or the model writes nothing of use. Raises: BackendError."""
    base = author(cluster, before)
    if base is None:
        return None
    lessons = usable(cluster.lessons)[-SHOWN:]
    shown = "\n\n".join(f"Request: {question_of(one)}\nRight answer: {answer_of(one)}" for one in lessons)
    written = await _asked(ask, TASK, f"Task: {cluster.task}\n\n{shown}")
    if written is None:
        return None
    known = [answer_of(one) for one in usable(cluster.lessons)]
    asked = {plain(question_of(one)) for one in usable(cluster.lessons)}
    steps = tuple(step for step in _texts(written.get("steps"), 300)[:MOST_STEPS] if not holds_answer(step, known))
    examples = tuple(
        Example(one["user"], one["assistant"])
        for one in _objects(written.get("examples"))
        if isinstance(one.get("user"), str)
        and isinstance(one.get("assistant"), str)
        and plain(one["user"]) not in asked
    )[:MOST_EXAMPLES]
    if not steps and not examples:
        return None
    shard = replace(
        base,
        author=name,
        questions=_texts(written.get("questions"), 300)[:5],
        steps=steps,
        examples=(*examples, *base.examples)[:40],
        trust=Trust.TESTED,
    )
    shard, doubts = screened(shard)
    return replace(shard, needs_review=True, why=f"looks suspicious: {doubts[0]}") if doubts else shard


def holds_answer(text: str, answers: Sequence[str]) -> bool:
    """Is an answer, or a run of its words, in it?"""
    words = plain(text)
    for answer in answers:
        gold = plain(answer).split()
        grams = [gold] if len(gold) <= GRAM else [gold[n : n + GRAM] for n in range(len(gold) - GRAM + 1)]
        if any(gram and len(" ".join(gram)) > 3 and f" {' '.join(gram)} " in f" {words} " for gram in grams):
            return True
    return False


async def _asked(ask: Ask, system: str, user: str) -> Json | None:
    body = {
        "messages": [{"role": "system", "content": system}, {"role": "user", "content": user}],
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
    }
    text = text_of((await ask(ChatRequest(body))).get("content"))
    start = text.find("{")
    try:
        found = json.JSONDecoder().raw_decode(text[start:])[0] if start >= 0 else None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        log.warning("the author's reply is no JSON object; nothing is made of it")
        return None
    return found


def _texts(value: Any, longest: int) -> tuple[str, ...]:
    items = value if isinstance(value, list) else []
    return tuple(item.strip() for item in items if isinstance(item, str) and 0 < len(item.strip()) <= longest)


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
