"""Adapters that were trained here, beside those that models.yaml names."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from gateway.config.adapters import unfit
from gateway.config.files import Config, ModelEntry
from gateway.config.model_specs import AdapterSpec, LlamaCppSpec
from gateway.errors import Problem
from gateway.sources import parse, path_of
from gateway.sources.storage import sha256_of
from gateway.training.jobs import Trainables
from gateway.training.process import ADAPTER
from gateway.training.registry import Entry, folder_of, path_in, read_registry
from gateway.training.trial import SERVED


def with_trained(config: Config, home: Path) -> tuple[Config, list[Entry]]:
    """Each adapter is a model like those of models.yaml. One that does not fit its model any more is
    left out, with a warning. Raises: ConfigError for a registry that cannot be read."""
    models, found = dict(config.models), []
    for entry in sorted(read_registry(home).values(), key=lambda one: one.created):
        if entry.state not in SERVED:
            continue
        why = _unfit(entry, models, home)
        if why:
            config.warnings.append(Problem(str(path_in(home)), 0, entry.full_name, why))
        else:
            _add(entry, models, home)
            found.append(entry)
    return replace(config, models=models), found


def trainable_in(config: Config) -> frozenset[str]:
    """Models whose server takes adapters, whether or not their file is here yet."""
    return frozenset(name for name, entry in config.models.items() if _is_trainable(entry))


def _is_trainable(entry: ModelEntry) -> bool:
    return not entry.adapter and isinstance(entry.spec, LlamaCppSpec) and entry.spec.server != "llama-cpp-python"


def undistillable(config: Config) -> frozenset[str]:
    """Models whose answers may not be trained on, by their licence."""
    found = (name for name, entry in config.models.items() if entry.spec is not None and not entry.spec.distillable)
    return frozenset(found)


def trainables_of(config: Config, home: Path) -> Trainables:
    """Models whose file is here, and whose server takes adapters."""
    found = {}
    for name, entry in config.models.items():
        if not _is_trainable(entry):
            continue
        spec = entry.spec
        assert isinstance(spec, LlamaCppSpec)  # else it is not
        path = path_of(parse(spec.source), home, spec.sha256)
        if path.exists():
            found[name] = path
    return Trainables(found, frozenset(config.models))


def _unfit(entry: Entry, models: dict[str, ModelEntry], home: Path) -> str:
    """Why it cannot be used; "" where it can."""
    base = models.get(entry.model)
    if base is None or base.spec is None:
        return f"its model '{entry.model}' is not there"
    if not isinstance(base.spec, LlamaCppSpec):
        return f"its model '{entry.model}' is on another engine now"
    if entry.full_name in models:
        return "models.yaml has a model of this name"
    path = path_of(parse(base.spec.source), home, base.spec.sha256)
    if path.exists() and _sha256_of(path, path.stat().st_mtime_ns) != entry.base_sha256:
        return f"'{entry.model}' is another model now than the one that it was trained over: train it anew"
    file = folder_of(home, entry) / ADAPTER
    if not file.exists():
        return "its file is missing"
    fault = unfit(file, path)
    return f"its file {fault}" if fault else ""


def _add(entry: Entry, models: dict[str, ModelEntry], home: Path) -> None:
    base = models[entry.model]
    assert isinstance(base.spec, LlamaCppSpec)  # else it is unfit
    own = AdapterSpec(source=f"file:{folder_of(home, entry) / ADAPTER}", sha256=entry.sha256)
    spec = base.spec.model_copy(update={"adapters": {**base.spec.adapters, entry.name: own}})
    models[entry.model] = base = replace(base, spec=spec)
    for name in spec.adapters:
        full = f"{entry.model}:{name}"
        owner = entry.data.get("key") if name == entry.name else models[full].owner if full in models else None
        adapted = spec.adapted(name)
        models[full] = replace(base, name=full, spec=adapted, base=entry.model, adapter=name, owner=owner)


@lru_cache(maxsize=64)
def _sha256_of(path: Path, changed: int) -> str:
    return sha256_of(path)
