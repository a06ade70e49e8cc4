"""`code_runs`: the code in the answer parses, and passes the tests that there are for it."""

from __future__ import annotations

import ast
import asyncio
import logging
import os
import re
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic.dataclasses import dataclass

from gateway.chat import PASSED, ChatRequest, Verdict
from gateway.checks import STRICT, Resources, check, with_parts
from gateway.checks.choices import only_calls
from gateway.checks.sandbox.run import Job, Outcome, run
from gateway.draft import ChoiceDraft, Draft
from gateway.trace import CHECK, Trace

MAX_CODE_CHARS = 100_000
MAX_TESTS = 50  # that are looked for in a request
FENCE = re.compile(
    r"^[ \t]*+(`{3,}+|~{3,}+)[ \t]*+([\w+#.-]*+)[^\n]*+\n(.*?)(?:^[ \t]*+\1[ \t]*+$|(\Z))", re.DOTALL | re.MULTILINE
)
PYTHON = frozenset({"python", "py", "python3", "pycon"})
LOOKS_LIKE_PYTHON = re.compile(
    r"^(?:def \w+\(|async def |class \w+[(:]|import \w|from [\w.]+ import |@\w|>>> )", re.MULTILINE
)
EXAMPLE = re.compile(r"^[ \t]*>>> .*(?:\n[ \t]*\S.*)*", re.MULTILINE)
_warnings_lock = threading.Lock()  # what is ignored is ignored for the whole process
log = logging.getLogger(__name__)


class RunsCode:
    """`free`: processes that it may start, once it is bound."""

    free: asyncio.Semaphore | None = None


@check("code_runs", costly=True)
@dataclass(frozen=True, config=STRICT)
class CodeRuns(RunsCode):
    """Passes where there is no code. Without `tests`, here or in the request (`assert` lines and `>>>` examples that
    name something which the code defines), and where it imports what is not Python's own, it only has to parse."""

    language: Literal["python"] = "python"
    tests: str | None = None
    timeout_s: Annotated[float, Field(gt=0, le=60)] = 5.0
    memory_mb: Annotated[int, Field(ge=64, le=8192)] = 256
    allow_unconfined: bool = False

    @field_validator("tests")
    @classmethod
    def parses(cls, tests: str | None) -> str | None:
        if tests is not None and (fault := fault_in(tests)):
            raise ValueError(f"is not Python: {fault}")
        return tests

    def bound(self, resources: Resources) -> CodeRuns:
        return with_parts(self, free=asyncio.Semaphore(os.cpu_count() or 1))

    async def __call__(self, request: ChatRequest, draft: Draft, trace: Trace) -> Verdict:
        if not draft.complete:
            return PASSED
        if not draft.choices:
            return Verdict(False, "no choices")
        for choice in draft.choices:
            reason = await self._fault(request, choice, trace)
            if reason is not None:
                return Verdict(False, reason if len(draft.choices) == 1 else f"choice {choice.index}: {reason}")
        return PASSED

    async def _fault(self, request: ChatRequest, choice: ChoiceDraft, trace: Trace) -> str | None:
        if only_calls(choice):
            return None
        if len(choice.text) > MAX_CODE_CHARS:
            return "too long to be looked at"
        blocks = list(blocks_in(choice.text))
        if not blocks:
            return None
        fault, job = await asyncio.to_thread(self._read, blocks, request.last_user_text)
        if job is None:
            return fault
        outcome = await self._outcome(job)
        with trace.span(CHECK, "code_runs") as span:
            span.note(was_run=outcome.was_run, layers=list(outcome.layers))
        return outcome.reason or None if outcome.was_run else None

    def _read(self, blocks: Sequence[str], asked: str) -> tuple[str | None, Job | None]:
        """What is wrong with the code as it stands, or what is to be run of it, if anything."""
        fault = first_fault(blocks)
        if fault is not None:
            return fault, None
        code = "\n\n".join(block for block in blocks if not block.lstrip().startswith(">>>"))
        defined, imported = names_of(code)
        tests = [*asserts_for(asked, defined), *([self.tests] if self.tests else [])]
        examples = examples_for(asked, defined)
        if not (tests or examples) or imported - sys.stdlib_module_names:
            return None, None
        return None, Job(code, tests, examples, self.timeout_s, self.memory_mb, self.allow_unconfined)

    async def _outcome(self, job: Job) -> Outcome:
        assert self.free is not None  # it is bound
        async with self.free:
            outcome = await run(job)
        if not outcome.was_run:
            log.warning(
                "check code_runs: code is only parsed: %s (walls: %s)", outcome.reason, outcome.layers or "none"
            )
        return outcome


def blocks_in(text: str) -> Iterator[str]:
    """Code in fences that say Python, or say nothing and look like it; else the whole text, where that looks like it.
    A fence that does not end makes what is in it a fragment, which does not parse."""
    fences = list(FENCE.finditer(text))
    for fence in fences:
        language, code, is_cut = fence[2].lower(), fence[3], fence[4] is not None
        if language in PYTHON or (not language and LOOKS_LIKE_PYTHON.search(code)):
            yield f"{code}\n(" if is_cut else code
    if not fences and LOOKS_LIKE_PYTHON.match(text.lstrip()):
        yield text


def first_fault(blocks: Sequence[str]) -> str | None:
    for number, block in enumerate(blocks, 1):
        if block.lstrip().startswith(">>>"):
            continue  # what somebody typed, and was answered
        if fault := fault_in(block):
            return f"does not parse: {fault}" if len(blocks) == 1 else f"block {number} does not parse: {fault}"
    return None


def fault_in(code: str) -> str | None:
    try:
        parsed(code)
    except SyntaxError as exc:
        return f"{exc.msg}, line {exc.lineno}"
    except (ValueError, RecursionError, MemoryError) as exc:
        return type(exc).__name__
    return None


def parsed(code: str) -> ast.Module:
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes in strings: it parses
        return ast.parse(code)


def names_of(code: str) -> tuple[set[str], set[str]]:
    """What it defines at its top, and the modules that it imports anywhere."""
    try:
        tree = parsed(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # each block parses, all together do not
        return set(), set()
    defined: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Assign):
            defined |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    imported: set[str] = set()
    for inner in ast.walk(tree):
        if isinstance(inner, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in inner.names}
        elif isinstance(inner, ast.ImportFrom) and not inner.level:
            imported.add((inner.module or "").partition(".")[0])
    return defined, imported


def asserts_for(asked: str, defined: set[str]) -> list[str]:
    """The request's `assert` statements that name something which is defined."""
    found: list[str] = []
    lines = asked.splitlines()
    begun = [n for n, line in enumerate(lines) if line.lstrip().startswith(("assert ", "assert("))]
    for first in begun[:MAX_TESTS]:
        for last in range(first + 1, min(first + 20, len(lines)) + 1):  # it may go on over several lines
            test = "\n".join([lines[first].strip(), *lines[first + 1 : last]])
            if fault_in(test) is None:
                found += [test] if names_in(test) & defined else []
                break
    return found


def examples_for(asked: str, defined: set[str]) -> list[str]:
    examples = ("\n".join(line.strip() for line in found[0].splitlines()) + "\n" for found in EXAMPLE.finditer(asked))
    return [example for example in islice(examples, MAX_TESTS) if set(re.findall(r"\w+", example)) & defined]


def names_in(code: str) -> set[str]:
    return {node.id for node in ast.walk(parsed(code)) if isinstance(node, ast.Name)}
