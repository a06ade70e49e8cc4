"""What providers and servers that speak OpenAI's protocol want otherwise than OpenAI: data, and one function that fits
a request to it.

A field is dropped only where the provider is known to refuse or to ignore it, and where an answer without it is still
an answer to what was asked. What would change its meaning (`tools`, `response_format`, `stop`) is sent, and the
provider's own 400 speaks. What is not known of here is sent too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal
from urllib.parse import urlsplit

from gateway import past as pasts
from gateway.past import Past

Json = dict[str, Any]
CHANGES_NOTHING: Mapping[str, object] = {  # values that say what is the case without them
    "frequency_penalty": 0,
    "logit_bias": {},
    "logprobs": False,
    "lora": [],
    "min_p": 0,
    "n": 1,
    "presence_penalty": 0,
    "repeat_penalty": 1,
    "repetition_penalty": 1,
    "store": False,
    "temperature": 1,
    "tool_choice": "auto",
    "top_logprobs": 0,
    "top_p": 1,
    "verbosity": "medium",
}
TOOL_FIELDS = ("tools", "tool_choice", "parallel_tool_calls", "functions", "function_call")
OUR_OWN = frozenset({"stream_options"})  # the gateway keeps what they ask for, whether the provider knows them or not


@dataclass(frozen=True, slots=True)
class Quirks:
    """What is done to a request before it is sent.

    Args:
        drops: fields that are not sent.
        renames: fields with another name there.
        message_drops: fields of a message that are not sent; nor is then any that is null.
        roles: of messages, under another name there.
        any_tool: what `tool_choice: required` is called there.
        json_object_as_schema: `response_format: json_object` is sent as the schema of any object.
    """

    drops: frozenset[str] = frozenset()
    renames: Mapping[str, str] = field(default_factory=dict)
    message_drops: frozenset[str] = frozenset()
    roles: Mapping[str, str] = field(default_factory=dict)
    any_tool: str = ""
    json_object_as_schema: bool = False


NONE = Quirks()


@dataclass(frozen=True, slots=True)
class ModelQuirks:
    """Quirks of the models whose bare name begins with `pattern`, unless the request's `reasoning_effort` is one of
    `unless_effort` (None: left out)."""

    pattern: str
    quirks: Quirks
    unless_effort: tuple[str | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Provider:
    """A remote API, or a kind of server that others run.

    Args:
        base_url: the usual one; {braces} where it has an account's name in it.
        key_variable: where people keep its key.
        hosts: it is recognised by; with a dot in front, all hosts that end so.
        key_header: where it wants its key; as `Bearer` in `authorization`, as it is in any other.
        fetches_images: it may be handed http(s) addresses of images: it fetches them from its own network, not ours.
        always_streams: it is to be asked for a stream even where the client wants the answer whole.
        closes_connections: each is used once.
        truncates: it cuts off what its context does not hold, and does not say so.
        reports_cost: `usage.cost` is what it charges, in US dollars.
        adapters: how llama.cpp's field `lora` may name LoRA adapters to it: by `number`, by `any` word, or not at all.
        prompts: as who it takes them: `openai`, at `/completions`; `mistral`, at `/fim/completions`, answers in a
            chat's shape; `llama.cpp`, as OpenAI, but where there is a suffix at `/infill` of its root.
        past: what it wants of a conversation's earlier turns.
        speaks: the protocol of its chats.
        is_gateway: it keeps deadlines, cost limits and conversations that it is told of, and says what it has spent.
    """

    name: str
    base_url: str = ""
    key_variable: str = ""
    hosts: tuple[str, ...] = ()
    quirks: Quirks = NONE
    of_models: tuple[ModelQuirks, ...] = ()
    key_header: str = "authorization"
    fetches_images: bool = True
    always_streams: bool = False
    closes_connections: bool = False
    truncates: bool = False
    reports_cost: bool = False
    adapters: Literal["number", "any"] | None = None
    prompts: Literal["openai", "mistral", "llama.cpp"] = "openai"
    past: Past = pasts.UNMINDING
    speaks: Literal["chat", "responses", "messages"] = "chat"
    is_gateway: bool = False
    is_plain: bool = field(init=False, default=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_plain", self.quirks == NONE and not self.of_models)

    def headers(self, key: str) -> dict[str, str]:
        return {self.key_header: f"Bearer {key}" if self.key_header == "authorization" else key}


EFFORT = frozenset({"reasoning_effort"})
SAMPLING = frozenset(
    {"temperature", "top_p", "presence_penalty", "frequency_penalty", "logprobs", "top_logprobs", "logit_bias"}
)
OF_SAMPLERS = frozenset({"temperature", "top_k", "top_p"})
TO_COMPLETION_TOKENS = {"max_tokens": "max_completion_tokens"}
TO_MAX_TOKENS = {"max_completion_tokens": "max_tokens"}
AS_SYSTEM = {"developer": "system"}
# What those refuse that take no field that they do not know: of a request, and of an earlier answer sent back.
NEWER = frozenset({"prompt_cache_retention", "safety_identifier", "store", "verbosity"})
OF_ANSWERS = frozenset({"annotations", "audio", "refusal"})
# What vendors and people's own servers add to OpenAI's fields, and what those answer 400 to that take no others.
VENDORS_OWN = frozenset(
    "cache_prompt chat_template_kwargs do_sample enable_thinking keep_alive length_penalty min_p mirostat mirostat_eta "
    "mirostat_tau num_ctx repeat_last_n repeat_penalty repetition_penalty tfs_z top_a top_k typical_p".split()
)
REASONING = Quirks(drops=SAMPLING, renames=TO_COMPLETION_TOKENS)
DO_NOT_REASON = r"(?:gpt-[34]|chatgpt|gpt-5(?:\.\d+)?-chat)"
"""Models of OpenAI's, by their bare names: they refuse to be told how hard to think, and how much to say."""

OF_OPENAI_MODELS = (
    ModelQuirks(DO_NOT_REASON, Quirks(drops=frozenset({"reasoning_effort", "verbosity"}))),
    ModelQuirks(r"o\d|gpt-5(?!\.|-chat)", REASONING),
    # From here on they take these fields while they do not reason, which 5.1 to 5.4 do only when told to.
    ModelQuirks(r"gpt-5\.[1-4](?!.*chat)", REASONING, unless_effort=(None, "none")),
    ModelQuirks(r"gpt-(5\.[5-9]|[6-9])(?!.*chat)", REASONING, unless_effort=("none",)),
    ModelQuirks(r"gpt-[5-9]", Quirks(renames=TO_COMPLETION_TOKENS)),
)

PROVIDERS: Mapping[str, Provider] = {
    provider.name: provider
    for provider in (
        Provider(
            "openai",
            "https://api.openai.com/v1",
            "OPENAI_API_KEY",
            ("api.openai.com",),
            Quirks(drops=VENDORS_OWN),
            of_models=OF_OPENAI_MODELS,
            past=pasts.OPENAI,
        ),
        Provider(
            "azure",
            "https://{resource}.openai.azure.com/openai/v1",
            "AZURE_OPENAI_API_KEY",
            (".openai.azure.com", ".services.ai.azure.com", ".cognitiveservices.azure.com"),
            Quirks(drops=VENDORS_OWN),
            of_models=OF_OPENAI_MODELS,
            key_header="api-key",
            past=pasts.OPENAI,
        ),
        Provider(
            "openrouter",
            "https://openrouter.ai/api/v1",
            "OPENROUTER_API_KEY",
            ("openrouter.ai",),
            reports_cost=True,
            past=pasts.OPENROUTER,
        ),
        Provider(
            "mistral",
            "https://api.mistral.ai/v1",
            "MISTRAL_API_KEY",
            ("api.mistral.ai", "codestral.mistral.ai"),
            Quirks(  # it answers 422 to every field that it does not know; usage comes without being asked for
                drops=frozenset({"logit_bias", "stream_options", "user", *NEWER, *VENDORS_OWN}),
                renames={**TO_MAX_TOKENS, "seed": "random_seed"},
                message_drops=frozenset({"name", "reasoning", "reasoning_content", *OF_ANSWERS}),
                roles=AS_SYSTEM,
                any_tool="any",
            ),
            prompts="mistral",
            past=pasts.MISTRAL,
        ),
        Provider(
            "deepseek",
            "https://api.deepseek.com/v1",
            "DEEPSEEK_API_KEY",
            ("api.deepseek.com",),
            Quirks(renames=TO_MAX_TOKENS, roles=AS_SYSTEM),
            of_models=(ModelQuirks("deepseek-reasoner", Quirks(drops=frozenset({"logprobs", "top_logprobs"}))),),
            past=pasts.DEEPSEEK,
        ),
        Provider(
            "groq",
            "https://api.groq.com/openai/v1",
            "GROQ_API_KEY",
            ("api.groq.com",),
            Quirks(
                drops=frozenset({"logit_bias", "logprobs", "metadata", "prompt_cache_key", "top_logprobs"})
                | NEWER
                | VENDORS_OWN,
                message_drops=frozenset({"name", "reasoning_content", *OF_ANSWERS}),
            ),
            of_models=(
                ModelQuirks(r"(?!gpt-oss|qwen)", Quirks(drops=EFFORT, message_drops=frozenset({"reasoning"}))),
                ModelQuirks("gpt-oss", Quirks(drops=EFFORT), unless_effort=("low", "medium", "high")),
                ModelQuirks("qwen", Quirks(drops=EFFORT), unless_effort=("none", "default")),
            ),
            past=pasts.ONLY_REASONING,
        ),
        Provider(
            "together",
            "https://api.together.xyz/v1",
            "TOGETHER_API_KEY",
            ("api.together.xyz", "api.together.ai"),
            past=pasts.THINKS_ALOUD,
        ),
        Provider(
            "fireworks",
            "https://api.fireworks.ai/inference/v1",
            "FIREWORKS_API_KEY",
            ("api.fireworks.ai",),
            past=pasts.ONLY_CONTENT,
        ),
        Provider(
            "cerebras",
            "https://api.cerebras.ai/v1",
            "CEREBRAS_API_KEY",
            ("api.cerebras.ai",),
            Quirks(
                drops=frozenset({"frequency_penalty", "presence_penalty", "logit_bias", "metadata"})
                | NEWER
                | VENDORS_OWN,
                message_drops=frozenset({"reasoning_content", *OF_ANSWERS}),
                roles=AS_SYSTEM,
            ),
            past=pasts.ONLY_REASONING,
        ),
        Provider(
            "xai",
            "https://api.x.ai/v1",
            "XAI_API_KEY",
            ("api.x.ai",),
            of_models=(
                ModelQuirks(
                    r"grok-(3-mini|4|code)(?!.*non-reasoning)",
                    Quirks(drops=frozenset({"presence_penalty", "frequency_penalty"})),
                ),
                ModelQuirks(r"grok-(2|3(?!-mini)|4(?!\.[3-9](?!\d))|code)(?!.*multi-agent)", Quirks(drops=EFFORT)),
            ),
            past=pasts.ONLY_CONTENT,
        ),
        Provider(
            "anthropic",
            "https://api.anthropic.com/v1",
            "ANTHROPIC_API_KEY",
            ("api.anthropic.com",),
            of_models=(  # since 4.7 they are not told how to sample
                ModelQuirks(r"claude-[a-z]+-(4-[7-9](?!\d)|[5-9](?!\d)|\d\d(?!\d)|preview)", Quirks(drops=OF_SAMPLERS)),
            ),
            key_header="x-api-key",
            speaks="messages",
            past=pasts.CLAUDE,
        ),
        Provider(
            "perplexity",
            "https://api.perplexity.ai",
            "PERPLEXITY_API_KEY",
            ("api.perplexity.ai",),
            past=pasts.PLAIN,
        ),
    )
}
"""Remote APIs by name."""

SERVERS: Mapping[str, Provider] = {
    server.name: server
    for server in (
        Provider(
            "ollama",
            "http://127.0.0.1:11434/v1",
            quirks=Quirks(  # it ignores what it does not know; these its own pages say it does not take
                drops=frozenset({"logit_bias", "n", "tool_choice", "user"}), renames=TO_MAX_TOKENS, roles=AS_SYSTEM
            ),
            truncates=True,
            fetches_images=False,
            past=pasts.LOCAL,
        ),
        Provider(
            "lm-studio",
            "http://127.0.0.1:1234/v1",
            quirks=Quirks(renames=TO_MAX_TOKENS, roles=AS_SYSTEM, json_object_as_schema=True),
            truncates=True,
            fetches_images=False,
            past=pasts.LOCAL,
        ),
        Provider(
            # llama.cpp notices at the next token that nobody reads a stream any more, but finishes a whole answer; it
            # closes the connection after each stream and does not say so; it would fetch any address it is handed.
            "llama-server",
            "http://127.0.0.1:8080/v1",
            fetches_images=False,
            always_streams=True,
            closes_connections=True,
            adapters="number",
            prompts="llama.cpp",
            past=pasts.LOCAL,
        ),
        Provider("vllm", "http://127.0.0.1:8000/v1", fetches_images=False, past=pasts.LOCAL),
        Provider("onion-gateway", adapters="any", is_gateway=True),
    )
}
"""Kinds of server that people run themselves, by name."""

LOCAL_SERVERS: Mapping[str, str] = {name: server.base_url for name, server in SERVERS.items() if server.base_url}
"""Where each kind usually listens."""

ANY = Provider("openai", adapters="any", past=pasts.UNKNOWN)
"""A server that nothing is known of: it gets what the client sent."""

UNKNOWN_SERVER = Provider("openai", fetches_images=False, adapters="any")
"""The same, near us: it gets no addresses to fetch."""

LLAMA_SERVER = SERVERS["llama-server"]
KINDS: Mapping[str, Provider] = {**PROVIDERS, **SERVERS}


def recognise(base_url: str) -> Provider:
    """The provider at an address, by its host; `ANY` where it is none that is known."""
    try:
        host = urlsplit(base_url).hostname or ""
    except ValueError:
        return ANY
    for provider in PROVIDERS.values():
        if any(host == known or (known.startswith(".") and host.endswith(known)) for known in provider.hosts):
            return provider
    return ANY


def api_base(provider: Provider, base_url: str, model: str, api_version: str | None) -> tuple[str, str]:
    """Where `/chat/completions` hangs, and the query that goes with it.

    Azure's has the deployment's name in it where a dated `api_version` is asked for.
    """
    query = f"?api-version={api_version}" if api_version else ""
    if provider.name != "azure" or urlsplit(base_url).path not in ("", "/", "/openai", "/openai/"):
        return base_url, query
    root = base_url.rstrip("/").removesuffix("/openai")
    return (f"{root}/openai/deployments/{model}" if api_version else f"{root}/openai/v1"), query


def fitted(
    body: Mapping[str, Any], provider: Provider, model: str, drops: Iterable[str] = ()
) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """The body as this provider takes it, and the fields that were left out of it and might be missed.

    Args: `model` is the provider's name for it; `drops` are more fields that are not to be sent.
    """
    if provider.is_plain and not drops:
        return body, ()
    dropped: dict[str, None] = {}
    if drops:
        body = _fit(body, Quirks(drops=frozenset(drops)), dropped)
    if provider.quirks is not NONE:
        body = _fit(body, provider.quirks, dropped)
    for quirks in _of_model(provider, model, body):
        body = _fit(body, quirks, dropped)
    return body, tuple(dropped)


def _of_model(provider: Provider, model: str, body: Mapping[str, Any]) -> Iterable[Quirks]:
    effort = body.get("reasoning_effort")
    return (
        rule.quirks
        for rule in provider.of_models
        if _begins(model, rule.pattern) and not (rule.unless_effort and effort in rule.unless_effort)
    )


@lru_cache(1024)
def _begins(model: str, pattern: str) -> bool:
    return re.match(pattern, model.rpartition("/")[2].removeprefix("ft:")) is not None


def _fit(body: Mapping[str, Any], quirks: Quirks, dropped: dict[str, None]) -> Mapping[str, Any]:
    if body.get("tool_choice") == "none" and "tool_choice" in quirks.drops:  # it would call the tools that it is shown
        body = {name: value for name, value in body.items() if name not in TOOL_FIELDS}
    out: Json = {}
    for name, value in body.items():
        if name in quirks.drops:
            if value is not None and CHANGES_NOTHING.get(name) != value and name not in OUR_OWN:
                dropped[name] = None
        elif name not in quirks.renames:
            out[name] = value
    for name, there in quirks.renames.items():
        value, other = body.get(name), body.get(there)
        if value is None:
            continue
        wins = other is None or name == "max_completion_tokens"  # which is OpenAI's word now
        if other is not None and other != value:
            dropped[there if wins else name] = None
        if wins:
            out[there] = value
    if quirks.any_tool and out.get("tool_choice") == "required":
        out["tool_choice"] = quirks.any_tool
    if quirks.json_object_as_schema and out.get("response_format") == {"type": "json_object"}:
        any_object = {"name": "object", "schema": {"type": "object"}}
        out["response_format"] = {"type": "json_schema", "json_schema": any_object}
    if (quirks.message_drops or quirks.roles) and "messages" in body:
        out["messages"] = [_fit_message(message, quirks, dropped) for message in body.get("messages") or ()]
    return out


def _fit_message(message: Any, quirks: Quirks, dropped: dict[str, None]) -> Any:
    if not isinstance(message, Mapping):
        return message
    role = message.get("role")
    there = quirks.roles.get(role) if isinstance(role, str) else None
    surplus = quirks.message_drops & message.keys()
    if quirks.message_drops:
        surplus |= {name for name, value in message.items() if value is None and name != "content"}
    if there is None and not surplus:
        return message
    dropped.update((f"messages[].{name}", None) for name in sorted(surplus) if message[name])
    out = {name: value for name, value in message.items() if name not in surplus}
    return {**out, "role": there} if there else out
