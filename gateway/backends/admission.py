"""May this model be asked at all? What it takes, what it may cost, whether there is time left, whether it fits."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from gateway.chat import ChatRequest
from gateway.errors import BackendTimeout, ContextTooLong, CostCapReached, ModalityRefused
from gateway.tokens import Counter, at_least, at_most, estimate_request, longest
from gateway.trace import Price, Trace, Usage

UNLIMITED_ANSWER_TOKENS = 1024  # what an answer is taken to have where nobody limited it
RESERVE_TOKENS = 256  # kept free for the answer, though never more than a part of the context
RESERVE_PART = 8
ESTIMATE_MAY_BE_TIMES = 2  # too high: measured up to 1.7, for Russian
TRUTH_MAY_BE_TIMES = 1.5  # above the estimate: measured up to 1.3, for Chinese, with the vocabularies of large models


async def admit(
    request: ChatRequest,
    name: str,
    accepts: frozenset[str],
    price: Price | None,
    longest_answer: int | None,
    *,
    local: bool,
) -> None:
    """Raises: ModalityRefused, CostCapReached, BackendTimeout."""
    if request.deadline is not None and time.monotonic() >= request.deadline:
        raise BackendTimeout(f"no time left to ask model '{name}'")
    for modality, part in request.media:
        if modality not in accepts:
            raise ModalityRefused(f"model '{name}' does not take {modality} content", kind=modality)
        if local and modality == "image" and _is_remote(part):
            raise ModalityRefused(f"model '{name}' is handed no addresses to fetch: send the image as a data: URL")
    if request.caps:
        answers = max(request.choice_count, request.body.get("best_of") or 1)
        await _admit_cost(request, name, price, answers * (longest_answer or UNLIMITED_ANSWER_TOKENS))


def _is_remote(part: Mapping[str, Any]) -> bool:
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, Mapping) else image
    return not str(url).lower().startswith("data:")


async def _admit_cost(request: ChatRequest, name: str, price: Price | None, answer_tokens: int) -> None:
    if price is None:
        raise CostCapReached(f"model '{name}' has no known price, so it is not used under a cost limit")
    needed = price.cost_usd(Usage(estimate_request(request.body), answer_tokens), busy_s=0.0)
    for cap in request.caps:
        if not await cap.hold(needed):
            message = f"model '{name}' may cost ${needed:.6f}, more than what is left of ${cap.max_usd:g}"
            raise cap.refusal(message)


async def admit_size(
    request: ChatRequest,
    name: str,
    context: int | None,
    counter: Counter,
    longest_answer: int | None,
    span: Trace,
    *,
    sure: bool = False,
) -> None:
    """Does the request fit, with some room for the answer? Counted only where bounds do not tell.

    Args:
        context: tokens of prompt and answer together; None where nobody knows.
        span: where a count is noted.
        sure: an estimate must be well below the context, for the model would not refuse what is too long but forget it.
    Raises: ContextTooLong.
    """
    if context is None:
        return
    reserve = reserve_of(context, longest_answer)
    body = longest(request.body)
    too_long = partial(_too_long, name, context, "prompt" if request.is_prompt else "messages")
    most = at_most(body, counter.template_tokens)
    if most is not None and most + reserve <= context:
        return
    least = 0 if counter.only_estimates else at_least(body)  # an estimate is never lower
    if least > context:
        raise too_long(f"over {least}")
    count = await counter.count(body)
    span.note(input_tokens=count.tokens, **({"estimated": True} if count.estimated else {}))
    if count.estimated:
        if (count.tokens * TRUTH_MAY_BE_TIMES > context) if sure else (count.tokens > ESTIMATE_MAY_BE_TIMES * context):
            raise too_long(f"about {count.tokens}")
    elif count.tokens > context:
        raise too_long(str(count.tokens))
    elif count.tokens + reserve > context:
        raise too_long(f"{count.tokens}, which leaves no room for an answer")


def reserve_of(context: int, longest_answer: int | None) -> int:
    """Tokens to keep free for the answer. Not all that the client allows: many allow far more than they ever get."""
    reserve = min(RESERVE_TOKENS, context // RESERVE_PART)
    return reserve if longest_answer is None else min(reserve, longest_answer)


def _too_long(name: str, context: int, what: str, has: str) -> ContextTooLong:
    message = f"model '{name}' takes at most {context} tokens, and the request has {has}: shorten the {what}"
    return ContextTooLong(message, context=context)
