"""The child: shuts itself in, runs the code with its tests, says what became of them. Standard library only.

On its standard input: JSON with `code`, `tests`, `examples`, `folder`, `memory_bytes`, `cpu_s`, `unconfined` and a
`token`. On its standard output: the line `ready LAYERS`, then the token and the result as JSON.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import resource
import signal
import sys
import types
from collections.abc import Sequence
from typing import Any

from gateway.checks.sandbox import landlock, namespaces, seccomp

PR_SET_PDEATHSIG = 1
MAX_FILE_BYTES = 16 * 2**20
MAX_OPEN_FILES = 64
MAX_REASON_CHARS = 300
SYSTEM = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/etc/localtime", "/usr/share/zoneinfo")
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")


def main() -> None:
    given = json.loads(sys.stdin.buffer.read())
    out = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    os.close(nothing)
    layers = confine(given)
    os.write(out, f"ready {json.dumps(layers)}\n".encode())
    if not ({"landlock", "seccomp"} <= set(layers) or given["unconfined"]):
        os._exit(0)
    reason = fault_of(given["code"], given["tests"], given["examples"])
    os.write(out, f"{given['token']} {json.dumps({'reason': reason})}\n".encode())
    os._exit(0)  # threads of the code may still run


def confine(given: dict[str, Any]) -> list[str]:
    """From the outside in. Returns which walls stand."""
    for name in [name for name in sys.modules if name == "gateway" or name.startswith("gateway.")]:
        del sys.modules[name]
    os.chdir(given["folder"])
    layers = []
    if sys.platform == "linux":
        die_with_parent = ctypes.CDLL(None).prctl
        has_folder = namespaces.enter(given["folder"])
        layers += ["namespaces"] if has_folder else []
        library = os.path.dirname(os.__file__)
        readable = (library, os.path.join(sys.base_prefix, "lib"), *SYSTEM, *DEVICES)
        layers += ["landlock"] if landlock.restrict(readable, [given["folder"]] if has_folder else []) else []
        namespaces.drop_rights()
        die_with_parent(PR_SET_PDEATHSIG, signal.SIGKILL)
    set_limits(given["memory_bytes"], given["cpu_s"])
    if sys.platform == "linux" and seccomp.restrict():
        layers.append("seccomp")
    return layers


def set_limits(memory_bytes: int, cpu_s: float) -> None:
    limits = [
        (resource.RLIMIT_CPU, math.ceil(cpu_s) + 1),
        (resource.RLIMIT_FSIZE, MAX_FILE_BYTES),
        (resource.RLIMIT_NOFILE, MAX_OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_AS, memory_bytes),
    ]
    for which, limit in limits:
        hard = resource.getrlimit(which)[1]
        wanted = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        try:
            resource.setrlimit(which, (wanted, wanted))
        except (ValueError, OSError):
            continue  # macOS knows no limit of memory


def fault_of(code: str, tests: Sequence[str], examples: Sequence[str]) -> str | None:
    """What goes wrong first; None where all is well."""
    module = types.ModuleType("draft")
    sys.modules["draft"] = module
    place = "the code"
    try:
        exec(compile(code, "<draft>", "exec"), module.__dict__)
        for number, test in enumerate(tests, 1):
            place = f"test {number}"
            exec(compile(test, f"<{place}>", "exec"), module.__dict__)
        place = "the examples"
        return failed_example(examples, module.__dict__)
    except BaseException as exc:  # what it raises is the finding
        return f"{place}: {type(exc).__name__}{_words_of(exc)}"[:MAX_REASON_CHARS]


def failed_example(examples: Sequence[str], names: dict[str, Any]) -> str | None:
    if not examples:
        return None
    import doctest

    for number, text in enumerate(examples, 1):
        test = doctest.DocTestParser().get_doctest(text, names, "examples", None, 0)
        runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.NORMALIZE_WHITESPACE)
        if runner.run(test, out=lambda said: None, clear_globs=False).failed:
            return f"example {number} gives something else"
    return None


def _words_of(exc: BaseException) -> str:
    try:
        return f": {exc}" if str(exc) else ""
    except BaseException:
        return ""
