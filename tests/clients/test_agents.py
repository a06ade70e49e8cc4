"""Coding agents, unmodified and told no more than `gateway connect` prints, against `gateway serve`.

Each does a turn in which the model calls a tool, and goes on with the same session.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients import node
from tests.clients.gateway_process import Json, Served, serving
from tests.test_serve import run

pytestmark = pytest.mark.slow

NOWHERE = "http://127.0.0.1:9"  # so that they reach nothing but the gateway, on any machine
MAKE = "echo onion > made.txt && cat made.txt"
DONE = {"text": "The file is made."}
AGAIN = {"when": {"contains": "and now"}, "text": "It is still there."}


def call(name: str, **arguments: Any) -> Json:
    return {"times": 1, "reasoning": "A file is wanted.", "tool_calls": [{"name": name, "arguments": arguments}]}


REPLIES: dict[str, list[Json]] = {
    "codex": [AGAIN, call("exec_command", cmd=MAKE), DONE],
    "codex-agents": [call("multi_agent_v1__close_agent", target="nobody"), DONE],
    "codex-broken": [{"error": {"status": 400, "message": "no such thing"}}],
    "claude": [AGAIN, call("Bash", command=MAKE, description="make a file"), DONE],
    "claude-two": [
        {
            "times": 1,
            "text": "Two at once.",
            "tool_calls": [
                {"name": "Bash", "arguments": {"command": MAKE, "description": "make a file"}},
                {"name": "Read", "arguments": {"file_path": "PATH"}},
            ],
        },
        DONE,
    ],
    "claude-broken": [{"error": {"status": 400, "message": "no such thing"}}],
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    node.agents()
    with serving(tmp_path_factory.mktemp("served"), REPLIES, wants_key=True) as served:
        yield served


def pasted(client: str, model: str, served: Served, folder: Path) -> str:
    """What `gateway connect` says to paste."""
    assert served.key is not None
    arguments = ("connect", client, "--url", served.url, "--model", model, "--key", served.key, "--json")
    (snippet,) = json.loads(run(*arguments, home=folder, folder=folder))["snippets"]
    return str(snippet["text"])


def start(command: list[str], served: Served, folder: Path) -> subprocess.CompletedProcess[str]:
    """In `folder/work`, with `folder` as home."""
    (folder / "work").mkdir(exist_ok=True)
    proxies = {"HTTP_PROXY": NOWHERE, "HTTPS_PROXY": NOWHERE, "NO_PROXY": "127.0.0.1"}
    environment = node.environment_of_client({"HOME": str(folder), "GATEWAY_KEY": served.key or "", **proxies})
    programs = node.agents() / "node_modules" / ".bin"
    environment["PATH"] = f"{programs}{os.pathsep}{environment['PATH']}"
    return subprocess.run(
        command,
        cwd=folder / "work",
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


# --- Codex


def codex(model: str, served: Served, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / ".codex").mkdir(exist_ok=True)
    (folder / ".codex" / "config.toml").write_text(pasted("codex", model, served, folder))
    free = ("--json", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox")
    return start(["codex", "exec", *arguments[:-1], *free, arguments[-1]], served, folder)


def said(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Codex' messages."""
    assert done.returncode == 0, done.stdout + done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[-1]["type"] == "turn.completed", done.stdout
    items = [event["item"] for event in events if event["type"] == "item.completed"]
    return [item["text"] for item in items if item["type"] == "agent_message"]


def results(body: Json) -> list[str]:
    """Of tools, in a request that a model was sent."""
    return [str(message["content"]) for message in body["messages"] if message["role"] == "tool"]


def test_codex_runs_a_command_and_is_resumed(served: Served, tmp_path: Path) -> None:
    assert said(codex("codex", served, tmp_path, "Make a file.")) == ["The file is made."]
    assert (tmp_path / "work" / "made.txt").read_text() == "onion\n"
    first, second = served.asked["codex"]
    assert "exec_command" in {tool["function"]["name"] for tool in first["tools"]}
    assert [result for result in results(second) if "onion" in result]
    (asked,) = [message for message in second["messages"] if message.get("tool_calls")]
    assert asked["reasoning_content"] == "A file is wanted.", "Codex sends it back"
    assert said(codex("codex", served, tmp_path, "resume", "--last", "And now?")) == ["It is still there."]
    contents = [message.get("content") for message in served.asked["codex"][2]["messages"]]
    assert "The file is made." in contents and len(results(served.asked["codex"][2])) == 1


def test_codex_knows_its_namespaced_tools_again(served: Served, tmp_path: Path) -> None:
    assert said(codex("codex-agents", served, tmp_path, "Close it.")) == ["The file is made."]
    (result,) = results(served.asked["codex-agents"][1])
    assert "unsupported call" not in result
    assert "agent" in result


def test_codex_tells_what_went_wrong(served: Served, tmp_path: Path) -> None:
    done = codex("codex-broken", served, tmp_path, "Make a file.")
    assert done.returncode == 1
    assert "no such thing" in done.stdout
    assert len(served.asked["codex-broken"]) == 1, "it does not try again"


# --- Claude Code


def claude(model: str, served: Served, folder: Path, *arguments: str) -> Json:
    exports = pasted("claude-code", model, served, folder).removesuffix("claude\n")
    script = f'{exports}exec claude "$@"'
    command = ["sh", "-c", script, "sh", "--output-format", "json", "--allowedTools=Bash,Read", *arguments]
    done = start(command, served, folder)
    answer: Json = json.loads(done.stdout)
    assert (done.returncode != 0) == answer["is_error"], done.stdout + done.stderr
    return answer


def test_claude_code_runs_a_command_and_is_resumed(served: Served, tmp_path: Path) -> None:
    answer = claude("claude", served, tmp_path, "--print", "Make a file.")
    assert answer["result"] == "The file is made."
    assert answer["num_turns"] == 2
    assert (tmp_path / "work" / "made.txt").read_text() == "onion\n"
    assert answer["usage"]["output_tokens"] > 0
    assert results(served.asked["claude"][-1]) == ["onion"]
    again = claude("claude", served, tmp_path, "--resume", answer["session_id"], "--print", "And now?")
    assert again["result"] == "It is still there."
    assert results(served.asked["claude"][-1]) == ["onion"]


def test_claude_code_runs_two_tools_of_one_reply(served: Served, tmp_path: Path) -> None:
    answer = claude("claude-two", served, tmp_path, "--print", "Make a file.")
    assert answer["result"] == "The file is made."
    ran, read = results(served.asked["claude-two"][-1])
    assert ran == "onion"
    assert "PATH" in read or "exist" in read, "what the tool said of a file that is not there"


def test_claude_code_tells_what_went_wrong(served: Served, tmp_path: Path) -> None:
    answer = claude("claude-broken", served, tmp_path, "--print", "Make a file.")
    assert answer["is_error"]
    assert "no such thing" in answer["result"]
