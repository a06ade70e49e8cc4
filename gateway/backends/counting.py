"""Who counts a request's tokens: OpenAI's encodings, or the server that runs the model. Where neither can be had, an
estimate."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import orjson

from gateway.chat import Json
from gateway.engines import Lease
from gateway.prompts import is_prompt
from gateway.tokens import (
    MOST_BY_TEMPLATE,
    TOKENS_PER_MEDIA_PART,
    Count,
    Counter,
    estimate,
    estimate_request,
    given_ids,
    has_media,
    texts_of,
)
from gateway.transport import ConnectFailed, ConnectionCut, HttpClient, ReplyTooLarge

if TYPE_CHECKING:
    from tiktoken import Encoding

log = logging.getLogger(__name__)
COUNT_TIMEOUT_S = 2.0
COUNTS_AT_ONCE = 4  # a server of ours has few threads for HTTP, and answers need them too
MAX_COUNT_REPLY_BYTES = 64 * 1024 * 1024  # some list every token
NOTHING: Mapping[str, str] = MappingProxyType({})
MOST_TEXTS_ASKED = 16
MARKS_OF_INFILL = 4  # what opens the text, its prefix, its suffix and its middle
NOT_COUNTED = ("stream", "stream_options", "model")


@dataclass(frozen=True, eq=False)
class Estimator:
    """For a model whose tokenizer nobody here has."""

    only_estimates: ClassVar[bool] = True

    name: str
    template_tokens: int = MOST_BY_TEMPLATE

    async def count(self, body: Mapping[str, Any]) -> Count:
        return Count(estimate_request(body), estimated=True)


@dataclass(frozen=True, eq=False)
class ScriptedCounter:
    """A script's words are counted by the estimate, in its usage too: for it that is the exact number."""

    only_estimates: ClassVar[bool] = False

    name: str
    template_tokens: int = 8

    async def count(self, body: Mapping[str, Any]) -> Count:
        return Count(estimate_request(body), estimated=False)


# --- OpenAI's encodings

ENCODINGS = (
    ("o200k_base", re.compile(r"(?:chatgpt-4o|gpt-(?:5|4\.1|4\.5|4o)|o[134])(?![a-z0-9])")),
    ("cl100k_base", re.compile(r"(?:gpt-(?:4|3\.?5)|(?:davinci|babbage)-002)(?![a-z0-9.])")),
)
ENCODING_URL = "https://openaipublic.blob.core.windows.net/encodings/{}.tiktoken"  # tiktoken names its files after it
PIECE_CHARS = 50_000  # of white space in one go, some hundred thousand overflow tiktoken's stack
BORDER_WITHIN_CHARS = 1000  # of its end
BORDER = re.compile(r"(?<=\S)(?= )")  # no token of these encodings has a blank after another character
INLINE_CHARS = 8_000  # up to so many are counted at once, in under 1 ms
PER_MESSAGE, PER_NAME, PER_REPLY = 3, 1, 3  # as OpenAI's cookbook has it


def encoding_of(model: str) -> str | None:
    """The encoding of a model of OpenAI's, by the name it goes by there; None for others."""
    bare = re.sub(r"^(?:(?:.*/)?(?:openai|azure)/)?(?:ft:)?", "", model)
    return next((encoding for encoding, names in ENCODINGS if names.match(bare)), None)


@dataclass(frozen=True, eq=False)
class TiktokenCounter:
    """By an encoding of OpenAI's, read from the files that litellm brings; estimated where they are not there."""

    only_estimates: ClassVar[bool] = False

    name: str
    encoding: str
    template_tokens: int = 64

    async def count(self, body: Mapping[str, Any]) -> Count:
        encoding = await _loaded(self.encoding)
        if encoding is None:
            return Count(estimate_request(body), estimated=True)
        texts = list(_openai_texts(body))
        if sum(map(len, texts)) > INLINE_CHARS:  # tiktoken lets go of the interpreter while it works
            tokens, is_exact = await asyncio.to_thread(_count_texts, encoding, texts)
        else:
            tokens, is_exact = _count_texts(encoding, texts)
        if is_prompt(body):
            return Count(tokens + given_ids(body), estimated=not is_exact)
        tokens += PER_REPLY
        for message in body["messages"]:
            tokens += PER_MESSAGE + (PER_NAME if message.get("name") else 0)
            content = message.get("content")
            if isinstance(content, list):
                tokens += TOKENS_PER_MEDIA_PART * sum(1 for part in content if "text" not in part)
            if message.get("tool_calls"):
                tokens += estimate(orjson.dumps(message["tool_calls"]).decode())
                is_exact = False
        for field_name in ("tools", "functions", "response_format"):
            if body.get(field_name):
                tokens += estimate(orjson.dumps(body[field_name]).decode())
                is_exact = False
        return Count(tokens, estimated=not is_exact or has_media(body))


def _openai_texts(body: Mapping[str, Any]) -> Iterator[str]:
    yield from texts_of(body)
    for message in body.get("messages") or ():
        yield from (value for name in ("role", "name", "refusal") if isinstance(value := message.get(name), str))


def _count_texts(encoding: Encoding, texts: list[str]) -> tuple[int, bool]:
    """Tokens, and whether that is exact: text without blanks is cut just anywhere, where it is too long."""
    tokens, is_exact = 0, True
    for text in texts:
        start = 0
        while len(text) - start > PIECE_CHARS:
            end = start + PIECE_CHARS
            border = next(BORDER.finditer(text, end - BORDER_WITHIN_CHARS, end + 1), None)
            is_exact = is_exact and border is not None
            end = border.start() if border is not None else end
            tokens += len(encoding.encode_ordinary(text[start:end]))
            start = end
        tokens += len(encoding.encode_ordinary(text[start:]))
    return tokens, is_exact


async def decoder(encoding: str = "cl100k_base") -> Callable[[list[int]], str] | None:
    """Gives token ids back as text; raises KeyError or OverflowError for one that it does not have. None where the
    encoding is not on this machine."""
    loaded = await _loaded(encoding)
    return loaded.decode if loaded is not None else None


async def _loaded(encoding: str) -> Encoding | None:
    loading = _loading(encoding)
    if loading.done():
        return loading.result()
    return await asyncio.shield(asyncio.wrap_future(loading))


@cache
def _loading(encoding: str) -> Future[Encoding | None]:
    """Once, in a thread: it takes up to a second."""
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tiktoken")
    future = thread.submit(_load, encoding)
    thread.shutdown(wait=False)
    return future


def _load(name: str) -> Encoding | None:
    file_name = hashlib.sha1(ENCODING_URL.format(name).encode()).hexdigest()
    folders = (os.environ.get("TIKTOKEN_CACHE_DIR"), encodings_folder())
    folder = next((folder for folder in folders if folder and (Path(folder) / file_name).is_file()), None)
    if folder is None:  # tiktoken would fetch it from the network
        log.warning("the encoding %s is not on this machine: tokens are estimated", name)
        return None
    os.environ["TIKTOKEN_CACHE_DIR"] = folder
    try:
        import tiktoken

        return tiktoken.get_encoding(name)
    except Exception:  # what it raises is not documented, and an estimate will do
        log.exception("the encoding %s cannot be read: tokens are estimated", name)
        return None


def encodings_folder() -> str | None:
    """Where litellm keeps them. It is not imported: looking for a module inside it would do that."""
    spec = find_spec("litellm")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(folder) / "litellm_core_utils" / "tokenizers"
        if path.is_dir():
            return str(path)
    return None


# --- servers that count

Where = Callable[[], Lease | None]
"""Where the server is now; None while it is not there."""


class CannotCount(Exception):
    """The server does not say. `status`: 0 where it did not answer."""

    def __init__(self, status: int = 0) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status


@dataclass(frozen=True, eq=False)
class Asked:
    """A server, asked for things other than answers: no slot is taken, and nobody waits for long."""

    client: HttpClient
    where: Where
    headers: Mapping[str, str] = field(default_factory=dict)
    at_once: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(COUNTS_AT_ONCE))

    async def post(self, lease: Lease, path: str, body: Mapping[str, Any]) -> Json:
        """`path` begins at the server's root, or, without a slash, where chats are. Raises: CannotCount."""
        url = lease.url.removesuffix("/v1") + path if path.startswith("/") else f"{lease.url}/{path}"
        # llama.cpp closes idle connections without saying so
        headers = {"content-type": "application/json", "connection": "close", **self.headers}
        if lease.key:
            headers["authorization"] = f"Bearer {lease.key}"
        try:
            reply = await self.client.post(url, headers, orjson.dumps(body), connect_s=COUNT_TIMEOUT_S)
            try:
                if reply.status != 200:
                    raise CannotCount(reply.status)
                said = orjson.loads(await reply.read(MAX_COUNT_REPLY_BYTES))
            finally:
                reply.close()
        except (ConnectFailed, ConnectionCut, ReplyTooLarge, orjson.JSONDecodeError) as exc:
            raise CannotCount from exc
        if not isinstance(said, dict):
            raise CannotCount
        return said


@dataclass(frozen=True, eq=False)
class ServerCounter:
    """By the server that runs the model; estimated where it does not answer, or what is asked is not text.

    Args:
        kind: what kind of server it is now: an engine's name, or as in `FoundServer.kind`. Only some kinds count.
        defaults: what the leaf sets where the client left it out: some of it changes the prompt.
    """

    only_estimates: ClassVar[bool] = False

    name: str
    server: Asked
    kind: Callable[[], str]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    template_tokens: int = MOST_BY_TEMPLATE
    timeout_s: float = COUNT_TIMEOUT_S

    async def count(self, body: Mapping[str, Any]) -> Count:
        lease, kind = self.server.where(), self.kind()
        ask = (KINDS_FOR_PROMPTS if is_prompt(body) else KINDS).get(kind)
        if lease is not None and ask is not None and not has_media(body):
            given = {name: value for name, value in {**self.defaults, **body}.items() if name not in NOT_COUNTED}
            try:
                async with asyncio.timeout(self.timeout_s), self.server.at_once:
                    tokens = await ask(self.server, lease, {**given, "model": lease.id})
                if isinstance(tokens, int):
                    return Count(tokens, estimated=False)
            except (TimeoutError, CannotCount) as exc:
                log.debug("model '%s' did not count: %s", self.name, exc or type(exc).__name__)
        return Count(estimate_request(body), estimated=True)


async def ask_llama_cpp(server: Asked, lease: Lease, body: Json) -> Any:
    """llama-server in one call; builds from before 2026 in two."""
    try:
        return (await server.post(lease, "chat/completions/input_tokens", body)).get("input_tokens")
    except CannotCount as exc:
        if exc.status != 404:
            raise
    prompt = (await server.post(lease, "/apply-template", body)).get("prompt")
    said = await server.post(lease, "/tokenize", {"content": prompt, "add_special": True, "parse_special": True})
    tokens = said.get("tokens")
    return len(tokens) if isinstance(tokens, list) else None


async def ask_vllm(server: Asked, lease: Lease, body: Json) -> Any:
    """vLLM's /tokenize takes a chat as it is, but not all of its fields."""
    taken = ("model", "messages", "tools", "chat_template", "chat_template_kwargs", "add_generation_prompt")
    return (await server.post(lease, "/tokenize", {k: v for k, v in body.items() if k in taken})).get("count")


async def ask_llama_cpp_for_prompts(server: Asked, lease: Lease, body: Json) -> int:
    async def of(text: str, *, opens: bool = True) -> int:
        said = await server.post(lease, "/tokenize", {"content": text, "add_special": opens, "parse_special": True})
        return _length(said.get("tokens"))

    texts = _few_texts(body)
    if not body.get("suffix"):
        return sum([await of(text) for text in texts]) + given_ids(body)
    return sum([await of(text, opens=False) for text in texts]) + MARKS_OF_INFILL


async def ask_vllm_for_prompts(server: Asked, lease: Lease, body: Json) -> int:
    async def of(text: str) -> int:
        count = (await server.post(lease, "/tokenize", {"model": lease.id, "prompt": text})).get("count")
        return count if isinstance(count, int) else _length(None)

    return sum([await of(text) for text in _few_texts(body)]) + given_ids(body)


def _few_texts(body: Mapping[str, Any]) -> list[str]:
    """Raises: CannotCount, where there are so many that to ask for each takes too long."""
    texts = list(texts_of(body))
    if len(texts) > MOST_TEXTS_ASKED:
        raise CannotCount
    return texts


def _length(tokens: object) -> int:
    if not isinstance(tokens, list):
        raise CannotCount
    return len(tokens)


Ask = Callable[[Asked, Lease, Json], Awaitable[Any]]
KINDS: Mapping[str, Ask] = {
    "llama.cpp": ask_llama_cpp,
    "llama-server": ask_llama_cpp,
    "vllm": ask_vllm,
}
KINDS_FOR_PROMPTS: Mapping[str, Ask] = {
    "llama.cpp": ask_llama_cpp_for_prompts,
    "llama-server": ask_llama_cpp_for_prompts,
    "vllm": ask_vllm_for_prompts,
}


def counter_of(
    kind: str,
    name: str,
    client: HttpClient,
    where: Where,
    *,
    defaults: Mapping[str, Any] = NOTHING,
    headers: Mapping[str, str] = NOTHING,
) -> Counter | None:
    """The counter for a model on a server of this kind; None where that kind does not count."""
    return ServerCounter(name, Asked(client, where, headers), lambda: kind, defaults) if kind in KINDS else None


def counter_for(name: str, model: str) -> Counter:
    """The counter for a model of a remote API, by the name it goes by there."""
    encoding = encoding_of(model)
    return TiktokenCounter(name, encoding) if encoding else Estimator(name)
