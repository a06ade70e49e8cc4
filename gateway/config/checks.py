"""`checks:` of a node, from YAML to checks that are ready to judge: built, and bound to the models they name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gateway.chat import Responder
from gateway.checks import CHECKS, Bindable, Check, Resources
from gateway.config.lines import Document, Loc, nearest
from gateway.errors import Problem
from gateway.gateway import Model
from gateway.transport import HttpClient


@dataclass(frozen=True)
class Written:
    """A check with where it stands."""

    check: Check
    loc: Loc


@dataclass(frozen=True)
class ChecksReader:
    """Reads the checks of one policy; what is wrong with them goes into `problems`."""

    document: Document
    problems: list[Problem]
    models: Mapping[str, Model]
    client: HttpClient

    def read(self, items: Sequence[str | dict[str, Any]], at: Loc) -> tuple[Written, ...]:
        """Those that cost something last, else in their order: a draft that fails another needs no judge."""
        found = []
        for i, item in enumerate(items):
            here = (*at, i)
            if isinstance(item, str):
                name, parameters = item, None
            elif len(item) == 1:
                name, parameters = next(iter(item.items()))
            else:
                self._wrong(here, "wants one check: a name, or a name with its parameters")
                continue
            check = self._read(name, parameters, here)
            if check is not None:
                found.append(Written(check, here if parameters is None else (*here, name)))
        return tuple(sorted(found, key=lambda one: one.check.costly))

    def bind(self, written: Sequence[Written], own: Responder | None) -> tuple[Check, ...]:
        """`own`: what answers where they judge; None where that is inactive."""
        bound = []
        for one in written:
            names = [name for key in one.check.names_models if (name := getattr(one.check, key)) is not None]
            models = {name: self.models[name].responder for name in names if name in self.models}
            check: Check | None = one.check
            if len(models) == len(names) and isinstance(one.check, Bindable):
                check = self._bound(one.check, one.loc, Resources(models, own, self.client, self._folder))
            if check is not None:
                bound.append(check)
        return tuple(bound)

    @property
    def _folder(self) -> Path:
        return Path(self.document.file).parent

    def _bound(self, check: Bindable, at: Loc, resources: Resources) -> Check | None:
        try:
            return check.bound(resources)
        except ValueError as exc:
            self._wrong(at, str(exc))
            return None

    def _read(self, name: str, parameters: Any, at: Loc) -> Check | None:
        kind = CHECKS.get(name)
        if kind is None:
            self._wrong(at, f"unknown check '{name}'", nearest(name, CHECKS))
            return None
        fields = list(kind.__dataclass_fields__)
        if parameters is None:
            parameters = {}
        elif not isinstance(parameters, dict) or (name == "json_schema" and not set(parameters) <= set(fields)):
            if not fields:
                self._wrong(at, f"check '{name}' takes no parameters")
                return None
            parameters = {fields[0]: parameters}  # the short form: the first field's value alone
        try:
            check: Check = kind(**parameters)
        except ValidationError as exc:
            self._explain(exc, name, fields, at)
            return None
        for key in kind.names_models:
            model = getattr(check, key)
            if model is not None and model not in self.models:
                place = (*at, name, key)
                self._wrong(place, f"no model is called '{model}'", nearest(str(model), self.models))
        return check

    def _explain(self, exc: ValidationError, name: str, fields: Sequence[str], at: Loc) -> None:
        for error in exc.errors(include_input=False, include_url=False):
            key = ".".join(str(part) for part in error["loc"] if part != name) or name
            unknown = error["type"] in ("unexpected_keyword_argument", "extra_forbidden")
            message = f"unknown parameter '{key}'" if unknown else error["msg"].removeprefix("Value error, ")
            hint = nearest(key, fields) if unknown else ""
            self._wrong((*at, name, *error["loc"]), message, hint)

    def _wrong(self, loc: Loc, message: str, hint: str = "") -> None:
        self.problems.append(self.document.problem(loc, message, hint))
