"""`python`: a function of the operator's says whether the answer is good."""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import importlib.util
import inspect
import logging
import math
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Annotated, Any

import orjson
from pydantic import Field
from pydantic.dataclasses import dataclass

from gateway.chat import PASSED, ChatRequest, Verdict
from gateway.checks import STRICT, Resources, check, with_parts
from gateway.checks.http import worst
from gateway.draft import ChoiceDraft, Draft
from gateway.trace import Trace

THREADS = 8  # at once, for one check; those that never end hold theirs
MAX_REASON_CHARS = 200
log = logging.getLogger(__name__)


class Crashed(Exception):
    pass


class CallsFunction:
    """`call`: the function, `free`: threads that it may take, once they are bound."""

    call: Callable[..., Any] | None = None
    free: asyncio.Semaphore | None = None


@check("python", costly=True)
@dataclass(frozen=True, config=STRICT)
class Python(CallsFunction):
    """`function` is `module:name`, of a file beside the policy or of an installed package; called with the request's
    body, the draft's text and its message, in a thread. It returns True or False, a score, or one of these and a
    reason; a score has to be at least `at_least`. A function that raises, or is late, fails the draft."""

    function: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
    timeout_s: Annotated[float, Field(gt=0, le=600)] = 5.0
    at_least: float = 0.5

    def bound(self, resources: Resources) -> Python:
        return with_parts(self, call=found(self.function, resources.folder), free=asyncio.Semaphore(THREADS))

    async def __call__(self, request: ChatRequest, draft: Draft, trace: Trace) -> Verdict:
        if not draft.complete:
            return PASSED
        if not draft.choices:
            return Verdict(False, "no choices")
        return worst([await self._judge(request, choice) for choice in draft.choices])

    async def _judge(self, request: ChatRequest, choice: ChoiceDraft) -> Verdict:
        given = orjson.dumps([request.body, choice.text, choice.as_choice()["message"]])  # it may change what it gets
        try:
            async with asyncio.timeout(self.timeout_s):
                said = await self._said(given)
        except TimeoutError:
            log.warning("check python: %s took longer than %g s", self.function, self.timeout_s)
            return Verdict(False, "no word in time")
        except Crashed as exc:
            log.error("check python: %s failed", self.function, exc_info=exc.__cause__)
            return Verdict(False, "it failed")
        return self._read(said)

    async def _said(self, given: bytes) -> Any:
        """In a thread that nobody waits for in the end: a function that hangs holds up neither requests nor the end of
        the process. Raises: Crashed."""
        assert self.free is not None and self.call is not None  # it is bound
        loop, free, call = asyncio.get_running_loop(), self.free, self.call
        done: asyncio.Future[Any] = loop.create_future()
        await free.acquire()

        def finish(result: Any, error: Exception | None) -> None:
            free.release()
            if not done.cancelled():
                done.set_result(result) if error is None else done.set_exception(error)

        def run() -> None:
            result, error = None, None
            try:
                result = call(*orjson.loads(given))
                if inspect.isawaitable(result):
                    result = asyncio.run(_awaited(result, self.timeout_s))
            except (Exception, SystemExit) as exc:
                error = Crashed()
                error.__cause__ = exc
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(finish, result, error)

        threading.Thread(target=run, name="check", daemon=True).start()
        return await done

    def _read(self, said: Any) -> Verdict:
        value, reason = said if isinstance(said, tuple) and len(said) == 2 else (said, "")
        reason = str(reason)[:MAX_REASON_CHARS]
        if isinstance(value, bool):
            return Verdict(value, reason)
        if isinstance(value, int | float) and math.isfinite(value):
            return Verdict(value >= self.at_least, reason, float(value))
        log.error("check python: %s returned neither a bool nor a number", self.function)
        return Verdict(False, "it says nothing")


async def _awaited(result: Any, timeout_s: float) -> Any:
    async with asyncio.timeout(timeout_s):
        return await result


def found(name: str, folder: Path) -> Callable[..., Any]:
    """Raises: ValueError where it cannot be had."""
    module_name, _, attribute = name.partition(":")
    file = folder / f"{module_name.replace('.', '/')}.py"
    try:
        module = _loaded(file) if file.is_file() else importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        if exc.name == module_name.partition(".")[0]:
            raise ValueError(f"there is no {file.name} beside the policy, and no module '{module_name}'") from None
        raise ValueError(f"'{module_name}' needs the module '{exc.name}', which is not installed") from exc
    except (Exception, SystemExit) as exc:
        raise ValueError(f"'{module_name}' cannot be imported: {type(exc).__name__}: {exc}") from exc
    call: Callable[..., Any] | None = getattr(module, attribute, None)
    if call is None or not callable(call):
        raise ValueError(f"'{module_name}' has no function '{attribute}'")
    try:
        inspect.signature(call).bind({}, "", {})
    except TypeError as exc:
        raise ValueError(f"'{name}' must take (request_body, draft_text, draft_message): {exc}") from None
    except ValueError:  # of one that is compiled, nothing is known
        pass
    return call


class _Uncached(SourceFileLoader):
    """Reads the source itself: stored bytecode counts as current where a file has changed within a second and kept its
    size."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def _loaded(file: Path) -> Any:
    """Anew each time, so that a reload takes what has changed; under a name that no other module has."""
    name = f"_policy_check_{hashlib.sha256(str(file).encode()).hexdigest()[:12]}_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file, loader=_Uncached(name, str(file)))
    if spec is None or spec.loader is None:
        raise ImportError(f"{file.name} is no Python file")
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(name)
    sys.modules[name] = module  # where its dataclasses look for it
    try:
        spec.loader.exec_module(module)
    except BaseException:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before
        raise
    return module
