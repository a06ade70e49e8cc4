"""What code from a model can do, and cannot. Real child processes."""

import asyncio
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import gateway
from gateway.checks.sandbox.run import Job, run
from gateway.checks.sandbox.seccomp import AARCH64, ARCHITECTURES, DENIED, SINCE_5, X86_64, filter_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what shuts it in is Linux's")
SECRET = Path(__file__)


async def fault(code: str, *tests: str, timeout_s: float = 10.0, memory_mb: int = 256) -> str:
    outcome = await run(Job(code, tests, timeout_s=timeout_s, memory_mb=memory_mb))
    assert outcome.was_run, f"{outcome.reason} {outcome.layers}"
    return outcome.reason


async def test_code_that_passes_its_tests() -> None:
    assert await fault("def double(x):\n    return 2 * x", "assert double(2) == 4", "assert double('a') == 'aa'") == ""


async def test_the_first_test_that_fails_is_named() -> None:
    assert await fault("def double(x):\n    return x", "assert double(0) == 0", "assert double(2) == 4, 'twice'") == (
        "test 2: AssertionError: twice"
    )
    assert await fault("raise KeyError('k')") == "the code: KeyError: 'k'"


async def test_examples_are_run() -> None:
    code = "def double(x):\n    return 2 * x"
    assert (await run(Job(code, examples=[">>> double(2)\n4\n"]))).is_right
    assert (await run(Job(code, examples=[">>> double(2)\n5\n"]))).reason == "example 1 gives something else"


async def test_the_standard_library_is_there() -> None:
    code = "import json, sqlite3, decimal, hashlib, datetime, asyncio, threading\nimport numbers as n"
    uses = """
async def one(): return 1
assert asyncio.run(one()) == 1
assert sqlite3.connect(":memory:").execute("select 2").fetchone() == (2,)
thread = threading.Thread(target=print); thread.start(); thread.join()
"""
    assert await fault(code, uses) == ""


@pytest.mark.parametrize(
    "code",
    [
        f"open({str(SECRET)!r})",
        "open('/etc/passwd')",
        "open('/proc/self/environ')",
        "open('/proc/PARENT/environ')",
        "import os; os.listdir('/')",
        "import os; os.listdir('/tmp')",
        "open('/tmp/onion-was-here', 'w')",
        "import os; os.symlink('/etc/passwd', 'link'); open('link')",
        "import os; os.chmod('/tmp', 0o777)",
        "import os; os.mkdir('/tmp/onion-was-here')",
        "import os; os.setuid(0); open('/etc/shadow')",
        "import os; os.chroot('.')",
        "import socket; socket.socket()",
        "import socket; socket.create_connection(('127.0.0.1', 80))",
        "import urllib.request; urllib.request.urlopen('http://127.0.0.1/')",
        "import socket; socket.socket(socket.AF_UNIX)",
        "import os\nwhile True: os.fork()",
        "import subprocess; subprocess.run(['/bin/sh'])",
        "import multiprocessing; multiprocessing.Process(target=print).start()",
        "import os; os.kill(os.getppid(), 9)",
        "import os, resource; resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))",
        "import ctypes\nif ctypes.CDLL(None).mount(b'a', b'/', b'tmpfs', 0, None): raise PermissionError",
        "import ctypes\nif ctypes.CDLL(None).unshare(0x10000000): raise PermissionError",
        "import os; os.memfd_create('x')",
    ],
)
async def test_what_it_may_not(code: str) -> None:
    code = code.replace("PARENT", str(os.getpid()))
    said = await fault(code)
    assert "PermissionError" in said or "not permitted" in said.lower() or "URLError" in said, said


async def test_it_has_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    assert await fault("import os\nassert set(os.environ) <= {'LC_CTYPE'}, list(os.environ)") == ""
    assert (
        await fault("import os\nassert not os.path.exists('/proc/self/environ') or not open('/proc/self/environ')")
        != ""
    )


async def test_it_finds_nothing_of_the_gateway() -> None:
    assert "No module named 'gateway'" in await fault("import gateway")
    assert "PermissionError" in await fault(f"open({str(Path(gateway.__file__).parent / 'cli.py')!r})")
    files = "import os\nfound = [n for n in range(3, 64) if n not in (int(f) for f in ())]\nopened = []\n"
    files += "for n in found:\n    try:\n        os.fstat(n); opened.append(n)\n    except OSError: pass\n"
    assert await fault(files, "assert len(opened) == 1, opened") == "", "the pipe for its result, and no other"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("x = bytearray(10**9)", "MemoryError"),
        ("x = []\nwhile True: x.append(bytearray(10**6))", "MemoryError"),
        (
            "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
            "thread",
        ),
        ("import os\nos._exit(0)", "it ended before its tests did"),
        ("import sys; sys.exit(0)", "SystemExit"),
        ("import ctypes; ctypes.string_at(0)", "it ended by SIGSEGV"),
        ("import os\nos.write(3, b'x ' + b'{\"reason\": null}\\n')", "it ended before its tests did"),
        ("import os\nwhile True: os.write(3, b'x' * 65536)", "it ended before its tests did"),
        ("import os\nos.close(3)\nwhile True: pass", "it ended before its tests did"),
    ],
)
async def test_bombs_and_lies(code: str, said: str) -> None:
    assert said in await fault(code, timeout_s=20)


@pytest.mark.parametrize(
    "code", ["while True: pass", "import time; time.sleep(60)", "import sys; sys.stdin.read(); input()"]
)
async def test_it_is_killed_in_time(code: str) -> None:
    started = time.monotonic()
    said = await fault(code, timeout_s=0.3)
    assert said == "no result within 0.3 s" or "EOFError" in said
    assert time.monotonic() - started < 10


async def test_where_it_may_write_it_cannot_fill_the_disk() -> None:
    code = "n = 0\nwhile True:\n    n += 1\n    open(str(n), 'wb').write(bytes(10**6))"
    said = await fault(code, timeout_s=20)
    assert "No space left" in said or "PermissionError" in said
    outcome = await run(Job("open('a', 'w').write('b')", ["assert open('a').read() == 'b'"]))
    assert outcome.is_right == ("namespaces" in outcome.layers)


async def test_nothing_is_left_when_nobody_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    task = asyncio.create_task(run(Job("import time; time.sleep(60)", timeout_s=60)))
    while not list(tmp_path.iterdir()):
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(20):
        while list(tmp_path.iterdir()):  # goes once the child has ended
            await asyncio.sleep(0.01)


async def test_who_leaves_before_there_is_a_child_does_not_leave_one_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begins, left = threading.Event(), threading.Event()

    class Late(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            begins.set()
            left.wait(10)
            super().__init__(*arguments, **options)

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(subprocess, "Popen", Late)
    task = asyncio.create_task(run(Job("import time; time.sleep(60)", timeout_s=60)))
    assert await asyncio.to_thread(begins.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    left.set()
    async with asyncio.timeout(20):
        while list(tmp_path.iterdir()):
            await asyncio.sleep(0.01)


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs util-linux")
def test_it_holds_without_namespaces() -> None:
    """As in most containers."""
    code = f"""
import asyncio
from gateway.checks.sandbox.run import Job, run
async def main():
    print((await run(Job("x = 1"))).layers)
    for code in ("open({str(SECRET)!r})", "import socket; socket.socket()", "open('a', 'w')", "import os; os.fork()"):
        print((await run(Job(code))).reason)
asyncio.run(main())
"""
    without = 'echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --bounding-set=-all --inh-caps=-all "$@"'
    argv = ["unshare", "-Ur", "sh", "-c", without, "sh", sys.executable, "-c", code]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=Path(gateway.__file__).parents[1], timeout=60)
    if done.returncode:
        pytest.skip(f"no namespace to try it in: {done.stderr[:80]}")
    layers, *reasons = done.stdout.splitlines()
    assert layers == "('landlock', 'seccomp')"
    assert len(reasons) == 4 and all("PermissionError" in reason for reason in reasons), reasons


def test_every_denied_call_has_its_number() -> None:
    names = set(" ".join(DENIED.values()).split())
    assert names <= set(X86_64) | set(SINCE_5)
    old = {"fork", "vfork", "chmod", "chown", "lchown", "utime", "utimes", "futimesat", "iopl", "ioperm"}
    assert names - set(AARCH64) - set(SINCE_5) == old, "which arm64 does not have"
    for arch, numbers in ARCHITECTURES.values():
        assert len(set(numbers.values())) == len(numbers)
        assert len(filter_for(arch, numbers)) % 8 == 0
