"""LoRA adapters of a model: their files, and the models that they make of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from gateway.backends import adapters as lora
from gateway.backends.adapters import NO_ADAPTERS, Adapters
from gateway.backends.counting import ServerCounter
from gateway.backends.openai import Facts, OpenAIBackend
from gateway.config.files import Config, ModelEntry
from gateway.config.model_specs import LlamaCppSpec
from gateway.errors import InvalidRequest, Problem
from gateway.providers import LLAMA_SERVER
from gateway.sources import parse, path_of
from gateway.sources.file import FileSource
from gateway.sources.gguf import BrokenGguf, read_header


def adapter_files(spec: LlamaCppSpec, home: Path) -> tuple[tuple[str, Path], ...]:
    """(name, path) of each, in the order of the file."""
    return tuple((name, path_of(parse(each.source), home, each.sha256)) for name, each in spec.adapters.items())


def adapters_of(spec: LlamaCppSpec) -> Adapters:
    return Adapters({name: each.scale for name, each in spec.adapters.items()}) if spec.adapters else NO_ADAPTERS


def adapted(leaf: OpenAIBackend, adapter: str, given: dict[str, Any]) -> OpenAIBackend:
    """The model that an adapter makes of another: the same server and slots. Args: `given` is of its own entry."""
    assert leaf.adapters is not None and leaf.look is not None and isinstance(leaf.counter, ServerCounter)
    look, price = leaf.look, given["price"]

    def look_again() -> Facts:
        return replace(look(), price=price)

    counter = replace(leaf.counter, name=given["name"], defaults=given["defaults"])
    return replace(leaf, **given, look=look_again, counter=counter, adapters=replace(leaf.adapters, own=adapter))


def faults(entry: ModelEntry, spec: LlamaCppSpec, config: Config, home: Path) -> Iterator[Problem]:
    """What is wrong with an entry's `defaults` of adapters and, if it is itself one, with its file. A file that is not
    there yet is a warning."""
    document, model = config.models_document, entry.base or entry.name
    at = ("models", model, "adapters", entry.adapter) if entry.adapter else ("models", model)
    try:
        lora.check(spec.defaults.get(lora.FIELD, []), entry.name, adapters_of(spec), LLAMA_SERVER)
    except InvalidRequest as exc:
        yield document.problem((*at, "defaults", lora.FIELD), exc.message)
    if not entry.adapter:
        return
    source = parse(spec.adapters[entry.adapter].source)
    path = dict(adapter_files(spec, home))[entry.adapter]
    if path.exists():
        fault = unfit(path, path_of(parse(spec.source), home, spec.sha256))
        if fault is not None:
            yield document.problem((*at, "source"), fault)
    elif isinstance(source, FileSource):
        config.warnings.append(document.problem((*at, "source"), f"there is no file at {path}"))


def unfit(path: Path, base: Path) -> str | None:
    """Why a file is no adapter for the model in the file `base`, as far as both tell."""
    try:
        header = read_header(path)
    except BrokenGguf as exc:
        return str(exc)
    except OSError as exc:
        return f"cannot be read: {exc.strerror}"
    if header.context is not None or header.has_template:
        return "is a whole model, and no adapter"
    try:
        kind = read_header(base).architecture
    except (BrokenGguf, OSError):  # not fetched yet, or not what it should be, which its engine says
        return None
    return None if header.architecture == kind else f"is for '{header.architecture}', and the model is of '{kind}'"
