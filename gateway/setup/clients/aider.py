"""aider: speaks through litellm, so its models of an OpenAI-compatible server are called `openai/NAME`.

Source: aider 0.86.2, `aider/args.py` and `aider/main.py`.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from gateway.setup.clients import KEY_VARIABLE, PROMPT, Failure, Server, Snippet, Trial, recorded
from gateway.setup.clients.program import Ran, run, timed_out

START_S = 60.0  # it imports litellm, and looks for its price list in vain where there is no network
FLAGS = (
    "--no-git --yes-always --no-auto-lint --no-show-model-warnings --no-check-update --no-analytics --no-pretty "
    "--no-show-release-notes --no-detect-urls --no-suggest-shell-commands --no-gitignore --no-fancy-input "
    "--map-tokens 0 --edit-format ask --llm-history-file llm.txt"
).split()
ANSWER = re.compile(r"^LLM RESPONSE .*\n((?:ASSISTANT .*\n?)+)", re.MULTILINE)
FAULT = re.compile(r"^(?:litellm\.)?(\w*(?:Error|Timeout))\b:?\s*(.*)", re.MULTILINE)
RECORDED = {
    "user-agent": "OpenAI/Python 2.20.0",
    "accept": "application/json",
    "x-stainless-lang": "python",
    "x-stainless-raw-response": "true",
    "x-stainless-retry-count": "0",
}
RECORDED_MESSAGES = [
    {"role": "system", "content": "Act as an expert code analyst.\nAnswer questions about the supplied code.\n"},
    {"role": "user", "content": "I am not sharing the full contents of any files with you yet."},
    {"role": "assistant", "content": "Ok."},
    {"role": "user", "content": PROMPT},
]


@dataclass(frozen=True)
class Aider:
    name: ClassVar[str] = "aider"
    surfaces: ClassVar[tuple[str, ...]] = ("models", "chat", "chat stream")

    def paste(self, server: Server) -> list[Snippet]:
        lines = [f"model: openai/{server.model}", f"openai-api-base: {server.base_url}", "show-model-warnings: false"]
        if not server.wants_key:
            lines.insert(2, "openai-api-key: unused")
        key = f'--openai-api-key "${KEY_VARIABLE}"' if server.wants_key else "--openai-api-key unused"
        command = f"aider --model openai/{server.model} --openai-api-base {server.base_url} {key}"
        config = Snippet(".aider.conf.yml, in the project or in your home directory", "\n".join(lines) + "\n")
        if server.wants_key:  # aider reads any option from AIDER_…: the key need not stand in a file
            return [config, Snippet("shell", f'export AIDER_OPENAI_API_KEY="${KEY_VARIABLE}"\n'), _once(command)]
        return [config, _once(command)]

    async def trials(self, server: Server) -> list[Trial]:
        aider = shutil.which("aider")
        if aider is None:
            by = "the request of aider 0.86 (there is no aider on PATH: pip install aider-chat)"
            body = {"messages": RECORDED_MESSAGES, "temperature": 0}
            return await recorded.trials(server, by, RECORDED, body)
        return [await _trial(aider, server, is_stream=is_stream) for is_stream in (False, True)]


def _once(command: str) -> Snippet:
    return Snippet("shell, or without the file", command + "\n")


async def _trial(aider: str, server: Server, *, is_stream: bool) -> Trial:
    """In a folder and a home of its own: no file of the user's is read or written."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environ = {
            "HOME": name,
            "OPENAI_API_KEY": server.sent_key,
            "OPENAI_API_BASE": server.base_url,
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        }
        argv = [aider, "--model", f"openai/{server.model}", "--openai-api-base", server.base_url, *FLAGS]
        argv += ["--stream" if is_stream else "--no-stream", "--timeout", f"{server.timeout_s:g}", "--message", PROMPT]
        started = time.monotonic()
        ran = await run(argv, server.timeout_s + START_S, environ=environ, folder=folder)
        whole_s = time.monotonic() - started
        history = folder / "llm.txt"
        talk = history.read_text("utf-8", "replace") if history.exists() else ""
    version = re.search(r"^Aider v(\S+)", ran.output, re.MULTILINE)
    by = f"aider {version[1]} (the times are with its own start)" if version else "aider"
    answer = ANSWER.findall(talk)
    text = re.sub(r"^ASSISTANT ", "", answer[-1], flags=re.MULTILINE).strip() if answer else ""
    if text:
        return Trial(is_stream, by, text, whole_s=whole_s)
    return Trial(is_stream, by, failure=_failure(ran, server))


def _failure(ran: Ran, server: Server) -> Failure:
    """aider ends with status 0 whatever happened, and retries some errors for minutes: its output tells."""
    found = FAULT.search(ran.output) or FAULT.search(ran.errors)
    if found is None:
        return timed_out(server) if ran.status is None else Failure(ran.last_line)
    status = {"AuthenticationError": 401, "NotFoundError": 404, "BadRequestError": 400, "RateLimitError": 429}
    code = "timeout" if found[1].endswith("Timeout") else None
    return Failure(f"{found[1]}: {found[2]}"[:300], status.get(found[1]), code)
