"""What all commands have in common: where they print, the options for the files, and the database."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console

T = TypeVar("T")
console, errors = Console(), Console(stderr=True)

Models = Annotated[Path, typer.Option("--models", help="The models file.", envvar="GATEWAY_MODELS")]
Policies = Annotated[Path, typer.Option("--policies", help="The folder of policies.", envvar="GATEWAY_POLICIES")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
MODELS, POLICIES = Path("models.yaml"), Path("policies")


def print_json(data: Any) -> None:
    print(json.dumps(data, indent=2, ensure_ascii=False, default=str))


def with_database(action: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
    """Raises: GatewayError where it cannot be opened."""
    from gateway.runtime import gateway_home
    from gateway.store.database import open_database

    async def run() -> T:
        database = await open_database(gateway_home())
        try:
            return await action(database)
        finally:
            await database.close()

    return asyncio.run(run())
