"""What is fuzzed: for each target a function that takes any bytes and raises where the gateway has a fault.

What the code under test is allowed to raise, by its own docstring, is caught here; anything else is a finding. Where
there is something that must hold of the result, it is asserted: bytes cut into other reads mean the same, what was
passed on can be read again, nothing is larger than it may be.
"""

from __future__ import annotations

import asyncio
import gzip
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import orjson

from fuzz.served import CANNED, Served
from fuzz.sockets import reply_in, requests_in
from gateway.api.body import _unpack
from gateway.api.paths import canonical
from gateway.api.proxies import Proxies
from gateway.backends.refusals import error_of
from gateway.config.files import read_config
from gateway.errors import ConfigError, GatewayError, InvalidRequest
from gateway.shards.outside import read_shard
from gateway.shards.reading.documents import Document, Markup
from gateway.shards.reading.facts import shards_of
from gateway.shards.reading.skills import skill_of
from gateway.shards.sharing.bundle import open_bundle
from gateway.shards.sharing.records import read_record
from gateway.sources.gguf import BrokenGguf, read_header
from gateway.trace_context import read_context
from gateway.transport.sse import SseDecoder

Target = Callable[[bytes], None]
MODELS = ("chat", "messages", "responses", "llama", "auto")
PATHS = (
    "/openai/deployments/{}/chat/completions",
    "/openai/deployments/{}/responses",
    "/openai/deployments/{}/completions",
    "/openai/deployments/{}/messages",
    "/openai/deployments/{}/fim/completions",
    "/openai/deployments/{}/messages/count_tokens",
    "/api/chat",
    "/api/generate",
    "/v1/route/explain",
    "/v1/embeddings",
    "/v1/rerank",
)
QUESTION = {"messages": [{"role": "user", "content": "hi"}], "input": "hi", "prompt": "hi", "max_tokens": 9}
ASKED: tuple[tuple[str, tuple[str, ...], dict[str, object]], ...] = (  # who is asked, in which dialect, streamed or not
    ("/v1/chat/completions", ("messages",), {}),
    ("/v1/responses", ("input",), {"store": False}),
    ("/v1/messages", ("messages", "max_tokens"), {}),
    ("/v1/completions", ("prompt",), {}),
    ("/api/chat", ("messages",), {}),
)
LIMIT = 1 << 16


class Targets:
    """The functions, and what they share. `close` at the end."""

    NAMES = (
        *("request", "reply", "refusal", "http_request", "http_reply", "sse", "inflate", "head"),
        *("gguf", "config", "document", "shard", "bundle"),
    )

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
        self._here = Path(self._folder.name)
        self._loop = asyncio.new_event_loop()
        self._served: Served | None = None
        self.all: dict[str, Target] = {name: getattr(self, name) for name in self.NAMES}

    def close(self) -> None:
        if self._served is not None:
            self._served.close()
        self._loop.close()
        self._folder.cleanup()

    @property
    def served(self) -> Served:
        if self._served is None:
            self._served = Served()
        return self._served

    # -- the whole gateway ---------------------------------------------------------------------------------------

    def request(self, data: bytes) -> None:
        """A body, in any dialect, to a model that speaks any: byte 0 says which."""
        which = data[0] if data else 0
        path, model = PATHS[which % len(PATHS)], MODELS[which // len(PATHS) % len(MODELS)]
        self.served.upstream.reply = (200, {"content-type": "application/json"}, CANNED)
        status, said = self.served.ask(path.format(model), data[1:], {"content-type": "application/json"})
        assert status != 500, said
        if status >= 400:
            assert "error" in orjson.loads(said)

    def reply(self, data: bytes) -> None:
        """What an upstream says, in any of its dialects, told in any of ours: byte 0 says which."""
        which = data[0] if data else 0
        streams, which = which % 2 == 0, which // 2
        path, fields, more = ASKED[which % len(ASKED)]
        model = MODELS[which // len(ASKED) % 4]
        body = {name: QUESTION[name] for name in fields} | {"model": model, "stream": streams, **more}
        kind = "text/event-stream" if streams else "application/json"
        self.served.upstream.reply = (200, {"content-type": kind}, data[1:])
        status, said = self.served.ask(path, orjson.dumps(body))
        assert status != 500, said
        if status != 200 or not streams:
            assert isinstance(orjson.loads(said), dict)

    # -- the wire ------------------------------------------------------------------------------------------------

    def refusal(self, data: bytes) -> None:
        """An error of an upstream's: its status is made of byte 0."""
        status = 400 + (data[0] if data else 0) % 200
        error = error_of("m", status, {"retry-after": "1"}, data[1:], ("a secret",))
        assert 400 <= error.status < 600
        orjson.dumps([error.message, error.type, error.code, error.param])

    def http_request(self, data: bytes) -> None:
        """One connection: reads of any size are the same requests."""
        whole, _ = requests_in(self._loop, data, 1 << 20)
        cut, _ = requests_in(self._loop, data, 7)
        assert whole == cut, "the same bytes, cut otherwise, are other requests"

    def http_reply(self, data: bytes) -> None:
        whole = reply_in(self._loop, data, 1 << 20)
        cut = reply_in(self._loop, data, 7)
        assert not (whole[3] and cut[3]) or whole == cut, "the same bytes, cut otherwise, are another reply"

    def sse(self, data: bytes) -> None:
        whole = _events(data, len(data) or 1)
        assert whole == _events(data, 1) == _events(data, 3)
        assert all(b"\n\n" not in event or b"\r" not in event for event in whole)

    def inflate(self, data: bytes) -> None:
        """A packed body is never more than its limit."""
        for encoding in ("gzip", "deflate"):
            with suppress(GatewayError):
                assert len(_unpack(data, encoding, LIMIT)) <= LIMIT

    def head(self, data: bytes) -> None:
        """Header lines and paths: traceparent, what proxies say, paths."""
        first, _, second = data.decode("latin-1").partition("\n")
        context = read_context({"traceparent": first, "tracestate": second}, has_spans=True)
        if context is not None:
            told = context.headers("1" * 16)
            assert all(value.isascii() and value.isprintable() for value in told.values())
            assert read_context(told, has_spans=True) is not None
        for headers in ({"forwarded": first}, {"x-forwarded-for": first, "x-forwarded-host": second}):
            scope: dict[str, object] = {"client": ("127.0.0.1", 1), "scheme": "http"}
            Proxies(["127.0.0.1", "10.0.0.0/8"]).note(scope, {**headers, "x-forwarded-proto": second})
            assert scope["scheme"] in ("http", "https")
        path, _ = canonical("/" + first, second.strip("/"))
        assert path.startswith("/")
        assert canonical(path)[0] == canonical(canonical(path)[0])[0]

    # -- files and texts -----------------------------------------------------------------------------------------

    def gguf(self, data: bytes) -> None:
        file = self._here / "model.gguf"
        file.write_bytes(data)
        with suppress(BrokenGguf):
            read_header(file)

    def config(self, data: bytes) -> None:
        """models.yaml and a policy, apart by a line of three dashes."""
        models, _, policy = data.partition(b"\n---\n")
        (self._here / "models.yaml").write_bytes(models)
        (self._here / "policies").mkdir(exist_ok=True)
        (self._here / "policies" / "default.yaml").write_bytes(policy)
        with suppress(ConfigError):
            read_config(self._here / "models.yaml", self._here / "policies")

    def document(self, data: bytes) -> None:
        text = data.decode("utf-8", "replace")
        for markup in Markup:
            for shard in shards_of(Document("a.md", text, markup)):
                assert shard.fact
        with suppress(InvalidRequest):
            skill_of(text)

    def shard(self, data: bytes) -> None:
        with suppress(InvalidRequest, orjson.JSONDecodeError):
            read_shard(orjson.loads(data))

    def bundle(self, data: bytes) -> None:
        """As it is and packed, and each of its lines as a record that was signed."""
        for packed in (data, gzip.compress(data, compresslevel=1)):
            with suppress(GatewayError):
                open_bundle(packed, {})
        for line in data.splitlines():
            with suppress(InvalidRequest, orjson.JSONDecodeError):
                read_record(orjson.loads(line))


def _events(data: bytes, size: int) -> list[bytes]:
    decoder, out = SseDecoder(), list[bytes]()
    for at in range(0, len(data), size):
        out += decoder.feed(data[at : at + size])
    return out + decoder.flush()


def corpus_of(name: str) -> Iterator[Path]:
    """Kept inputs, in order."""
    folder = Path(__file__).parent / "corpus" / name
    yield from sorted(folder.iterdir()) if folder.is_dir() else ()
