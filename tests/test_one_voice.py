"""Properties of composition: what a client hears is always exactly one leaf's output, and cost is the sum of leaves."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.backends.openai import OpenAIBackend, Standing
from gateway.backends.script import Script, ScriptSpec
from gateway.backends.scripted import ScriptedClient
from gateway.chat import Answer, ChatRequest, Responder, Verdict
from gateway.chunks import Chunk
from gateway.draft import Draft
from gateway.engines import Lease
from gateway.errors import BackendError
from gateway.responders.cascade import Cascade
from gateway.responders.hold import WHOLE, Tier
from gateway.responders.limited import Limited
from gateway.trace import Price, RequestTrace, Trace


@dataclass
class Says:
    """A check that passes only answers that begin with these words; it can judge a prefix."""

    good: frozenset[str]
    name: str = "says"
    prefix_words: int = 1
    can_fail_prefix: bool = True
    asks: dict[str, object] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    soft: bool = False
    costly: bool = False
    names_models: tuple[str, ...] = ()
    offers: None = None

    async def __call__(self, request: ChatRequest, draft: Draft, trace: Trace) -> Verdict:
        return Verdict(draft.text.split(" ")[0] in self.good)


@st.composite
def replies(draw: st.DrawFn, name: str) -> dict[str, object]:
    words = draw(st.integers(0, 80))
    reply: dict[str, object] = {"text": " ".join([name] * words)}
    fault = draw(st.sampled_from([None, None, "cut_after", "malformed_after", "error_after", "error"]))
    if fault == "error":
        reply["error"] = {"status": draw(st.sampled_from([400, 429, 500, 503]))}
    elif fault:
        reply[fault] = draw(st.integers(0, words + 2))
    if draw(st.booleans()):
        reply["usage"] = {"prompt_tokens": draw(st.integers(0, 50)), "completion_tokens": draw(st.integers(0, 50))}
    return reply


@st.composite
def trees(draw: st.DrawFn, depth: int = 0, counter: list[int] | None = None) -> Responder:
    counter = counter if counter is not None else [0]
    if depth < 3 and draw(st.integers(0, 2)):
        tiers = []
        for _ in range(draw(st.integers(1, 3))):
            inner = draw(trees(depth=depth + 1, counter=counter))
            hold = draw(st.sampled_from([0, 1, 5, 32, WHOLE]))
            good = frozenset(f"m{i}" for i in range(9) if draw(st.booleans()))
            tiers.append(Tier(f"t{depth}", inner, [Says(good)] if hold else [], hold))
        cascade: Responder = Cascade(tiers, draw(st.sampled_from(["best", "error"])))
        return Limited("limited", cascade, timeout_s=30) if draw(st.booleans()) else cascade
    counter[0] += 1
    name = f"m{counter[0]}"
    script = Script(ScriptSpec.model_validate({"replies": [draw(replies(name))]}))
    return OpenAIBackend(
        name=name,
        client=ScriptedClient(script),
        take_lease=Standing(Lease(url="scripted:", key=None, id=name)),
        price=Price(1.0, 2.0) if draw(st.booleans()) else None,
    )


def leaves(responder: Responder) -> list[OpenAIBackend]:
    match responder:
        case OpenAIBackend():
            return [responder]
        case Limited():
            return leaves(responder.inner)
        case Cascade():
            return [leaf for tier in responder.tiers for leaf in leaves(tier.responder)]
    raise TypeError(responder)


@settings(max_examples=120, deadline=None)
@given(tree=trees(), stream=st.booleans())
def test_the_emitted_text_is_one_leafs_output(tree: Responder, stream: bool) -> None:
    heard: list[Chunk] = []

    async def emit(chunk: Chunk) -> None:
        heard.append(chunk)

    async def run() -> tuple[Answer | None, RequestTrace]:
        trace = RequestTrace("test")
        request = ChatRequest({"model": "x", "messages": [{"role": "user", "content": "hi"}], "stream": stream})
        try:
            with trace:
                return await tree.respond(request, emit, trace), trace
        except BackendError:
            return None, trace

    answer, trace = asyncio.run(run())
    speakers = {chunk.data["model"] for chunk in heard}
    assert len(speakers) <= 1, "two models were heard"
    text = "".join(c["delta"].get("content") or "" for chunk in heard for c in chunk.choices)
    if speakers:
        leaf = next(leaf for leaf in leaves(tree) if leaf.name in speakers)
        whole = leaf.client.script.spec.replies[0].text or ""  # type: ignore[attr-defined]
        assert whole.startswith(text), "words that the speaker never said, or said in another order"
    if answer is not None and stream:
        assert text == next(answer.texts), "the answer returned is not the one that was heard"
        assert speakers == {answer.model}
    if not stream:
        assert not heard

    # cost is the sum of what the leaves wrote, and unknown as soon as one of them is
    spends = [hop.spend for hop in trace.walk() if hop.spend is not None]
    assert all(hop.kind == "model" for hop in trace.walk() if hop.spend is not None)
    if any(spend.cost_usd is None for spend in spends):
        assert trace.cost_usd is None
    else:
        assert trace.cost_usd == sum(spend.cost_usd or 0 for spend in spends)
    for spend in spends:
        leaf = next(leaf for leaf in leaves(tree) if leaf.name == spend.model)
        expected = leaf.price.cost_usd(spend.usage, spend.busy_s) if leaf.price else None
        assert spend.cost_usd == expected
