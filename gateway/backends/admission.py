"""May this model be asked at all? What it takes, what it may cost, whether there is time left."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from gateway.chat import ChatRequest
from gateway.errors import BackendTimeout, CostCapReached, ModalityRefused
from gateway.tokens import estimate_request
from gateway.trace import Price, Usage

UNLIMITED_ANSWER_TOKENS = 1024  # what an answer is taken to have where nobody limited it


def admit(
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
            raise ModalityRefused(f"model '{name}' does not take {modality} content", param="messages")
        if local and modality == "image" and _is_remote(part):
            raise ModalityRefused(
                f"model '{name}' runs on this machine and fetches no addresses: send the image as a data: URL",
                param="messages",
            )
    if request.caps:
        answers = request.body.get("n") or 1
        _admit_cost(request, name, price, answers * (longest_answer or UNLIMITED_ANSWER_TOKENS))


def _is_remote(part: Mapping[str, Any]) -> bool:
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, Mapping) else image
    return not str(url).lower().startswith("data:")


def _admit_cost(request: ChatRequest, name: str, price: Price | None, answer_tokens: int) -> None:
    if price is None:
        raise CostCapReached(f"model '{name}' has no known price, so it is not used under a cost limit")
    needed = price.cost_usd(Usage(estimate_request(request.body), answer_tokens), busy_s=0.0)
    for cap in request.caps:
        if needed > cap.left_usd:
            raise CostCapReached(f"model '{name}' may cost ${needed:.6f}, more than what is left of ${cap.max_usd}")
