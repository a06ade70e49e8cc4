"""`python run.py NAME …`: the tests of those files beside it, which say what a client has to make of the gateway.

They run in the client's own environment, without pytest and the gateway's packages.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

URL = os.environ["GATEWAY_URL"]
BASE = f"{URL}/v1"
KEY = os.environ["GATEWAY_KEY"]


def main(*names: str) -> int:
    """Every function that is called `test_…`. What failed is shown, and then the exit status is 1."""
    modules = [importlib.import_module(name) for name in names]
    tests = [test for module in modules for name, test in vars(module).items() if name.startswith("test_")]
    failed = sum(_fails(test) for test in tests)
    print(f"{failed} of {len(tests)} failed" if failed else f"{len(tests)} ok")
    return 1 if failed else 0


def _fails(test: Callable[[], Any]) -> bool:
    try:
        asyncio.run(test()) if inspect.iscoroutinefunction(test) else test()
    except Exception:
        print(f"--- {test.__module__} {test.__name__}", traceback.format_exc(), sep="\n")
        return True
    return False


if __name__ == "__main__":
    sys.modules["run"] = sys.modules["__main__"]
    sys.exit(main(*sys.argv[1:]))
