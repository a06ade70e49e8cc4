"""Values of models.yaml that belong into the environment: filled from there, and warned of where they are not."""

from __future__ import annotations

from typing import Any

from gateway.config.lines import Document, Loc, fill_variables
from gateway.errors import Problem


def secret_of(document: Document, key: str, problems: list[Problem]) -> Any:
    """What a key at the top says, with its variables; None where it says nothing, or one of them is not set, which is a
    fault: the server must not begin without what they were to say."""
    missing: set[str] = set()
    value = fill_variables(document.data.get(key), missing)
    if not missing:
        return value
    names = ", ".join(sorted(missing))
    problems.append(document.problem((key,), f"names variables that are not set: {names}", f"set {names}"))
    return None


def written_out(document: Document, loc: Loc, what: str, warnings: list[Problem]) -> None:
    """Warn of what stands in the file itself."""
    hint = "write ${NAME} and set NAME in the environment"
    warnings.append(document.problem(loc, f"the {what} stands in the file as it is", hint))
