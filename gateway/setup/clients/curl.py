"""curl."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from gateway.setup.clients import PROMPT, Failure, Server, Snippet, Trial, recorded
from gateway.setup.clients.program import GRACE_S, run, timed_out
from gateway.setup.clients.reply import StreamText, failure_of, whole_text
from gateway.setup.surfaces import SURFACES

TIMES = "%{http_code} %{time_starttransfer} %{time_total}"
TIMED_OUT = 28  # curl's exit status


@dataclass(frozen=True)
class Curl:
    name: ClassVar[str] = "curl"
    surfaces: ClassVar[tuple[str, ...]] = tuple(SURFACES)

    def paste(self, server: Server) -> list[Snippet]:
        key = ' -H "authorization: Bearer ${GATEWAY_KEY}"' if server.wants_key else ""
        body = _body(server, is_stream=True).replace("'", "'\\''")
        return [
            Snippet(
                "shell (-N shows a stream as it comes)",
                f"curl -N {server.base_url}/chat/completions{key} \\\n"
                f"  -H 'content-type: application/json' \\\n  -d '{body}'\n",
            )
        ]

    async def trials(self, server: Server) -> list[Trial]:
        curl = shutil.which("curl")
        if curl is None:
            by = "the request of curl (there is none on PATH)"
            headers = {"user-agent": "curl/7.88.1", "accept": "*/*"}
            return await recorded.trials(server, by, headers, {"messages": [{"role": "user", "content": PROMPT}]})
        version = (await run([curl, "--version"], GRACE_S)).output.split()[:2]
        return [await _trial(curl, " ".join(version), server, is_stream=is_stream) for is_stream in (False, True)]


async def _trial(curl: str, by: str, server: Server, *, is_stream: bool) -> Trial:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # by standard input, for the arguments of a program are there for all to see
        config = "\n".join(
            f"{option} = {json.dumps(value, ensure_ascii=False)}"
            for option, value in (
                ("url", f"{server.base_url}/chat/completions"),
                ("header", "content-type: application/json"),
                ("header", f"authorization: Bearer {server.sent_key}"),
                ("data", _body(server, is_stream=is_stream)),
                ("output", str(folder / "body")),
                ("dump-header", str(folder / "headers")),
                ("write-out", TIMES),
                ("max-time", f"{server.timeout_s:g}"),
            )
        )
        ran = await run([curl, "-q", "-sS", "-N", "--config", "-"], server.timeout_s + GRACE_S, given=config)
        body = (folder / "body").read_bytes() if (folder / "body").exists() else b""
        headers = _headers((folder / "headers").read_text("latin-1")) if (folder / "headers").exists() else {}
    if ran.status in (None, TIMED_OUT):
        return Trial(is_stream, by, failure=timed_out(server))
    if ran.status != 0:
        return Trial(is_stream, by, failure=Failure(ran.last_line))
    status, first_s, whole_s = ran.output.split()
    text, failure = _read(int(status), body, is_stream=is_stream)
    return Trial(
        is_stream,
        by,
        text,
        headers.get("x-gateway-model"),
        headers.get("x-gateway-path"),
        float(first_s) if is_stream else None,
        float(whole_s),
        failure,
    )


def _read(status: int, body: bytes, *, is_stream: bool) -> tuple[str, Failure | None]:
    if status != 200:
        return "", failure_of(status, body)
    if not is_stream:
        return whole_text(body)
    stream = StreamText()
    stream.feed(body)
    stream.end()
    return stream.text, stream.failure


def _body(server: Server, *, is_stream: bool) -> str:
    stream = {"stream": True} if is_stream else {}
    return json.dumps({"model": server.model, "messages": [{"role": "user", "content": PROMPT}], **stream})


def _headers(text: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in text.splitlines() if ":" in line)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}
