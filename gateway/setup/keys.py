"""API keys in the environment: whose they are, and whether their provider takes them. Their values go nowhere else."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from gateway.config.model_specs import Modality
from gateway.providers import Provider
from gateway.setup.preferences import LITELLM_PROVIDERS, PREFERENCES, TEXT, LitellmProvider, Preference, pick
from gateway.transport import ConnectFailed, ConnectionCut, HttpClient, ReplyTooLarge, is_loopback

CONNECT_S, LIST_S = 2.0, 4.0
MAX_LIST_BYTES = 8 << 20  # OpenRouter's list is above 1 MiB
AWS_VARIABLES = ("AWS_BEARER_TOKEN_BEDROCK", "AWS_ACCESS_KEY_ID", "AWS_PROFILE")

State = Literal["valid", "refused", "unchecked"]


@dataclass(frozen=True, slots=True)
class FoundKey:
    """A key in the environment.

    Args:
        variable: where it stands.
        engine: `openai`, with `base_url`, or `litellm`.
        model: to write into models.yaml; None where no list could be read and none is known.
        state: what its provider says to it; `why` it was not checked or was refused.
        is_listed: the model stands in the list that the provider gave for this key.
    """

    provider: str
    variable: str
    engine: Literal["openai", "litellm"]
    base_url: str | None
    model: str | None
    accepts: tuple[Modality, ...]
    state: State
    why: str = ""
    is_listed: bool = False


@dataclass(frozen=True, slots=True)
class _Question:
    """A key that was found, and how to ask for the models it opens."""

    provider: str
    variable: str
    engine: Literal["openai", "litellm"]
    base_url: str | None
    list_url: str
    headers: Mapping[str, str]


def questions(
    providers: Iterable[Provider], litellm: Iterable[LitellmProvider], environ: Mapping[str, str]
) -> list[_Question]:
    """Each provider whose key is set, in the order in which their models will be asked."""
    found = []
    for provider in providers:
        key = environ.get(provider.key_variable, "").strip()
        if key and provider.speaks == "chat":
            url = provider.base_url.rstrip("/")
            headers = provider.headers(key)
            found.append(_Question(provider.name, provider.key_variable, "openai", url, f"{url}/models", headers))
    known = {question.provider for question in found}
    for other in litellm:
        variable = next((name for name in other.variables if environ.get(name, "").strip()), None)
        if variable is not None and other.name not in known:
            key = environ[variable].strip()
            value = f"Bearer {key}" if other.key_header == "authorization" else key
            headers = {other.key_header: value, **dict(other.headers)}
            found.append(_Question(other.name, variable, "litellm", None, other.list_url, headers))
    order = list(PREFERENCES)
    return sorted(found, key=lambda q: order.index(q.provider) if q.provider in order else len(order))


async def find_keys(
    client: HttpClient,
    environ: Mapping[str, str],
    providers: Iterable[Provider],
    litellm: Iterable[LitellmProvider] = LITELLM_PROVIDERS,
    *,
    checks: bool = True,
) -> list[FoundKey]:
    """All asked at the same time, each for at most LIST_S. `checks=False` asks nobody."""
    asked = questions(providers, litellm, environ)
    if not checks:
        return [_found(question, "unchecked", "--no-probe", ()) for question in asked]
    return list(await asyncio.gather(*(_check(client, question) for question in asked)))


async def _check(client: HttpClient, question: _Question) -> FoundKey:
    if "{" in question.list_url or "<" in question.list_url:  # an address that has the account's name in it
        return _found(question, "unchecked", "its address has your account's name in it", ())
    reply = None
    try:
        async with asyncio.timeout(LIST_S):
            await _resolve(question.list_url)
            reply = await client.get(question.list_url, question.headers, connect_s=CONNECT_S)
            body = await reply.read(MAX_LIST_BYTES)
    except (TimeoutError, ConnectFailed, ConnectionCut, ReplyTooLarge):
        return _found(question, "unchecked", "it cannot be reached from here", ())
    finally:
        if reply is not None:
            reply.close()
    if reply.status in (401, 403):
        return _found(question, "refused", f"it answers {reply.status}", ())
    if reply.status == 400 and b"API_KEY_INVALID" in body:  # Google's way
        return _found(question, "refused", "it answers 400, API_KEY_INVALID", ())
    if reply.status != 200:
        return _found(question, "unchecked", f"its list of models answers {reply.status}", ())
    return _found(question, "valid", "", model_ids(body))


async def _resolve(url: str) -> None:
    """Find the host's address, in a thread that nobody waits for: a resolver without a network may take a minute.

    Raises: ConnectFailed.
    """
    host = urlsplit(url).hostname
    if is_loopback(host) or (urllib.request.getproxies() and not urllib.request.proxy_bypass(host or "")):
        return
    loop = asyncio.get_running_loop()
    done: asyncio.Future[bool] = loop.create_future()

    def settle(found: bool) -> None:
        if not done.done():
            done.set_result(found)

    def look_up() -> None:
        try:
            found = bool(socket.getaddrinfo(host, 443))
        except (OSError, UnicodeError):
            found = False
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, found)

    threading.Thread(target=look_up, daemon=True).start()
    async with asyncio.timeout(CONNECT_S):
        if not await done:
            raise ConnectFailed("unknown host")


def model_ids(body: bytes) -> list[str]:
    """Of OpenAI's, Anthropic's, Google's or Cohere's list; those that their list says do not chat are left out."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return []
    if isinstance(data, dict):
        data = data.get("data") or data.get("models")
    entries = [entry for entry in data if isinstance(entry, dict)] if isinstance(data, list) else []
    ids = [entry.get("id") or entry.get("name") for entry in entries if _chats(entry)]
    return [id.removeprefix("models/") for id in ids if isinstance(id, str)]


def _chats(entry: dict[str, Any]) -> bool:
    for field, word in (("supportedGenerationMethods", "generateContent"), ("endpoints", "chat")):
        if isinstance(entry.get(field), list) and word not in entry[field]:
            return False
    return entry.get("type", "chat") in ("chat", "model", "language", None)


def _found(question: _Question, state: State, why: str, ids: Sequence[str]) -> FoundKey:
    preference = PREFERENCES.get(question.provider, Preference(()))
    listed = pick(ids, preference.models)
    known = preference.models[0] if preference.models else None
    model = listed or known
    accepts = preference.accepts if model in preference.models else TEXT
    if question.engine == "litellm" and model:
        model = f"{question.provider}/{model}"
    return FoundKey(
        question.provider, question.variable, question.engine, question.base_url, model, accepts, state, why,
        is_listed=listed is not None,
    )  # fmt: skip
