"""Spans and metrics as a collector gets them."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from typing import Any

import pytest

from gateway.telemetry.settings import TelemetrySettings, Told, settings_of
from gateway.telemetry.spans import upstream_attributes
from gateway.trace import RequestTrace
from tests.asgi import Client
from tests.conftest import ROOT, Serve
from tests.telemetry.receiver import overheard, receiver, values
from tests.upstream import CASCADE, SINGLE, pointing_at

PARENT, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = f"00-{PARENT}-{SPAN}-01"
ONE = "models: {core: {engine: scripted, replies: [{text: a secret answer}]}}\n"
PLAIN = "policy: default\nroutes: [{name: all, answer: {model: core}}]\n"
TWO = """
models:
  small: {engine: scripted, replies: [{text: 'no'}]}
  large: {engine: scripted, replies: [{text: a longer answer}]}
"""
ESCALATES = """
policy: default
routes:
  - name: hard
    answer: {cascade: [{model: small, checks: [{length: {min_chars: 5}}]}, {model: large}]}
"""


async def export_to(client: Client, url: str, **settings: Any) -> None:
    client.runtime.telemetry.use(TelemetrySettings(url, **{"sample": 1.0, "metrics": False, **settings}))
    await client.runtime.telemetry.ready()


async def flush(client: Client) -> None:
    await client.runtime.telemetry.close()


async def test_a_request_becomes_a_tree_of_spans(serve: Serve) -> None:
    client = await serve(TWO, default=ESCALATES)
    async with receiver() as collector:
        await export_to(client, collector.url, headers={"x-team": "one"}, service_name="front")
        before_ns = time.time_ns()
        reply = await client.chat("what is my secret?", headers={"traceparent": SAMPLED, "tracestate": "a=1,b=2"})
        await flush(client)
    assert reply.status == 200
    assert collector.headers[0]["x-team"] == "one"
    assert collector.resource["service.name"] == "front"
    assert collector.resource["service.version"]
    root = collector.span("POST /v1/chat/completions")
    assert root.trace_id.hex() == PARENT and root.parent_span_id.hex() == SPAN and root.trace_state == "a=1,b=2"
    assert root.kind == 2, "a server's"
    about = values(root.attributes)
    assert about["http.response.status_code"] == 200 and about["http.route"] == "/v1/chat/completions"
    assert about["gateway.trace"] == reply.headers["x-gateway-trace"]
    assert about["gateway.policy"] == "default" and about["gateway.route"] == "hard"
    assert about["gateway.path"] == "small!length,large" and about["gateway.model"] == "large"
    assert about["gen_ai.request.model"] == "auto"
    route, small, large = (collector.span(name) for name in ("route hard", "tier small", "tier large"))
    assert {route.parent_span_id, small.parent_span_id, large.parent_span_id} == {root.span_id}
    assert values(small.attributes)["gateway.left"] == "length" and values(small.attributes)["gateway.judged"] is True
    calls = [span for span in collector.spans if span.name.startswith("chat ")]
    assert [call.parent_span_id for call in calls] == [small.span_id, large.span_id]
    call = values(calls[1].attributes)
    assert call["gen_ai.operation.name"] == "chat" and call["gen_ai.provider.name"] and call["gateway.model"] == "large"
    assert call["gen_ai.usage.input_tokens"] > 0 and call["gen_ai.usage.output_tokens"] > 0
    assert call["gen_ai.response.finish_reasons"] == ["stop"]
    for span in collector.spans:
        assert before_ns - 1e6 <= span.start_time_unix_nano <= span.end_time_unix_nano <= time.time_ns()
        assert span.trace_id == root.trace_id
    assert len({span.span_id for span in collector.spans}) == len(collector.spans) == 6


async def test_nothing_that_users_and_models_say_is_in_them(serve: Serve) -> None:
    client = await serve(ONE, default=PLAIN)
    async with receiver() as collector:
        await export_to(client, collector.url)
        reply = await client.chat("my password is hunter2", user="somebody@example.org")
        await flush(client)
    assert "secret answer" in reply.text
    raw = b"".join(message.SerializeToString() for message in collector.traces)
    for word in (b"hunter2", b"secret", b"somebody"):
        assert word not in raw


async def test_upstreams_are_told_which_hop_asks_them(serve: Serve) -> None:
    async with overheard({"text": "no"}) as small, overheard({"text": "yes"}) as large, receiver() as collector:
        client = await serve(
            pointing_at(small, large), default=CASCADE.replace("not_empty", "{length: {min_chars: 3}}")
        )
        await export_to(client, collector.url)
        await client.chat(headers={"traceparent": SAMPLED, "tracestate": "vendor=x"}, stream=True)
        await flush(client)
        told = [server.headers[0] for server in (small, large)]
    calls = [span for span in collector.spans if span.kind == 3]
    assert [headers["traceparent"] for headers in told] == [f"00-{PARENT}-{call.span_id.hex()}-01" for call in calls]
    assert {headers["tracestate"] for headers in told} == {"vendor=x"}
    about = values(calls[0].attributes)
    assert about["server.address"] == "127.0.0.1" and about["server.port"] == small.port
    assert about["gen_ai.request.model"] == "up" and about["gen_ai.response.model"]
    assert about["gen_ai.request.stream"] is True and about["gen_ai.response.time_to_first_chunk"] > 0
    assert calls[0].name == "chat up"


async def test_a_request_that_nobody_samples_tells_upstreams_nothing(serve: Serve) -> None:
    async with overheard({"text": "yes"}) as server, receiver() as collector:
        client = await serve(pointing_at(server), default=SINGLE)
        await export_to(client, collector.url, sample=0.0)
        await client.chat()
        await client.chat(headers={"traceparent": f"00-{PARENT}-{SPAN}-00"})
        await client.chat(headers={"traceparent": f"00-{PARENT}-{SPAN}-ZZ"})
        await flush(client)
        told = [headers.get("traceparent") for headers in server.headers]
    assert told[0] is None and told[2] is None
    assert told[1] is not None and told[1].startswith(f"00-{PARENT}-") and told[1].endswith("-00")
    assert SPAN not in told[1], "the hop asks, not whoever asked us"
    assert collector.traces == []


async def test_without_telemetry_the_context_goes_on_as_it_came(serve: Serve) -> None:
    async with overheard({"text": "yes"}) as server:
        client = await serve(pointing_at(server), default=SINGLE)
        await client.chat(headers={"traceparent": SAMPLED, "tracestate": "a=1"})
        await client.chat()
        first, second = server.headers
    assert first["traceparent"] == SAMPLED and first["tracestate"] == "a=1"
    assert "traceparent" not in second and "tracestate" not in second


async def test_errors_and_escalations_come_with_any_sample(serve: Serve) -> None:
    models = TWO + "  broken: {engine: scripted, replies: [{error: {status: 500, message: broken}}]}\n"
    client = await serve(models, default=ESCALATES)
    async with receiver() as collector:
        await export_to(client, collector.url, sample=0.0)
        assert (await client.chat(model="large")).status == 200
        assert (await client.chat(model="nobody")).status == 404
        escalated = await client.chat()
        failed = await client.chat(model="broken")
        await flush(client)
    roots = [span for span in collector.spans if not span.parent_span_id]
    wanted = [escalated.headers["x-gateway-trace"], failed.headers["x-gateway-trace"]]
    assert [span.trace_id.hex() for span in roots] == wanted, "named as the request is"
    assert [span.status.code for span in roots] == [0, 2]
    broken = values(collector.span("chat broken").attributes)
    assert broken["error.type"] == "http_500" and collector.span("chat broken").status.code == 2
    assert values(roots[1].attributes)["http.response.status_code"] == failed.status >= 500


async def test_metrics_are_the_counters_and_those_of_the_conventions(serve: Serve) -> None:
    client = await serve(
        TWO + "  broken: {engine: scripted, replies: [{error: {status: 500, message: broken}}]}\n", default=ESCALATES
    )
    async with receiver() as collector:
        await export_to(client, collector.url, metrics=True, interval_s=0.05, sample=0.0)
        await client.chat(stream=True)
        await client.chat(model="broken")
        while len(collector.metrics) < 2:
            collector.came.clear()
            await collector.came.wait()
        await flush(client)
    requests = collector.metric("gateway_requests").sum
    assert requests.is_monotonic and requests.aggregation_temporality == 2
    counted = {values(one.attributes)["model"]: one.as_double for one in requests.data_points}
    assert counted == {"large": 1.0, "": 1.0}
    tokens = collector.metric("gen_ai.client.token.usage")
    assert tokens.unit == "{token}"
    by_type = {values(p.attributes)["gen_ai.token.type"] for p in tokens.histogram.data_points}
    assert by_type == {"input", "output"}
    for point in tokens.histogram.data_points:
        about = values(point.attributes)
        assert about["gen_ai.operation.name"] == "chat" and about["gen_ai.provider.name"]
        assert sum(point.bucket_counts) == point.count and len(point.bucket_counts) == len(point.explicit_bounds) + 1
    durations = collector.metric("gen_ai.client.operation.duration").histogram.data_points
    failed = [values(point.attributes) for point in durations if "error.type" in values(point.attributes)]
    assert [(one["gateway.model"], one["error.type"]) for one in failed] == [("broken", "http_500")]
    first = collector.metric("gen_ai.client.operation.time_to_first_chunk").histogram.data_points
    assert {values(point.attributes)["gateway.model"] for point in first} == {"small", "large"}
    latency = collector.metric("gateway_request_seconds").histogram.data_points
    assert [(sum(p.bucket_counts), p.count) for p in latency if values(p.attributes)["policy"] == "default"] == [(1, 1)]
    assert collector.metric("gateway_requests_in_flight").gauge.data_points[0].as_double == 0


async def test_a_collector_that_is_away_disturbs_nobody(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        client = await serve(ONE, default=PLAIN)
        client.runtime.telemetry._flush_s = 0.3
        await export_to(client, f"http://127.0.0.1:{taken.getsockname()[1]}")
        assert [(await client.chat()).status for _ in range(20)] == [200] * 20
        otlp = client.runtime.telemetry._otlp
        began = time.monotonic()
        await flush(client)
    assert otlp is not None and time.monotonic() - began < 2
    said = [record for record in caplog.records if record.name.startswith("opentelemetry.exporter")]
    assert len(said) == 1 and "Connection refused" in said[0].getMessage()


@pytest.mark.parametrize("status", [500, 503])
async def test_a_collector_that_fails_costs_spans_and_nothing_else(
    serve: Serve, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    client = await serve(ONE, default=PLAIN)
    client.runtime.telemetry._flush_s = 0.3
    async with receiver() as collector:
        collector.status = status
        await export_to(client, collector.url)
        assert (await client.chat()).status == 200
        otlp = client.runtime.telemetry._otlp
        assert otlp is not None
        await flush(client)
        while not otlp.lost:  # its thread ends on its own
            await asyncio.sleep(0.01)
    assert (otlp.sent, otlp.lost) == (0, 3)
    assert len([record for record in caplog.records if record.name.startswith("opentelemetry.exporter")]) == 1


async def test_a_slow_collector_is_not_waited_for(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    client = await serve(ONE, default=PLAIN)
    client.runtime.telemetry._flush_s = 0.2
    async with receiver() as collector:
        collector.gate.clear()
        await export_to(client, collector.url)
        assert (await client.chat()).status == 200
        began = time.monotonic()
        await flush(client)
        assert time.monotonic() - began < 1.5
        assert collector.came.is_set(), "it was asked, and did not answer"
    assert "could not be sent within 0.2 s" in caplog.text


async def test_changed_settings_take_over_and_the_old_place_gets_its_rest(serve: Serve) -> None:
    client = await serve(ONE, default=PLAIN)
    async with receiver() as one, receiver() as two:
        await export_to(client, one.url)
        await client.chat()
        await export_to(client, two.url)
        await client.chat()
        await flush(client)
        assert [len(place.spans) for place in (one, two)] == [3, 3]
        client.runtime.telemetry.use(None)
        await client.chat()
        assert client.runtime.telemetry.sampling.rate is None


async def test_the_environment_says_where_and_fastapi_exports_nothing_beside(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await serve(ONE, default=PLAIN)
    async with receiver() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-token=a%20b")
        monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "1")
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test,service.name=ours")
        client.runtime.telemetry.use(settings_of(Told(metrics=False)))
        await client.runtime.telemetry.ready()
        assert (await client.chat()).status == 200
        assert (await client.call("GET", "/v1/models")).status == 200
        await flush(client)
    assert len(collector.spans) == 3 and collector.metrics == []
    assert [headers["x-token"] for headers in collector.headers] == ["a b"]
    assert collector.resource["service.name"] == "ours"
    assert collector.resource["deployment.environment.name"] == "test"


def test_servers_are_named_by_address_or_socket() -> None:
    def server(url: str) -> list[str | int]:
        found = upstream_attributes("m", ("xai", "grok", url))
        assert (found["gen_ai.provider.name"], found["gen_ai.request.model"]) == ("x_ai", "grok")
        return list(found.values())[2:]

    assert server("https://user:password@api.x.ai/v1") == ["api.x.ai", 443]
    assert server("http://[::1]:8000/v1") == ["::1", 8000]
    assert server("http+unix://%2Frun%2Fmodel.sock/v1") == ["/run/model.sock"]
    assert server("") == []


async def test_how_a_model_was_waited_for_is_a_span(serve: Serve) -> None:
    client = await serve(ONE, default=PLAIN)
    async with receiver() as collector:
        await export_to(client, collector.url)
        trace = RequestTrace("auto", endpoint="/v1/chat/completions")
        with trace.span("model", "coder") as hop:
            hop.note(waited_ms=1250.0, woke=True)
        trace.ended = trace.started + 2
        client.runtime.telemetry.record(trace)
        trace.error, trace.status = "upstream_timeout", 504
        client.runtime.telemetry.record(trace)
        await flush(client)
    load = collector.span("load coder")
    assert load.end_time_unix_nano - load.start_time_unix_nano == pytest.approx(1.25e9, rel=1e-3)
    assert load.parent_span_id == collector.span("chat coder").span_id
    assert values(load.attributes)["gateway.woke"] is True


IMPORTS = """
import asyncio, sys
from pathlib import Path
from tests.conftest import running
from gateway.http_server import http_server

async def main(folder):
    (folder / "home").mkdir()
    models = "models: {core: {engine: scripted, replies: [{text: hi}]}}"
    policy = "policy: default\\nroutes: [{name: all, answer: {model: core}}]"
    async with running(folder, models, default=policy) as client:
        http_server(client.live, client.runtime, grace_s=1, open_to_all=False)
        assert (await client.chat()).status == 200
        print(sorted(name for name in sys.modules if name.startswith("opentelemetry")))
        assert (await client.call("GET", "/v1/models")).status == 200
        print(sorted(name for name in sys.modules if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))))

asyncio.run(main(Path(sys.argv[1])))
"""


def test_it_is_only_imported_where_something_is_exported(tmp_path: Any) -> None:
    code = "import gateway.serve\n" + IMPORTS
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split("\n")[:2] == ["[]", "[]"], done.stderr
