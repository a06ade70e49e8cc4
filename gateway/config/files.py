"""models.yaml and the policies, read and checked: all faults at once, nothing built yet."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gateway.config.lines import Document, fill_variables, nearest, read, variables_in
from gateway.config.model_specs import MODEL_SPECS, NAME, LlamaCppSpec, ModelSpec, ScriptedSpec
from gateway.config.problems import problems_of
from gateway.config.replicas import VARIABLES, shared
from gateway.config.risks import risks_of
from gateway.config.secrets import secret_of, written_out
from gateway.config.spec import ModelsFileSpec, PolicySpec
from gateway.errors import ConfigError, Problem


@dataclass(frozen=True)
class ModelEntry:
    """`spec` is None while a variable that the entry names is not set; `why` says which, and `accepts` what kinds of
    content it would take. `adapter` of the model `base` has no entry of its own in the file, but is a model all the
    same. `owner`: the key that had it trained."""

    name: str
    engine: str
    spec: ModelSpec | None
    why: str = ""
    accepts: tuple[str, ...] = ()
    base: str = ""
    adapter: str = ""
    owner: str | None = None


@dataclass(frozen=True)
class PolicyFile:
    document: Document
    spec: PolicySpec


@dataclass
class Config:
    """What the files say. `folder` is where models.yaml lies, for paths relative to it; `variables`: names of those of
    the environment that they use."""

    folder: Path
    models_document: Document
    settings: ModelsFileSpec
    models: Mapping[str, ModelEntry]
    policies: list[PolicyFile]
    warnings: list[Problem] = field(default_factory=list)
    variables: frozenset[str] = frozenset()

    @property
    def secrets(self) -> frozenset[str]:
        """What must not be seen: variables are mostly keys, and so are keys."""
        keys = [getattr(entry.spec, name, None) for entry in self.models.values() for name in ("api_key", "key")]
        variables = map(os.environ.get, (*self.variables, *VARIABLES.values()))
        settings = self.settings
        urls = settings.database_url, settings.redis_url, settings.metrics_key
        return frozenset(one for one in (*variables, *keys, *urls) if one)

    @property
    def scripts(self) -> frozenset[Path]:
        """Files of scripted models."""
        specs = [entry.spec for entry in self.models.values()]
        return frozenset(self.folder / s.script for s in specs if isinstance(s, ScriptedSpec) and s.script)


def read_config(models: Path, policies: Path) -> Config:
    """Read a models.yaml and a folder of policies. Raises: ConfigError with every fault found."""
    problems: list[Problem] = []
    warnings: list[Problem] = []
    document, settings, entries = _read_models(models, problems, warnings)
    variables = set(variables_in(document.data)) if document is not None else set()
    found = _read_policies(policies, problems, variables)
    if problems or settings is None or document is None:
        raise ConfigError(problems)
    specs = {name: entry.spec for name, entry in entries.items() if entry.spec is not None and not entry.base}
    warnings.extend(risks_of(document, settings, specs))
    return Config(models.parent, document, settings, entries, found, warnings, frozenset(variables))


def _read_models(
    path: Path, problems: list[Problem], warnings: list[Problem]
) -> tuple[Document | None, ModelsFileSpec | None, dict[str, ModelEntry]]:
    entries: dict[str, ModelEntry] = {}
    try:
        document = read(path)
    except ConfigError as exc:
        problems.extend(exc.problems)
        return None, None, entries
    if not isinstance(document.data, dict):
        problems.append(Problem(document.file, 0, "", "wants a mapping with the key 'models'"))
        return document, None, entries
    filled = _telemetry(document, warnings) | _shards(document, warnings) | shared(document, problems, warnings)
    data = {**document.data, **filled, **_metrics_key(document, problems, warnings)}
    try:
        settings = ModelsFileSpec.model_validate(data)
    except ValidationError as exc:
        problems.extend(problems_of(exc, document, (), ModelsFileSpec))
        settings = None
    listed = document.data.get("models")
    listed = listed if isinstance(listed, dict) else {}
    for name, data in listed.items():
        if isinstance(data, dict):
            entry = _read_entry(document, name, data, problems, warnings)
            if entry is not None:
                entries[name] = entry
                entries |= _adapter_entries(document, entry, data, set(listed), problems)
    return document, settings, entries


def _telemetry(document: Document, warnings: list[Problem]) -> dict[str, Any]:
    """With its variables; nothing is exported while one of them is not set, and the warning says so."""
    missing: set[str] = set()
    filled = {name: fill_variables(document.data[name], missing) for name in ("telemetry",) if name in document.data}
    if missing:
        names = ", ".join(sorted(missing))
        warnings.append(document.problem(("telemetry",), "nothing is exported", f"set {names} in the environment"))
        return {"telemetry": {}}
    return filled


def _shards(document: Document, warnings: list[Problem]) -> dict[str, Any]:
    """With the variables of its subscriptions; one whose variables are not set is left out, with a warning."""
    said = document.data.get("shards")
    subscriptions = said.get("subscribe") if isinstance(said, dict) else None
    if not isinstance(said, dict) or not isinstance(subscriptions, list):
        return {}
    kept = []
    for place, one in enumerate(subscriptions):
        missing: set[str] = set()
        filled = fill_variables(one, missing)
        if missing:
            names = ", ".join(sorted(missing))
            at = ("shards", "subscribe", place)
            warnings.append(document.problem(at, "is not followed", f"set {names} in the environment"))
        else:
            kept.append(filled)
    return {"shards": {**said, "subscribe": kept}}


def _metrics_key(document: Document, problems: list[Problem], warnings: list[Problem]) -> dict[str, Any]:
    """With its variable, which has to be set: /metrics must not be open because it is not."""
    written = document.data.get("metrics_key")
    if not isinstance(written, str):
        return {}
    key = secret_of(document, "metrics_key", problems)
    if key == written:
        written_out(document, ("metrics_key",), "key", warnings)
    return {"metrics_key": key}


def _adapter_entries(
    document: Document, base: ModelEntry, data: dict[str, Any], taken: set[str], problems: list[Problem]
) -> dict[str, ModelEntry]:
    """One for each adapter of a model, also while that is inactive."""
    given = data.get("adapters") if issubclass(MODEL_SPECS[base.engine], LlamaCppSpec) else None
    found = {}
    for adapter in given if isinstance(given, dict) else ():
        name, at = f"{base.name}:{adapter}", ("models", base.name, "adapters", adapter)
        if name in taken:
            problems.append(document.problem(at, f"'{name}' is the name of a model", "call the adapter otherwise"))
        elif not re.fullmatch(NAME, name):
            problems.append(document.problem(at, f"the model's name '{name}' is too long"))
        else:
            spec = base.spec.adapted(adapter) if isinstance(base.spec, LlamaCppSpec) else None
            found[name] = replace(base, name=name, spec=spec, base=base.name, adapter=adapter)
    return found


def _read_entry(
    document: Document, name: str, data: dict[str, Any], problems: list[Problem], warnings: list[Problem]
) -> ModelEntry | None:
    at = ("models", name)
    engine = data.get("engine")
    if not isinstance(engine, str) or engine not in MODEL_SPECS:
        message = "'engine' is missing" if engine is None else f"unknown engine '{engine}'"
        loc = at if engine is None else (*at, "engine")
        problems.append(document.problem(loc, message, nearest(str(engine or ""), MODEL_SPECS)))
        return None
    missing: set[str] = set()
    filled = fill_variables(data, missing)
    kind = MODEL_SPECS[engine]
    try:
        spec = kind.model_validate(filled)
    except ValidationError as exc:
        found = list(problems_of(exc, document, at, kind))
        # A value that only an unset variable leaves empty is no fault: the entry is inactive.
        serious = [p for p in found if not (missing and _names_variable(document, p))]
        if serious:
            problems.extend(serious)
            return None
        spec = None
    for key in ("api_key", "key"):
        if _stands_there(data.get(key), getattr(spec, key, None)):
            written_out(document, (*at, key), "key", warnings)
    if missing:
        names = ", ".join(sorted(missing))
        accepts = data.get("accepts") or kind.model_fields["accepts"].default or ()
        return ModelEntry(name, engine, None, f"set {names} in the environment to use it", tuple(accepts))
    return ModelEntry(name, engine, spec)


def _stands_there(written: object, value: object) -> bool:
    """Is a value, or one of a list, written out?"""
    if isinstance(value, tuple):
        return isinstance(written, list) and any(map(_stands_there, written, value))
    return bool(value) and written == value


def _names_variable(document: Document, problem: Problem) -> bool:
    return any(
        line == problem.line and isinstance(value := document.value_at(loc), str) and "${" in value
        for loc, line in document.lines.items()
    )


def policy_files(folder: Path) -> list[Path]:
    """In order; a file stands for itself. Hidden ones are no policies: editors and file systems keep things of their
    own in them."""
    if folder.is_file():
        return [folder]
    found = (path for path in folder.glob("*") if path.suffix in (".yaml", ".yml"))
    return sorted(path for path in found if not path.name.startswith("."))


def _read_policies(folder: Path, problems: list[Problem], variables: set[str]) -> list[PolicyFile]:
    if not folder.exists():
        problems.append(Problem(str(folder), 0, "", "is not a folder of policies (*.yaml)"))
        return []
    found = []
    for path in policy_files(folder):
        try:
            document = read(path)
            missing: set[str] = set()
            variables |= variables_in(document.data)
            document.data = fill_variables(document.data, missing)
            if missing:
                names = ", ".join(sorted(missing))
                problems.append(Problem(document.file, 0, "", f"names variables that are not set: {names}"))
            if not isinstance(document.data, dict):
                problems.append(Problem(document.file, 0, "", "wants a mapping with the keys 'policy' and 'routes'"))
                continue
            found.append(PolicyFile(document, PolicySpec.model_validate(document.data)))
        except ConfigError as exc:
            problems.extend(exc.problems)
        except ValidationError as exc:
            problems.extend(problems_of(exc, document, (), PolicySpec))
    return found
