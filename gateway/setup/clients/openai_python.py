"""openai-python: the package `openai`, run in the user's own Python if it has it, else in ours."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from gateway.setup.clients import KEY_VARIABLE, PROMPT, SDK_SURFACES, Server, Snippet, Trial, recorded
from gateway.setup.clients.program import GRACE_S, run, trials_of

SCRIPT = """
import json, os, sys, time
import openai
key, timeout_s = os.environ["GATEWAY_KEY"], float(sys.argv[3])
client = openai.OpenAI(base_url=sys.argv[1], api_key=key, max_retries=0, timeout=timeout_s)
messages = [{"role": "user", "content": sys.argv[4]}]
for stream in (False, True):
    report = {"stream": stream, "version": openai.__version__}
    started, text, first_s = time.monotonic(), "", None
    try:
        raw = client.chat.completions.with_raw_response.create(model=sys.argv[2], messages=messages, stream=stream)
        report.update(model=raw.headers.get("x-gateway-model"), path=raw.headers.get("x-gateway-path"))
        answer = raw.parse()
        if stream:
            for chunk in answer:
                text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
                if text and first_s is None:
                    first_s = time.monotonic() - started
        else:
            text = answer.choices[0].message.content or ""
        report.update(text=text, first_s=first_s, whole_s=time.monotonic() - started)
    except openai.APITimeoutError as exc:
        report["error"] = {"message": "no answer within " + sys.argv[3] + " s", "code": "timeout"}
    except openai.APIError as exc:
        body = exc.body if isinstance(exc.body, dict) else {}
        report["error"] = {"message": body.get("message") or str(exc), "code": exc.code,
                           "status": getattr(exc, "status_code", None)}
    print(json.dumps(report), flush=True)
"""
RECORDED = {
    "user-agent": "OpenAI/Python 2.54.0",
    "accept": "application/json",
    "x-stainless-lang": "python",
    "x-stainless-package-version": "2.54.0",
    "x-stainless-async": "false",
    "x-stainless-retry-count": "0",
    "x-stainless-read-timeout": "600",
}
CODE = """\
import os

from openai import OpenAI

client = OpenAI(base_url="{url}", api_key={key})
stream = client.chat.completions.create(
    model="{model}", messages=[{{"role": "user", "content": "{prompt}"}}], stream=True
)
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
"""


@dataclass(frozen=True)
class OpenAIPython:
    """`pythons`: interpreters to try, in order; None for those of the user and our own."""

    name: ClassVar[str] = "openai-python"
    surfaces: ClassVar[tuple[str, ...]] = SDK_SURFACES
    pythons: Sequence[str] | None = None

    def paste(self, server: Server) -> list[Snippet]:
        key = f'os.environ["{KEY_VARIABLE}"]' if server.wants_key else '"unused"'
        code = CODE.format(url=server.base_url, key=key, model=server.model, prompt=PROMPT)
        return [
            Snippet(
                "shell: programs that call OpenAI() without arguments then need no change but the model",
                f"export OPENAI_BASE_URL={server.base_url}\nexport OPENAI_API_KEY={server.shell_key}\n",
            ),
            Snippet("Python, or in the code", code if server.wants_key else code.removeprefix("import os\n\n")),
        ]

    async def trials(self, server: Server) -> list[Trial]:
        python = await self._python()
        if python is None:
            by = "the request of openai-python 2.54 (no Python here has the package: pip install openai)"
            return await recorded.trials(server, by, RECORDED, {"messages": [{"role": "user", "content": PROMPT}]})
        argv = [python, "-c", SCRIPT, server.base_url, server.model, f"{server.timeout_s:g}", PROMPT]
        ran = await run(argv, 2 * server.timeout_s + GRACE_S, environ={KEY_VARIABLE: server.sent_key})
        return [replace(trial, by=f"{trial.by} ({python})") for trial in trials_of(ran, "openai", server)]

    async def _python(self) -> str | None:
        candidates = self.pythons
        if candidates is None:
            candidates = [*filter(None, (shutil.which("python"), shutil.which("python3"))), sys.executable]
        for python in dict.fromkeys(candidates):
            found = "import importlib.util, sys; sys.exit(importlib.util.find_spec('openai') is None)"
            try:
                if (await run([python, "-c", found], GRACE_S)).status == 0:
                    return python
            except OSError:
                continue
        return None
