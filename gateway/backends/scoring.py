"""How likely llama.cpp's model finds each of some given answers, without having it write any.

The options make a tree of tokens. Where it branches the server is asked for one token, with all branches lifted by the
same bias: their shares of what it then gives are the model's own, even of tokens far below the most likely ones. Where
it does not branch there is nothing to ask: an option goes on as its tokens say. So 77 options of about five tokens are
17 questions, each one step of the model, for the server keeps the prompt.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import orjson

from gateway.backends import onward
from gateway.backends.refusals import error_of, read_error, refused_in_reply
from gateway.backends.replies import parse_event, parse_reply
from gateway.backends.wire import DONE
from gateway.chat import ChatRequest, Json
from gateway.engines import Lease
from gateway.errors import BackendTimeout, BackendUnavailable, BadBackendReply
from gateway.tokens import estimate_request
from gateway.trace import Trace, Usage
from gateway.transport import ConnectFailed, ConnectionCut, ConnectTimeout, HttpReply, ReplyTooLarge
from gateway.transport.sse import EventTooLarge, SseDecoder

if TYPE_CHECKING:
    from gateway.backends.openai import Facts, OpenAIBackend

LIFT = 12.0  # nats: brings rank 20,000 to the front, and what is beside them can still be weighed in float32
SHOWN_BESIDE = 128  # tokens shown beyond the branches, for the case that some of those stay below
MAX_REPLY_BYTES = 8 * 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024
REMEMBERED = 64  # sets of options whose tokens are known
MARK, BETWEEN = "0a1b2c", -1
SHORT_CHAT = ({"role": "user", "content": "x"},)
MARKED_CHAT = (*SHORT_CHAT, {"role": "assistant", "content": MARK}, *SHORT_CHAT)

Path = tuple[int, ...]  # tokens from the end of the prompt on


@dataclass(frozen=True, slots=True)
class Scores:
    """Args:
    logprobs: of each option, in their order: the natural logarithm of its probability if the answer is one of them,
        which it is token by token; their probabilities sum to 1.
    tokens: of each option.
    mass: probability, in [0, 1], that the answer begins as one of them does.
    prompt: its tokens, and those that the server still held.
    calls: steps of the model.
    blank: as `logprobs`, for the request that was to be scored beside; empty where none was.
    floored: branches that the server did not show; they count as its least likely shown token.
    """

    logprobs: tuple[float, ...]
    tokens: tuple[int, ...]
    mass: float
    prompt: Usage
    calls: int
    blank: tuple[float, ...] = ()
    floored: int = 0


@runtime_checkable
class Scorer(Protocol):
    """A leaf that can tell how likely its model finds given answers."""

    @property
    def can_score(self) -> bool: ...

    async def score(
        self, request: ChatRequest, options: Sequence[str], trace: Trace, *, blank: ChatRequest | None = None
    ) -> Scores:
        """Of each option as the whole answer to the request: one call, one spend.

        Args:
            options: different texts, two at least.
            blank: another request, to be scored in the same call.
        Raises: BackendError, as an answer to the request would.
        """


class Spellings:
    """Tokens of options as a model's answers have them, by the server that said so; a few are remembered."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, tuple[str, ...]], list[Path]] = OrderedDict()

    def find(self, lease: Lease, options: tuple[str, ...]) -> list[Path] | None:
        found = self._known.get((lease.url, options))
        if found is not None:
            self._known.move_to_end((lease.url, options))
        return found

    def keep(self, lease: Lease, options: tuple[str, ...], paths: list[Path]) -> None:
        self._known[lease.url, options] = paths
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)


class ScoreCall:
    """One call: what it has found out so far, and what it costs however it ends."""

    def __init__(
        self,
        backend: OpenAIBackend,
        request: ChatRequest,
        options: tuple[str, ...],
        lease: Lease,
        facts: Facts,
        span: Trace,
        due: float,
    ) -> None:
        self.backend, self.request, self.options = backend, request, options
        self.lease, self.facts, self.span, self.due = lease, facts, span, due
        span.upstream = (facts.provider.name, lease.id, lease.url)
        self.name = backend.name
        self.started = time.monotonic()
        self.calls = self.floored = 0
        self.prompts: list[Usage] = []  # as they were read
        self.was_sent = False
        self._answer_fields: Json = {}

    async def run(self, blank: ChatRequest | None) -> Scores:
        used, turn = self.backend.used, self.backend.used.begin()
        try:
            paths = await self._spelled()
            beside: tuple[float, ...] = ()
            if blank is not None:
                beside, _ = await self._walk(blank, paths)
            logprobs, mass = await self._walk(self.request, paths)  # last, so that the slot holds this one
            tokens = tuple(len(path) - 1 for path in paths)
            return Scores(logprobs, tokens, mass, self.prompts[-1], self.calls, beside, self.floored)
        except TimeoutError:
            raise BackendTimeout(f"model '{self.name}' did not answer in time") from None
        except ConnectTimeout:
            raise BackendTimeout(f"model '{self.name}': the upstream does not take connections") from None
        except ConnectFailed:
            raise BackendUnavailable(f"model '{self.name}' cannot be reached") from None
        except ConnectionCut:
            raise BadBackendReply(f"model '{self.name}': the upstream broke the connection off") from None
        except (ReplyTooLarge, EventTooLarge):
            raise BadBackendReply(f"model '{self.name}': the upstream's reply is too large") from None
        finally:
            if self.was_sent:
                usage, wall_s = self._spent(), time.monotonic() - self.started
                self.span.spend = used.spent(self.name, usage, turn, wall_s, partial(self._cost_usd, usage))
            else:
                used.end_unspent(turn)

    def _cost_usd(self, usage: Usage, busy_s: float) -> float | None:
        return self.facts.price.cost_usd(usage, busy_s) if self.facts.price else None

    def _spent(self) -> Usage:
        if not self.prompts:  # it was left while the prompt was being read
            return Usage(estimate_request(self.request.body), self.calls, estimated=True)
        *beside, read = self.prompts
        fresh = sum(usage.input_tokens - usage.cached_tokens for usage in beside)
        return Usage(read.input_tokens + fresh, self.calls, read.cached_tokens)

    # The tree

    async def _walk(self, request: ChatRequest, paths: Sequence[Path]) -> tuple[tuple[float, ...], float]:
        """Log-probability of each path, and the mass of all of them together."""
        prompt = await self._prompt_of(request)
        branches = branches_of(paths)
        shares: dict[Path, dict[int, float]] = {}
        mass = 1.0
        for start in sorted(branches):  # depth first: each step goes on where the server stands
            is_first = not shares
            shares[start], whole = await self._shares(prompt, start, sorted(branches[start]), is_first=is_first)
            mass = whole if is_first else mass
        found = []
        for path in paths:
            steps = (shares[path[:n]][path[n]] for n in range(len(path)) if path[:n] in shares)
            found.append(math.fsum(steps))
        return tuple(found), mass

    async def _shares(
        self, prompt: str, path: Path, tokens: Sequence[int], *, is_first: bool
    ) -> tuple[dict[int, float], float]:
        """Of each token the logarithm of its share among them, and the probability of all of them together."""
        body = {
            **self._answer_fields,
            "prompt": [prompt, *path],
            "n_predict": 1,
            "n_probs": len(tokens) + SHOWN_BESIDE,
            "post_sampling_probs": True,
            "samplers": [],
            "temperature": 1.0,
            "logit_bias": [[token, LIFT] for token in tokens],
            "cache_prompt": True,
            "stream": True,  # a server of llama.cpp notices who leaves a stream
        }
        said = await self._stream("/completion", body)
        try:
            top = said["completion_probabilities"][0]["top_probs"]
            shown = {int(one["id"]): float(one["prob"]) for one in top}
            least = min(prob for prob in shown.values() if prob > 0)
        except (KeyError, IndexError, TypeError, ValueError):
            raise BadBackendReply(f"model '{self.name}': the upstream shows no probabilities") from None
        self._note(said, path, is_first=is_first)
        self.floored += sum(token not in shown for token in tokens)
        lifted = [shown.get(token) or least for token in tokens]
        whole = math.fsum(lifted)
        shares = {token: math.log(prob / whole) for token, prob in zip(tokens, lifted, strict=True)}
        inside = min(whole, 1.0)
        return shares, inside / (inside + math.exp(LIFT) * (1.0 - inside))

    def _note(self, said: Mapping[str, Any], path: Path, *, is_first: bool) -> None:
        """What a step has taken. All but the first find the prompt read."""
        self.calls += 1
        timings = said.get("timings")
        fresh, cached = (timings.get(name) for name in ("prompt_n", "cache_n")) if isinstance(timings, dict) else (0, 0)
        fresh, cached = (count if isinstance(count, int) else 0 for count in (fresh, cached))
        if is_first:
            self.prompts.append(Usage(fresh + cached - len(path), 0, cached))

    # What is asked of the server

    async def _spelled(self) -> list[Path]:
        known = self.backend.spellings.find(self.lease, self.options)
        if known is None:
            known = await self._spell()
            self.backend.spellings.keep(self.lease, self.options, known)
        return known

    async def _spell(self) -> list[Path]:
        """As the chat template would have them stand in an answer, with the token that ends one: a template may put a
        blank before answers, and texts cut into tokens apart may be cut otherwise."""
        opening = await self._rendered({"messages": SHORT_CHAT})
        before, _, after = (await self._rendered({"messages": MARKED_CHAT})).partition(MARK)
        blank = before[len(opening) :] if before.startswith(opening) else ""
        texts = [opening, *(f"{opening}{blank}{option}" for option in self.options), after.lstrip(" ")]
        mixed = [part for text in texts for part in (text, BETWEEN)]
        said = await self._json("/tokenize", {"content": mixed, "add_special": False, "parse_special": True})
        rows = _rows(said.get("tokens"))
        if len(rows) != len(texts):
            raise BadBackendReply(f"model '{self.name}': the upstream does not tell tokens")
        head, *spelled, tail = rows
        end = tail[:1]
        if all(row[: len(head)] == head for row in spelled):
            paths = [(*row[len(head) :], *end) for row in spelled]
        else:  # the prompt's last token runs on into the answer: as near as can be had
            rows = _rows(await self._tokens_alone())
            paths = [(*row, *end) for row in rows]
        if len(set(paths)) < len(paths) or not all(path[:-1] for path in paths):
            raise BadBackendReply(f"model '{self.name}': the options are not different tokens")
        return paths

    async def _tokens_alone(self) -> Any:
        mixed = [part for option in self.options for part in (option, BETWEEN)]
        said = await self._json("/tokenize", {"content": mixed, "add_special": False, "parse_special": False})
        return said.get("tokens")

    async def _prompt_of(self, request: ChatRequest) -> str:
        """As the server would put the chat to its model. A model that thinks is told not to: an option is no
        thought."""
        backend = self.backend
        raw, self.span.dropped = backend.body_for(request, self.lease, self.facts.provider, backend.wire)
        body = orjson.loads(raw)
        given = body.get("chat_template_kwargs")
        body["chat_template_kwargs"] = {"enable_thinking": False, **(given if isinstance(given, dict) else {})}
        self._answer_fields = {name: body[name] for name in ("lora", "id_slot") if name in body}
        return await self._rendered(body)

    async def _rendered(self, body: Mapping[str, Any]) -> str:
        prompt = (await self._json("/apply-template", body)).get("prompt")
        if not isinstance(prompt, str):
            raise BadBackendReply(f"model '{self.name}': the upstream does not show its prompts")
        return prompt

    async def _json(self, path: str, body: Mapping[str, Any]) -> Json:
        reply = await self._post(path, body)
        try:
            said = parse_reply(self.name, await reply.read(MAX_REPLY_BYTES, self.due))
        finally:
            reply.close()
        return said if isinstance(said, dict) else {}

    async def _stream(self, path: str, body: Mapping[str, Any]) -> Json:
        """All that the events of a stream say."""
        try:
            reply = await self._post(path, body)
        except (TimeoutError, ConnectionCut, asyncio.CancelledError):
            self.was_sent = True  # nobody knows how far it got: count it rather than call it free
            raise
        self.was_sent = True
        said: Json = {}
        try:
            decoder, piece = SseDecoder(), b" "
            while piece and not said.get("stop"):
                piece = await reply.read_some(self.due)
                for payload in decoder.feed(piece) if piece else decoder.flush():
                    said |= self._event(payload)
        finally:
            reply.close()
        return said

    def _event(self, payload: bytes) -> Json:
        if payload == DONE:
            return {"stop": True}
        event = parse_event(self.name, payload)
        error = read_error(event) if isinstance(event, dict) and "error" in event else None
        if error is not None:
            raise refused_in_reply(self.name, error, self._secrets)
        return {name: value for name, value in event.items() if value != []} if isinstance(event, dict) else {}

    async def _post(self, path: str, body: Mapping[str, Any]) -> HttpReply:
        backend, lease, provider = self.backend, self.lease, self.facts.provider
        headers = onward.traced(backend.headers_for(self.request, lease, provider, backend.wire), self.span)
        url, raw = lease.url.removesuffix("/v1") + path, orjson.dumps(body)
        reply = await backend.client.post(url, headers, raw, connect_s=backend.timeouts.connect_s, due=self.due)
        if reply.status == 200:
            return reply
        try:
            told = await reply.read(MAX_ERROR_BYTES, self.due)
        finally:
            reply.close()
        raise error_of(self.name, reply.status, reply.headers, told, self._secrets)

    @property
    def _secrets(self) -> tuple[str, ...]:
        return (self.lease.key or "", self.lease.url)


def branches_of(paths: Sequence[Path]) -> dict[Path, set[int]]:
    """Where the tree of these paths branches, and into which tokens."""
    following: dict[Path, set[int]] = {}
    for path in paths:
        for n, token in enumerate(path):
            following.setdefault(path[:n], set()).add(token)
    return {start: tokens for start, tokens in following.items() if len(tokens) > 1}


def _rows(tokens: Any) -> list[Path]:
    """What stands between the marks."""
    rows: list[Path] = []
    row: list[int] = []
    for token in tokens if isinstance(tokens, list) else ():
        if token == BETWEEN:
            rows.append(tuple(row))
            row = []
        else:
            row.append(int(token))
    return rows
