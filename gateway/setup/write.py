"""The text of models.yaml and policies/default.yaml: written by hand, with comments that teach."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import yaml

from gateway.setup.discover import Discovery
from gateway.setup.keys import FoundKey
from gateway.setup.plan import SHIPPED_SHA256, SHIPPED_SOURCE, Choice, Local, Plan

COLUMN = 40  # where comments begin
MAX_CONTEXT = 8192  # longer ones cost memory for each slot
SMALL = 1e9
FREE = "{input_usd_per_mtok: 0, output_usd_per_mtok: 0}"
PLAIN = re.compile(r"[A-Za-z0-9./][A-Za-z0-9 ._:/@+=-]*")
Line = tuple[str, str, str]  # key, value as YAML, comment

MODELS_HEAD = """\
# yaml-language-server: $schema=SCHEMAS/models.json
# The models this gateway may ask, from small and local to large and remote: written by `gateway init`, yours to change.
# Every key is explained in docs/models.md. `gateway check` names what is wrong, `gateway models` shows who is active.
# ${NAME} is read from the environment: a key never has to stand in this file.
"""
POLICY_HEAD = """\
# yaml-language-server: $schema=SCHEMAS/policy.json
# The policy that `model: auto` stands for: written by `gateway init`, yours to change. Every key: docs/policies.md.
# Routes are tried in order; the first that fits answers. `gateway explain "a prompt"` shows which one that is.
policy: default
serves: [auto]
routes:
"""
VECTORS_HINT = "  # (a server's model, attached as above, answers /v1/embeddings by its name)\n"
CHECKS = ("finish_reason", "not_empty", "not_refusal", "not_echo", "no_loop")
CHECK_COMMENTS = {"json_schema": "if the client asked for a schema", "tool_arguments": "if the client offered tools"}


def models_text(plan: Plan, found: Discovery, schemas: str = "schemas") -> str:
    """`schemas`: their folder, relative to models.yaml."""
    parts = [MODELS_HEAD.replace("SCHEMAS", schemas), "models:\n"]
    parts += [_block(choice, plan) for choice in plan.live]
    if plan.has_expert:
        parts.append(_expert())
    parts += [_commented(_block(choice, plan), choice.why) for choice in plan.idle]
    if found.aws_variable is not None:
        parts.append(_commented(_bedrock(), f"{found.aws_variable} is set: a model of Amazon Bedrock looks like this"))
    embedders = [*(file.stem for file in found.files.embedders), *_server_embedders(found)]
    if embedders:
        names = _plain(", ".join(embedders), 300)
        parts.append(f"  # Found too, but made for vectors and not for chat: {names}\n{VECTORS_HINT}")
    head, *blocks = parts
    return head + blocks[0] + "\n".join(blocks[1:])


def _server_embedders(found: Discovery) -> list[str]:
    return [model.id for server in found.local.servers for model in server.models if not model.chats]


def policy_text(plan: Plan, schemas: str = "../schemas") -> str:
    """Chores to the core, pictures to who takes them, all else through the cascade."""
    core, rest = plan.core, _after_core(plan)
    routes = [
        "  - name: titles                        # chores that chat and IDE clients send by themselves\n"
        "    when: {background: true}\n"
        f"    answer: {{model: {scalar(core.name)}}}\n"
    ]
    seeing = [name for name, accepts in rest if "image" in accepts]
    if seeing and "image" not in core.accepts:
        routes.append(
            "  - name: images                        # to the models that take them\n"
            "    when: {has: [image, audio, file]}\n"
            f"    answer: {_short(seeing)}\n"
        )
    routes.append("  - name: rest\n    answer:\n      cascade:\n" + _cascade(plan, [name for name, _ in rest]))
    return POLICY_HEAD.replace("SCHEMAS", schemas) + "\n".join(routes)


def _after_core(plan: Plan) -> list[tuple[str, Sequence[str]]]:
    after = [choice for choice in (plan.second, *plan.remotes) if choice is not None]
    named: list[tuple[str, Sequence[str]]] = [(choice.name, choice.accepts) for choice in after]
    return [*named, ("expert", ("text", "image"))] if plan.has_expert else named


def _short(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"{{model: {scalar(names[0])}}}"
    return "{cascade: [" + ", ".join(f"{{model: {scalar(name)}}}" for name in names) + "]}"


def _cascade(plan: Plan, rest: Sequence[str]) -> str:
    local = [plan.core, *([plan.second] if plan.second else [])]
    checked = len(local) if len(rest) + 1 > len(local) else len(local) - 1
    lines = []
    for number, name in enumerate([plan.core.name, *rest]):
        if number < max(checked, 1):
            comment = (
                "answers first; a draft that fails a check is never seen" if number == 0 else "then the larger one"
            )
            lines += [_commented_line(f"        - model: {scalar(name)}", comment), "          checks:"]
            lines += [f"            - {check}" for check in CHECKS]
            lines += [_commented_line(f"            - {check}", why) for check, why in CHECK_COMMENTS.items()]
            if _is_shipped(local[number]):
                lines.append("            - {logprob: {mean_above: -0.9}}")
        else:
            lines.append(_commented_line(f"        - model: {scalar(name)}", _place(plan, name)))
    return "\n".join(lines) + "\n"


def _place(plan: Plan, name: str) -> str:
    if name == "expert":
        return "left out while it is inactive"
    if len(plan.remotes) == 2 and name == plan.remotes[1].name:
        return "asked where the one before cannot be reached"
    return "the last word: nothing checks it"


def _block(choice: Choice, plan: Plan) -> str:
    if choice.key is not None:
        remark, lines = _remote(choice.key)
    elif choice.local is None:
        remark, lines = _shipped()
    elif choice.local.file is not None:
        remark, lines = _file(choice.local, is_core=choice is plan.core)
    else:
        remark, lines = _served(choice.local, is_core=choice is plan.core)
    return _entry(choice.name, remark, lines)


def _shipped() -> tuple[str, list[Line]]:
    return "SmolLM2 135M: small, on this machine, always awake: it answers first", [
        ("engine", "llama.cpp", ""),
        ("source", SHIPPED_SOURCE, ""),
        ("sha256", SHIPPED_SHA256, ""),
        ("context", "8192", "tokens per request"),
        ("slots", "4", "answers at the same time"),
        ("residency", "always", ""),
        ("defaults", "{temperature: 0.2, top_p: 0.9, max_tokens: 512}", "where the client leaves them out"),
        ("good_at", "[chat, extraction, titles]", ""),
        ("price", FREE, ""),
    ]


def _file(local: Local, *, is_core: bool) -> tuple[str, list[Line]]:
    file = local.file
    assert file is not None
    header = file.header
    trained = header.context or 4096
    about = ", ".join(filter(None, (header.name, header.size_label, file.quantization, _size(file.size_bytes))))
    lines: list[Line] = [("engine", "llama.cpp", ""), ("source", scalar(f"file:{file.path}"), "")]
    if "image" in local.accepts:
        lines.append(("mmproj", scalar(f"file:{file.projector}"), "turns pictures into tokens"))
        lines.append(("accepts", "[text, image]", ""))
    context = max(256, min(trained, MAX_CONTEXT))
    lines.append(("context", str(context), f"tokens per request; trained for {trained}"))
    lines.append(("slots", "4" if is_core and local.parameters <= SMALL else "1", "answers at the same time"))
    lines.append(("defaults", "{max_tokens: 1024}", "where the client leaves it out: small models may not find an end"))
    lines.append(("price", FREE, "without a price a model is not used under a cost limit"))
    if not header.has_template:
        lines.append(("good_at", "[completion]", "it has no chat template: perhaps it was never taught to chat"))
    return (
        f"{_plain(about)}: {'small, answers first' if is_core else 'larger'}",
        lines,
    )


def _served(local: Local, *, is_core: bool) -> tuple[str, list[Line]]:
    server, model = local.server, local.model
    assert server is not None and model is not None
    size = _size(model.size_bytes) if model.size_bytes else ""
    window = f"{model.context} tokens" if model.context else ""
    about = ", ".join(filter(None, (f"served by {server.kind}", size, window)))
    lines: list[Line] = [
        ("engine", "attach", "a server that somebody else runs"),
        ("url", scalar(server.base_url), ""),
        ("model", scalar(model.id), ""),
        *([("accepts", f"[{', '.join(local.accepts)}]", "")] if model.accepts else []),
        ("price", FREE, ""),
    ]
    return _plain(about) + (": small, answers first" if is_core else ""), lines


def _remote(key: FoundKey) -> tuple[str, list[Line]]:
    lines: list[Line] = [("engine", key.engine, "")]
    if key.base_url is not None:
        lines.append(("base_url", scalar(key.base_url), ""))
    said = {
        "valid": "taken by the provider",
        "refused": f"REFUSED by the provider ({key.why}): no route uses this model",
        "unchecked": f"not checked: {key.why}",
    }[key.state]
    lines.append(("api_key", f"${{{key.variable}}}", said))
    if key.is_listed:
        lines.append(("model", scalar(key.model or ""), ""))
    elif key.model:
        lines.append(
            ("model", scalar(key.model), "a known one: the provider's list was not read, so look whether it is there")
        )
    else:
        lines.append(("model", "NAME", "write one that the provider lists"))
    lines.append(("accepts", f"[{', '.join(key.accepts)}]", ""))
    return f"{_plain(key.provider)}, remote", lines


def _expert() -> str:
    return _entry(
        "expert",
        "inactive, and said so, until OPENAI_API_KEY is set",
        [
            ("engine", "openai", ""),
            ("base_url", "https://api.openai.com/v1", ""),
            ("api_key", "${OPENAI_API_KEY}", ""),
            ("model", "gpt-5-mini", ""),
            ("accepts", "[text, image]", ""),
            ("price", "{input_usd_per_mtok: 0.25, cached_input_usd_per_mtok: 0.025, output_usd_per_mtok: 2}", ""),
        ],
    )


def _bedrock() -> str:
    return _entry(
        "bedrock",
        "",
        [
            ("engine", "litellm", "takes the AWS credentials that the AWS tools take"),
            ("model", "bedrock/us.anthropic.claude-sonnet-4-5-20250929-v1:0", "as your region names it"),
            ("accepts", "[text, image]", ""),
        ],
    )


def _entry(name: str, remark: str, lines: Sequence[Line]) -> str:
    out = [_commented_line(f"  {scalar(name)}:", remark)]
    out += [_commented_line(f"    {key}: {value}", comment) for key, value, comment in lines]
    return "\n".join(out) + "\n"


def _commented_line(text: str, comment: str) -> str:
    return f"{text:<{COLUMN - 2}}  # {comment}" if comment else text


def _commented(block: str, why: str) -> str:
    return f"  # {_plain(why)}\n" + "".join(f"  # {line[2:]}\n" for line in block.splitlines())


def scalar(text: str) -> str:
    """Text as YAML: plain where it stays itself, else in double quotes."""
    if PLAIN.fullmatch(text) and not text.endswith((":", " ")) and ": " not in text and yaml.safe_load(text) == text:
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() and c != "\ufeff" else f"\\U{ord(c):08x}" for c in quoted)


def _plain(text: str, limit: int = 100) -> str:
    """Of others' making, for a comment: one short line, nothing that ends it or moves a terminal's cursor."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.0f} MB"


def _is_shipped(choice: Choice) -> bool:
    """The threshold of the check `logprob` was measured on this model only."""
    file: Path | None = choice.local.file.path if choice.local is not None and choice.local.file is not None else None
    return choice.local is None or (file is not None and file.name == SHIPPED_SOURCE.rpartition("/")[2])
