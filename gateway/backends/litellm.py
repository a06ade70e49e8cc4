"""The leaf for providers that do not speak OpenAI's protocol: litellm, as a library, played as an HTTP upstream.

`OpenAIBackend` does the waiting, judging and counting; here stands only what litellm needs. It is imported on the first
request, in a thread: that takes seconds, and over 100 MB.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import logging
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any

import orjson

from gateway.backends.balanced import BalancedBackend
from gateway.backends.litellm_arguments import behind, call_arguments, refuse_addresses
from gateway.backends.litellm_replies import chunk_of, completion_of, has_no_such_route, refusal_of
from gateway.backends.marks import MARKED_CHAT, takes_marks
from gateway.backends.openai import OpenAIBackend, Standing
from gateway.backends.vectors import EMBEDDINGS_PATH, RERANK_PATH
from gateway.backends.wire import CHAT
from gateway.chat import Answer, ChatRequest, Emit, Json
from gateway.costs.meter import Used
from gateway.engines import Lease
from gateway.engines.balance import Balance
from gateway.engines.wishes import Wish
from gateway.errors import BackendError, BackendUnavailable, BadBackendReply, ModalityRefused, UpstreamRefused
from gateway.tokens import Counter
from gateway.trace import Price, Trace
from gateway.transport import NEVER, ConnectFailed, ConnectionCut, HttpReply, ReplyTooLarge, Timeouts, within

log = logging.getLogger(__name__)
BEFORE_IMPORT = {  # litellm would fetch these lists from the network, and read a .env file
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_LOCAL_BLOG_POSTS": "True",
    "LITELLM_MODE": "PRODUCTION",
}
READ_ONLY = r".*using the `ReadOnly` qualifier"  # pydantic's remark on a type of litellm's, at the first stream
LOGGERS = ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy")
WORKER_MODULE = "litellm.litellm_core_utils.logging_worker"
CLOSE_S = 1.0  # what it does on the side may take so long at the end
SPARE_S = 30.0  # how much longer than the leaf litellm itself would wait
DONE = b"data: [DONE]\n\n"
_closing: set[asyncio.Task[None]] = set()  # a task that nothing refers to may be collected before it has run


@dataclass(frozen=True)
class Library:
    """litellm, imported."""

    module: Any

    @cache  # noqa: B019 there is one, for good
    def supported(self, model: str, base_url: str | None) -> frozenset[str]:
        """Fields of an OpenAI request that litellm can translate for this model. Raises: what litellm raises."""
        bare, provider, _, _ = self.module.get_llm_provider(model=model, api_base=base_url)
        return frozenset(self.module.get_supported_openai_params(model=bare, custom_llm_provider=provider) or ())


def _import() -> Library:
    for name, value in BEFORE_IMPORT.items():
        os.environ.setdefault(name, value)
    litellm: Any = importlib.import_module("litellm")
    warnings.filterwarnings("ignore", message=READ_ONLY, category=UserWarning)
    litellm.suppress_debug_info = True
    litellm.drop_params = False
    litellm.disable_token_counter = True  # the leaf counts, and the sizes of images would be fetched for it
    if "LITELLM_LOG" not in os.environ:
        for name in LOGGERS:  # what they say may hold what users wrote
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    litellm.acompletion, litellm.stream_chunk_builder  # noqa: B018 loaded when first looked at, and that takes long too
    return Library(litellm)


@cache
def _importing() -> Future[Library]:
    """One import, however many wait for it, on whatever event loop."""
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="litellm")
    future = thread.submit(_import)
    thread.shutdown(wait=False)
    return future


async def load() -> Library:
    """Raises: BackendUnavailable."""
    try:
        return await asyncio.shield(asyncio.wrap_future(_importing()))
    except Exception as exc:
        log.exception("litellm cannot be imported")
        raise BackendUnavailable("litellm, which this model needs, cannot be imported") from exc


async def close() -> None:
    """Close the connections that litellm keeps, if it was ever used, and let it end what it does on the side: it would
    carry that over to the next event loop, and lose it."""
    if _importing.cache_info().currsize and _importing().done():
        library = await load()
        await asyncio.gather(*_closing)
        worker = getattr(sys.modules.get(WORKER_MODULE), "GLOBAL_LOGGING_WORKER", None)
        if worker is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await worker.flush()
            await worker.stop()
        await library.module.close_litellm_async_clients()


@dataclass(frozen=True)
class Keyed:
    """Several keys of one provider, and what says which one is used."""

    keys: tuple[str, ...]
    balance: Balance


@dataclass(frozen=True)
class LiteLLMBackend:
    """One model of a provider that litellm knows.

    Args:
        name: its name in models.yaml, which replies carry as `model`.
        model: litellm's name for it, which begins with the provider's.
        api_key, base_url: where left out, litellm looks for the provider's own environment variables.
        options: further arguments of litellm's `completion`.
        defaults, accepts, context, counter, retries, has_others, used: as of `OpenAIBackend`.
        keyed: where it has several keys, in place of `api_key`.
    """

    name: str
    model: str
    api_key: str | None = None
    base_url: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    timeouts: Timeouts = Timeouts()
    price: Price | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    accepts: frozenset[str] = frozenset({"text"})
    context: int | None = None
    counter: Counter | None = None
    retries: int = 0
    has_others: bool = False
    keyed: Keyed | None = None
    used: Used = Used()

    async def respond(self, request: ChatRequest, emit: Emit, trace: Trace) -> Answer:
        return await self.leaf(trace).respond(request, emit, trace)

    def leaf(self, trace: Trace) -> OpenAIBackend:
        """For one request."""
        if self.keyed is None:
            return self._leaf(trace)
        leaves = tuple(replace(self, api_key=key)._leaf(trace) for key in self.keyed.keys)
        same = {field.name: getattr(leaves[0], field.name) for field in fields(OpenAIBackend)}
        return BalancedBackend(**same, leaves=leaves, balance=self.keyed.balance)

    def _leaf(self, trace: Trace) -> OpenAIBackend:
        call = _Call(self, trace)
        return OpenAIBackend(
            name=self.name,
            client=call,
            take_lease=call.take_lease,
            timeouts=self.timeouts,
            price=self.price,
            defaults=self.defaults,
            accepts=self.accepts,
            context=self.context,
            counter=self.counter,
            provider=behind(self.model),
            chats_only=True,
            wire=MARKED_CHAT if takes_marks(self.model) else CHAT,
            headers=self.headers,
            retries=self.retries,
            has_others=self.has_others,
            used=self.used,
        )

    @property
    def secrets(self) -> tuple[str, ...]:
        given = (self.api_key, self.base_url, *self.headers.values(), *self.options.values())
        return tuple(value for value in given if isinstance(value, str) and len(value) > 3)


class _Call:
    """One call, an `HttpClient` to the leaf: what would go over HTTP goes to litellm, as OpenAI's JSON both ways."""

    def __init__(self, backend: LiteLLMBackend, trace: Trace) -> None:
        self.backend, self._trace = backend, trace
        self._span: Trace | None = None

    def take_lease(self, deadline: float | None, wish: Wish) -> Standing:
        name = self.backend.name
        open_ones = (hop for hop in reversed(self._trace.children) if hop.name == name and hop.ended is None)
        self._span = next(open_ones, None)  # the leaf asks inside the span that it has opened
        return Standing(Lease(url=self.backend.base_url or "", key=self.backend.api_key, id=self.backend.model))

    async def post(
        self, url: str, headers: Mapping[str, str], body: bytes, *, connect_s: float, due: float = NEVER
    ) -> HttpReply:
        async with within(due):
            return await self._post(url, orjson.loads(body), connect_s)

    async def _post(self, url: str, wanted: Json, connect_s: float) -> HttpReply:
        backend = self.backend
        if url.endswith((EMBEDDINGS_PATH, RERANK_PATH)):
            return await self._vectors(wanted, connect_s, embeds=url.endswith(EMBEDDINGS_PATH))
        try:
            refuse_addresses(wanted["messages"])
        except ValueError as exc:
            raise ModalityRefused(f"model '{backend.name}': {exc}") from None
        library = await load()
        try:
            supported = await asyncio.to_thread(library.supported, backend.model, backend.base_url)
            arguments, dropped = call_arguments(wanted, supported)
            if self._span is not None:
                self._span.dropped += dropped
            # litellm's streams hold one choice
            streams = bool(wanted.get("stream")) and arguments.get("n", 1) == 1
            reply = await library.module.acompletion(**self._settings(connect_s), **arguments, stream=streams)
            if not streams:
                return WholeReply(200, {}, orjson.dumps(completion_of(reply)))
            return await StreamReply.begin(reply, backend)
        except Exception as exc:
            return self._failed(exc)

    async def _vectors(self, wanted: Json, connect_s: float, *, embeds: bool) -> HttpReply:
        """What this provider does not know (`dimensions`, base64) is left out: it is made up for where the reply is
        read."""
        name, library = self.backend.name, await load()
        ask = library.module.aembedding if embeds else library.module.arerank
        settings = {**self._settings(connect_s), "drop_params": True}
        del settings["_skip_mcp_handler"]
        try:
            reply = await ask(**{**wanted, **settings})
        except Exception as exc:
            if has_no_such_route(exc):
                what = "embeddings" if embeds else "reranking"
                message = f"model '{name}': its provider has no {what}, or litellm does not know of it"
                raise UpstreamRefused(message, status=400, param="model") from None
            return self._failed(exc)
        return WholeReply(200, {}, orjson.dumps(reply.model_dump()))

    def _failed(self, exc: Exception) -> HttpReply:
        try:
            status, kept, error = refusal_of(exc, self.backend.name, self.backend.secrets)
        except BadBackendReply as unreadable:
            return WholeReply(200, {}, b"", unreadable)  # an answer may well have come, and have cost something
        return WholeReply(status, kept, error)

    def _settings(self, connect_s: float) -> Json:
        import httpx  # litellm's own

        backend = self.backend
        settings: Json = {
            **backend.options,
            "model": backend.model,
            "timeout": httpx.Timeout(backend.timeouts.total_s + SPARE_S, connect=connect_s),
            "num_retries": 0,
            "max_retries": 0,
            "no-log": True,
            "_skip_mcp_handler": True,  # it looks at tools, and needs a package that litellm does not bring
        }
        if backend.api_key:
            settings["api_key"] = backend.api_key
        if backend.base_url:
            settings["api_base"] = backend.base_url
        if backend.headers:
            settings["extra_headers"] = dict(backend.headers)
        return settings

    async def get(self, url: str, headers: Mapping[str, str], *, connect_s: float, due: float = NEVER) -> HttpReply:
        raise ConnectFailed("litellm answers chats only")

    async def close(self) -> None:
        pass


class WholeReply:
    """JSON that is there already, or the error that reading it comes to."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes, error: BackendError | None = None) -> None:
        self.status = status
        self.headers: Mapping[str, str] = {"content-type": "application/json", **headers}
        self._body, self._error = body, error

    async def read(self, limit: int, due: float = NEVER) -> bytes:
        if self._error is not None:
            raise self._error
        if len(self._body) > limit:
            raise ReplyTooLarge
        return await self.read_some()

    async def read_some(self, due: float = NEVER) -> bytes:
        body, self._body = self._body, b""
        return body

    def close(self) -> None:
        pass


class StreamReply:
    """litellm's stream as OpenAI's, one event a read."""

    status = 200
    headers: Mapping[str, str] = {"content-type": "text/event-stream"}

    def __init__(self, stream: Any, backend: LiteLLMBackend) -> None:
        self._stream, self._backend = stream, backend
        self._vendor_stopped = watch_for_the_end(stream)
        self._first: bytes | None = None
        self._called_tools = self._finished = self._ended = False

    @classmethod
    async def begin(cls, stream: Any, backend: LiteLLMBackend) -> StreamReply:
        """Reads the first event, because some providers are only asked when it is. Raises: what litellm raises."""
        if stream.completion_stream is None:
            await stream.fetch_stream()
        reply = cls(stream, backend)
        try:
            reply._first = await reply._next()
        except BaseException:
            reply.close()
            raise
        return reply

    async def read(self, limit: int, due: float = NEVER) -> bytes:
        raise ConnectionCut("a stream is read as it comes")

    async def read_some(self, due: float = NEVER) -> bytes:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        timeout = within(due)
        try:
            async with timeout:
                return await self._next()
        except ConnectionCut:
            raise
        except TimeoutError as exc:
            if timeout.expired():
                raise
            return self._refused(exc)
        except Exception as exc:
            return self._refused(exc)

    def _refused(self, exc: Exception) -> bytes:
        _, _, error = refusal_of(exc, self._backend.name, self._backend.secrets, in_stream=True)
        return b"data: " + error + b"\n\n"

    async def _next(self) -> bytes:
        """The next event; b"" after the last."""
        while not self._ended:
            try:
                data = chunk_of(await anext(self._stream))
            except StopAsyncIteration:
                self._ended = True
                return DONE if self._finished else b""
            if "usage" in data and not self._usage_is_the_vendors():
                del data["usage"]
            for choice in data["choices"]:
                self._check_end(choice)
            if data["choices"] or "usage" in data:
                return b"data: " + orjson.dumps(data) + b"\n\n"
        return b""

    def _check_end(self, choice: Json) -> None:
        self._called_tools = self._called_tools or bool(choice["delta"].get("tool_calls"))
        if choice["finish_reason"]:
            if not self._vendor_stopped():
                raise ConnectionCut("litellm ends a stream that broke off as if it were whole")
            if choice["finish_reason"] == "stop" and self._called_tools:
                choice["finish_reason"] = "tool_calls"
            self._finished = True

    def _usage_is_the_vendors(self) -> bool:
        """litellm counts where the vendor did not say. The leaf does that too, and says that it did."""
        return any(getattr(chunk, "usage", None) is not None for chunk in self._stream.chunks)

    def close(self) -> None:
        task = asyncio.get_running_loop().create_task(_close(self._stream))
        _closing.add(task)
        task.add_done_callback(_closing.discard)


async def _close(stream: Any) -> None:
    """Close the connection below. litellm's own `aclose` passes by iterators that have none, as Anthropic's."""
    inner = stream.completion_stream
    await stream.aclose()
    for value in list(vars(inner).values()) if hasattr(inner, "__dict__") else ():
        if inspect.isasyncgen(value):
            await value.aclose()


def watch_for_the_end(stream: Any) -> Callable[[], bool]:
    """Tells whether the vendor itself has said that the answer is over.

    litellm ends every stream with a finish_reason, also one that broke off. It notes the vendor's own word, but for
    Gemini's streams, where it notes "stop" with each chunk: there the vendor's events are looked at.
    """
    parse = getattr(stream.completion_stream, "chunk_parser", None)
    if not str(stream.custom_llm_provider).startswith(("vertex_ai", "gemini")) or parse is None:
        return lambda: bool(stream.received_finish_reason or stream.intermittent_finish_reason)
    stopped = False

    def watch(chunk: Any) -> Any:
        nonlocal stopped
        stopped = stopped or _is_geminis_last(chunk)
        return parse(chunk=chunk)

    stream.completion_stream.chunk_parser = watch
    return lambda: stopped


def _is_geminis_last(chunk: Any) -> bool:
    if not isinstance(chunk, Mapping):
        return False
    feedback, candidates = chunk.get("promptFeedback"), chunk.get("candidates")
    if isinstance(feedback, Mapping) and feedback.get("blockReason"):
        return True
    return isinstance(candidates, list) and any(isinstance(c, Mapping) and c.get("finishReason") for c in candidates)
