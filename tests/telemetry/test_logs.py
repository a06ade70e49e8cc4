"""What the log says, what it hides, and how its level is changed."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from gateway.access.keys import Wanted, create_key
from gateway.api.access_log import AccessLog
from gateway.config.files import read_config
from gateway.telemetry.logs import HIDDEN, REQUEST, JsonFormatter, Log, Scrubber, TextFormatter
from tests.asgi import Client
from tests.conftest import Serve, write_config

ONE = "models: {core: {engine: scripted, replies: [{text: hi}]}}\n"
PLAIN = "policy: default\nroutes: [{name: all, answer: {model: core}}]\n"
KEY = "ogw_" + "A1b2" * 11


@pytest.fixture(autouse=True)
def levels() -> Iterator[None]:
    """All loggers as they were."""
    before = {name: logging.getLogger(name).level for name in ("", "gateway", "alembic", "uvicorn", "aiosqlite")}
    yield
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


def record(message: str, *args: object, **extra: object) -> logging.LogRecord:
    return logging.getLogger("gateway.tests").makeRecord("gateway.tests", 30, "f", 1, message, args, None, extra=extra)


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (f"key {KEY} was used", f"key ogw_{HIDDEN} was used"),
        ("sk-proj-abcdEFGH1234", f"sk-{HIDDEN}"),
        ("authorization: Bearer abc.def-123456", f"authorization: Bearer {HIDDEN}"),
        ("'x-api-key': 'abcdef'", f"'x-api-key': '{HIDDEN}'"),
        ("api_key=abcdef&x=1", f"api_key={HIDDEN}&x=1"),
        ("http://me:hunter2@proxy:3128/x", f"http://me:{HIDDEN}@proxy:3128/x"),
        ("redis://:hunter2@host", f"redis://:{HIDDEN}@host"),
        ("at http://127.0.0.1:8080/v1 the task-force waits; ask me@example.org", None),
    ],
)
def test_what_looks_like_a_key_is_hidden(said: str, shown: str | None) -> None:
    assert Scrubber().scrub(said) == (shown if shown is not None else said)


def test_the_configurations_secrets_are_hidden_wherever_they_stand() -> None:
    scrubber = Scrubber()
    scrubber.learn(["s3cret-of-theirs", "s3cret-of-theirs-and-more", "on"])
    formatter = TextFormatter(scrubber)
    assert formatter.format(record("%s went on", "s3cret-of-theirs-and-more")).endswith(f"{HIDDEN} went on")
    try:
        raise ValueError("refused s3cret-of-theirs")
    except ValueError:
        failed = logging.getLogger("x").makeRecord("x", 40, "f", 1, "it broke", (), sys.exc_info())
    assert "s3cret" not in formatter.format(failed) and f"refused {HIDDEN}" in formatter.format(failed)
    told = orjson.loads(JsonFormatter(scrubber).format(failed))
    assert "s3cret" not in told["error"] and "ValueError" in told["error"]
    scrubber.learn([])
    assert "s3cret" in scrubber.scrub("s3cret-of-theirs")


def test_what_the_files_name_is_known_as_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KEY_OF_MODEL", "TOKEN_OF_COLLECTOR", "TOKEN_OF_CHECK"):
        monkeypatch.setenv(name, f"value-of-{name}")
    models = """
        models:
          m1: {engine: openai, base_url: "http://127.0.0.1:1", model: m, api_key: "${KEY_OF_MODEL}"}
          m2: {engine: openai, base_url: "http://127.0.0.1:1", model: m, api_key: literal-key}
        telemetry: {otlp: "http://127.0.0.1:4318", headers: {authorization: "Api-Token ${TOKEN_OF_COLLECTOR}"}}
    """
    policy = """
        policy: default
        routes: [{name: all, answer: {model: m1, checks: [{http: {url: "http://127.0.0.1:2/${TOKEN_OF_CHECK}"}}]}}]
    """
    config = read_config(*write_config(tmp_path, models, default=policy))
    values = {f"value-of-{name}" for name in ("KEY_OF_MODEL", "TOKEN_OF_COLLECTOR", "TOKEN_OF_CHECK")}
    assert config.secrets == {*values, "literal-key"}
    assert config.settings.telemetry.headers == {"authorization": "Api-Token value-of-TOKEN_OF_COLLECTOR"}
    monkeypatch.delenv("TOKEN_OF_COLLECTOR")
    without = read_config(*write_config(tmp_path, models, default=policy))
    assert without.settings.telemetry.otlp is None
    assert "set TOKEN_OF_COLLECTOR in the environment" in str(without.warnings)


def test_a_line_of_json_is_one_object_with_the_request_that_it_is_about() -> None:
    formatter = JsonFormatter(Scrubber())
    plain = orjson.loads(formatter.format(record("two\nlines of %d", 1)))
    assert plain.keys() == {"time", "level", "logger", "message"} and plain["message"] == "two\nlines of 1"
    assert (plain["level"], plain["logger"]) == ("warning", "gateway.tests") and plain["time"].endswith("+00:00")
    token = REQUEST.set(("req-1", "a" * 32))
    try:
        line = formatter.format(record("x", fields={"status": 200, "path": f"/{KEY}"}))
    finally:
        REQUEST.reset(token)
    told = orjson.loads(line)
    assert "\n" not in line and (told["request_id"], told["trace_id"]) == ("req-1", "a" * 32)
    assert (told["status"], told["path"]) == (200, f"/ogw_{HIDDEN}")


async def test_what_is_logged_within_a_request_names_it(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    client = await serve(ONE, default=PLAIN)
    lines: list[dict[str, object]] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(orjson.loads(JsonFormatter(Scrubber()).format(record)))

    client.app = AccessLog(client.app)
    handler, logger = Keep(), logging.getLogger("gateway.api.access_log")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        replies = await asyncio.gather(*(client.chat(headers={"x-request-id": f"mine-{n}"}) for n in range(3)))
        await client.chat(stream=True)
        await client.call("GET", "/v1/nowhere?key=hidden")
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    by_id = {line["request_id"]: line for line in lines}
    for number, reply in enumerate(replies):
        line = by_id[f"mine-{number}"]
        assert line["trace_id"] == reply.headers["x-gateway-trace"]
        assert (line["method"], line["path"], line["status"]) == ("POST", "/v1/chat/completions", 200)
        assert line["bytes"] == len(reply.body) and line["client"] == "127.0.0.1"
    assert lines[-1]["status"] == 404 and "hidden" not in str(lines[-1])


def test_the_level_is_the_gateways_and_others_are_named() -> None:
    log = Log()
    log.set("debug")
    assert logging.getLogger("gateway.x").getEffectiveLevel() == logging.DEBUG
    assert logging.getLogger("of.others").getEffectiveLevel() == logging.INFO
    assert logging.getLogger("uvicorn").level == logging.WARNING
    log.set("error")
    assert {logging.getLogger(name).getEffectiveLevel() for name in ("gateway.x", "of.others", "uvicorn")} == {40}


def test_a_signal_switches_to_debug_and_back(caplog: pytest.LogCaptureFixture) -> None:
    log = Log()
    log.set("warning")
    log.toggle()
    assert log.shown()["level"] == "debug"
    log.toggle()
    assert log.shown()["level"] == "warning"
    assert [record.getMessage() for record in caplog.records] == ["log level: debug", "log level: warning"]


async def test_the_level_can_be_asked_for_and_changed(serve: Serve) -> None:
    client = await serve(ONE, default=PLAIN)
    client.runtime.log.set("info")
    path = "/v1/admin/log-level"
    assert (await client.call("GET", path)).json["level"] == "info"
    assert (await client.call("PUT", path, {"level": "debug"})).json["level"] == "debug"
    assert logging.getLogger("gateway.api").getEffectiveLevel() == logging.DEBUG
    one = (await client.call("PUT", path, {"level": "error", "logger": "aiosqlite"})).json
    assert one["loggers"]["aiosqlite"] == "error" and one["level"] == "debug"
    back = (await client.call("PUT", path, {"level": None, "logger": "aiosqlite"})).json
    assert "aiosqlite" not in back["loggers"]
    for wrong, param in (
        ({}, "level"),
        ({"level": "loud"}, "level"),
        ({"level": ["debug"]}, "level"),
        ({"level": None}, "level"),
        ({"level": "debug", "logger": "nobody.knows"}, "logger"),
        ({"level": "debug", "logger": 3}, "logger"),
    ):
        reply = await client.call("PUT", path, wrong)
        assert (reply.status, reply.error["param"]) == (400, param)


async def test_keys_without_the_right_may_not_change_it(serve: Serve) -> None:
    client = await serve(ONE, default=PLAIN)
    runtime = client.runtime
    assert runtime.database is not None and runtime.keys is not None
    _, token = await create_key(runtime.database, "team")
    await runtime.keys.refresh()
    for method in ("GET", "PUT"):
        reply = await client.call(
            method, "/v1/admin/log-level", {"level": "debug"}, {"authorization": f"Bearer {token}"}
        )
        assert (reply.status, reply.error["type"]) == (403, "permission_error")
    assert (await client.call("GET", "/v1/admin/log-level")).status == 401


async def test_keys_with_the_admin_scope_may(serve: Serve) -> None:
    client = await serve(ONE, default=PLAIN)
    runtime = client.runtime
    assert runtime.database is not None and runtime.keys is not None
    _, token = await create_key(runtime.database, "ops", Wanted(is_admin=True))
    await runtime.keys.refresh()
    reply = await client.call("GET", "/v1/admin/log-level", headers={"authorization": f"Bearer {token}"})
    assert reply.status == 200


@pytest.mark.parametrize("all_are_let_in", [False, True])
async def test_without_keys_this_machine_may_unless_all_are_let_in(serve: Serve, all_are_let_in: bool) -> None:
    client = await serve(ONE, default=PLAIN)
    client = Client(client.live, client.runtime, open_to_all=all_are_let_in)
    assert (await client.call("GET", "/v1/admin/log-level")).status == (403 if all_are_let_in else 200)


@pytest.mark.parametrize("kind", [TextFormatter, JsonFormatter])
def test_what_a_client_wrote_does_not_pass_for_a_line_of_ours(kind: type[TextFormatter] | type[JsonFormatter]) -> None:
    path = "/v1/a\n2026-01-01 INFO gateway: all is well\x1b[2J\u202e\r"
    record = logging.LogRecord("gateway.x", logging.INFO, __file__, 1, 'asked for "%s"', (path,), None)
    line = kind(Scrubber()).format(record)
    assert line.splitlines() == [line]
    assert line.isprintable() or kind is JsonFormatter
    assert "all is well" in line, "it is shown, as what it is"
