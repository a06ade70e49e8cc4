"""Makes checks and signals known: our own folders, then the `gateway.plugins` entry points of installed packages."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from importlib.metadata import entry_points

import gateway.checks
import gateway.routing.signals


@cache
def load() -> None:
    """Import them all, once. A plugin that does not import stops the start: its names would be missing later."""
    for package in (gateway.checks, gateway.routing.signals):
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{package.__name__}.{module.name}")
    for point in entry_points(group="gateway.plugins"):
        point.load()
