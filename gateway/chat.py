"""The nouns of a chat: what is asked (`ChatRequest`), what travels (`Emit`), what comes of it (`Answer`, `Verdict`),
and who does it (`Responder`)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from operator import itemgetter
from typing import Any, Generic, Protocol, TypeVar, overload

import orjson

from gateway.chunks import Chunk
from gateway.errors import CostCapReached
from gateway.prompts import Prompt, is_prompt, prompts_of, texts_of_prompts
from gateway.trace import Trace

Json = dict[str, Any]
ROLE = itemgetter("role")
MAX_SESSION_CHARS = 128
PROMPT_BEGINS = 256  # characters, or tokens, of what an editor sends again at each key
MODALITY_OF_PART = {"image_url": "image", "input_audio": "audio", "file": "file"}


T = TypeVar("T")


class lazy(Generic[T]):
    """A property computed when first read, and kept. `functools.cached_property` takes a lock until Python 3.12, which
    costs more than what is computed here."""

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute = compute
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> lazy[T]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: object | None, owner: type) -> T | lazy[T]:
        if instance is None:
            return self
        value = instance.__dict__[self._name] = self._compute(instance)
        return value


class Cap(Protocol):
    """A limit in US dollars."""

    @property
    def max_usd(self) -> float: ...

    @property
    def left_usd(self) -> float: ...

    async def hold(self, usd: float) -> bool:
        """A model is going to be asked that may cost so much. False where that is more than is left."""

    def refusal(self, message: str) -> CostCapReached:
        """What is raised where a model may cost more than is left."""


@dataclass(frozen=True, slots=True)
class CostCap:
    """At most `max_usd` may be spent below `trace`."""

    trace: Trace
    max_usd: float

    @property
    def left_usd(self) -> float:
        return self.max_usd - self.trace.known_cost_usd

    async def hold(self, usd: float) -> bool:
        return usd <= self.left_usd

    def refusal(self, message: str) -> CostCapReached:
        return CostCapReached(message)


@dataclass(frozen=True)
class Extra:
    """What a request said in another dialect than OpenAI's chat, for a model that speaks it.

    Args:
        dialect: `responses`, `messages` or `ollama`.
        body: as the client sent it.
        lost: what it holds that a chat has no place for: models that speak another dialect are not told.
        pieces: what messages were made from, by the `id()` of each message object; they live as long as the request.
    """

    dialect: str
    body: Mapping[str, Any]
    lost: tuple[str, ...] = ()
    pieces: Mapping[int, Sequence[Json]] = field(default_factory=dict)


@dataclass(frozen=True)
class ChatRequest:
    """One chat request. `body` is the JSON object as the client sent it, known fields and unknown; never changed in
    place.

    Args:
        headers: the client's headers, lower-case names, without credentials.
        key: name of the caller's key; None where the server is open.
        deadline: `time.monotonic()` after which nobody waits for an answer any more.
        caps: money limits of this request and of the nodes around it.
        hops: gateways this request has already passed.
        must_show: fields of the body without which no answer would do; a model that cannot be shown them is not asked.
        extra: where it came in another dialect.
        stay_with: the model that has made the calls whose results end the conversation, where a policy lets it go on:
            cascades begin with it.
        maker_of: says by its mark which model of ours made something in the conversation; see `history`.
        can_move_on: somebody else answers where the model that is asked now would first have to be loaded.
        tenant: of the caller's key, which may share it with other keys.
        priority: of the caller's key: who has a higher one waits less.
        difficulty: chance that a small model fails it, in [0, 1], where the policy's rules have read that signal.
    """

    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)
    key: str | None = None
    deadline: float | None = None
    caps: tuple[Cap, ...] = ()
    hops: int = 0
    must_show: frozenset[str] = frozenset()
    extra: Extra | None = None
    stay_with: str | None = None
    maker_of: Callable[[int], str | None] | None = None
    can_move_on: bool = False
    difficulty: float | None = None
    tenant: str | None = None
    priority: int = 0

    @property
    def owner(self) -> str | None:
        """Whose shards, memories and lessons it has: the tenant's, else the key's own; None where the server is
        open."""
        return self.tenant or self.key

    @property
    def messages(self) -> list[Json]:
        """Empty where the request has a `prompt` in their place."""
        messages: list[Json] = self.body.get("messages") or []
        return messages

    @property
    def model(self) -> str:
        return str(self.body.get("model") or "")

    @property
    def stream(self) -> bool:
        return bool(self.body.get("stream"))

    @property
    def is_prompt(self) -> bool:
        """A text to be continued (or filled in, with a `suffix`), and no chat. Its answers are chat-shaped all the
        same."""
        return is_prompt(self.body)

    @lazy
    def is_plain(self) -> bool:
        """Is it a conversation that every model takes as it is? Users and answers by turns, and nothing in the answers
        but text. Looked at for every request: 0.06 us a message."""
        messages = self.messages
        start = bool(messages) and messages[0]["role"] == "system"
        asked, answered = messages[start::2], messages[start + 1 :: 2]
        if len(asked) <= len(answered) or {*map(ROLE, asked)} != {"user"}:
            return False
        is_text = {*map(len, answered)} == {2} and {*map(ROLE, answered)} == {"assistant"}
        return not answered or (is_text and all(message.get("content") for message in answered))

    @lazy
    def prompts(self) -> list[Prompt]:
        return prompts_of(self.body) if self.is_prompt else []

    @property
    def choice_count(self) -> int:
        """Choices that an answer is to have: `n` to each prompt."""
        return (self.body.get("n") or 1) * max(1, len(self.prompts))

    def prompt_of(self, index: int) -> Prompt:
        """What a choice goes on with."""
        place = index // (self.body.get("n") or 1)
        return self.prompts[place] if place < len(self.prompts) else ""

    @property
    def wants_logprobs(self) -> bool:
        """Of a prompt, 0 asks for those of the chosen tokens alone."""
        wanted = self.body.get("logprobs")
        return wanted is not None and wanted is not False

    def with_body(self, **fields: Any) -> ChatRequest:
        """The same request with some fields of its body set."""
        return replace(self, body={**self.body, **fields})

    def before(self, deadline: float | None) -> ChatRequest:
        """The same request, due at the earlier of its own deadline and this one."""
        if deadline is None or (self.deadline is not None and self.deadline <= deadline):
            return self
        return replace(self, deadline=deadline)

    @lazy
    def turns(self) -> list[tuple[str, str]]:
        """(role, text) of each message; text parts joined, other parts left out. A prompt is one turn of the user."""
        if self.is_prompt:
            return [("user", "\n".join(texts_of_prompts(self.body)))]
        return [(str(message.get("role", "")), text_of(message.get("content"))) for message in self.messages]

    @lazy
    def last_user_text(self) -> str:
        if self.is_prompt:
            return self.turns[0][1]
        for message in reversed(self.messages):
            if message.get("role") == "user":
                return text_of(message.get("content"))
        return ""

    @lazy
    def media(self) -> list[tuple[str, Mapping[str, Any]]]:
        """(image | audio | file, part) of each content part that is not text."""
        found = []
        for message in self.messages:
            content = message.get("content")
            for part in content if isinstance(content, list) else ():
                modality = MODALITY_OF_PART.get(str(part.get("type")))
                if modality:
                    found.append((modality, part))
        return found

    @lazy
    def conversation(self) -> str:
        """Names the conversation, the same at each of its turns: `x-gateway-session`, else a hash of what it begins
        with. Others' conversations that begin alike have other names."""
        given = self.headers.get("x-gateway-session", "")
        if given and len(given) <= MAX_SESSION_CHARS and given.isascii() and given.isprintable():
            return given
        return hash_of_beginning(self.key, self.body)

    @property
    def limits_length(self) -> bool:
        """Did the client itself set how long the answer may get?"""
        return self.body.get("max_tokens") is not None or self.body.get("max_completion_tokens") is not None

    @property
    def json_schema(self) -> Json | bool | None:
        """The schema asked for in `response_format`; None where none is."""
        wanted = self.body.get("response_format")
        if isinstance(wanted, Mapping) and wanted.get("type") == "json_schema":
            spec = wanted.get("json_schema")
            schema = spec.get("schema") if isinstance(spec, Mapping) else None
            if isinstance(schema, (dict, bool)):
                return schema
        return None


def hash_of_beginning(key: str | None, body: Mapping[str, Any]) -> str:
    """32 hex digits for the first system message and the first turn of the user, or for the beginning of a prompt, as
    they come from the holder of a key."""
    if is_prompt(body):
        begins: list[object] = [prompt[:PROMPT_BEGINS] for prompt in prompts_of(body)]
    else:
        first: dict[str, object] = {}
        for message in body.get("messages") or ():
            role = "system" if message.get("role") == "developer" else message.get("role")
            first.setdefault(role, message.get("content"))
            if role == "user":
                break
        begins = [first.get("system"), first.get("user")]
    return blake2b(orjson.dumps([key, *begins]), digest_size=16).hexdigest()


def text_of(content: object) -> str:
    """Text of a message's `content`: a string, a list of parts, or null."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = (part.get("text") for part in content if isinstance(part, Mapping))
        return "\n".join(text for text in texts if isinstance(text, str))
    return ""


@dataclass(frozen=True, slots=True)
class Answer:
    """The finished answer: a `chat.completion` object whose `model` is the name of who answered.

    `checks_failed` names the checks that it did not pass, where no better answer could be had.
    """

    body: Json
    checks_failed: tuple[str, ...] = ()

    @property
    def model(self) -> str:
        return str(self.body.get("model", ""))

    @property
    def texts(self) -> Iterator[str]:
        return (text_of(choice.get("message", {}).get("content")) for choice in self.body.get("choices", ()))

    def without_logprobs(self) -> Answer:
        choices = [{**choice, "logprobs": None} for choice in self.body["choices"]]
        return replace(self, body={**self.body, "choices": choices})


@dataclass(frozen=True, slots=True)
class Verdict:
    """A check's word on a draft. `score` in its own unit, where it has one; `reason` in words, for the trace."""

    passed: bool
    reason: str = ""
    score: float | None = None


PASSED = Verdict(True)

Emit = Callable[[Chunk], Awaitable[None]]


class Responder(Protocol):
    """Everything that answers a chat request: a model, or a tree of them.

    Emits chunks for a streamed request, and may for another, where they serve only to be judged early. Returns the
    whole answer either way. Raises: BackendError where it has none; after its first emitted chunk that ends a stream.
    """

    async def respond(self, request: ChatRequest, emit: Emit, trace: Trace) -> Answer: ...
