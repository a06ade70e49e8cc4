"""Which requests become spans."""

from __future__ import annotations

from gateway.telemetry.sampling import AFTERWARDS_PER_S, AT_ONCE, Sampling
from gateway.telemetry.settings import Told, settings_of
from gateway.trace import RequestTrace
from gateway.trace_context import TraceContext

OWN, TRACE, PARENT = "a" * 32, "b" * 32, "c" * 16


def finished(*, error: str | None = None, status: int = 200, context: TraceContext | None = None) -> RequestTrace:
    trace = RequestTrace("auto", context=context)
    trace.error, trace.status = error, status
    return trace


def test_nothing_is_begun_while_nothing_is_exported() -> None:
    sampling = Sampling()
    assert sampling.begin({}, OWN) is None
    assert not sampling.takes(finished(error="broken", status=500))


def test_a_share_is_chosen_beforehand_under_the_requests_own_id() -> None:
    sampling = Sampling()
    sampling.rate = 0.25
    begun = [sampling.begin({}, OWN) for _ in range(4000)]
    chosen = [context for context in begun if context is not None]
    assert 800 < len(chosen) < 1200
    assert chosen[0].trace_id == OWN and chosen[0].parent_id is None and sampling.takes(finished(context=chosen[0]))


def test_who_asks_has_decided_already() -> None:
    sampling = Sampling()
    sampling.rate = 0.0
    asked = sampling.begin({"traceparent": f"00-{TRACE}-{PARENT}-01"}, OWN)
    assert asked is not None and asked.trace_id == TRACE and sampling.takes(finished(context=asked))
    sampling.rate = 1.0
    left_out = sampling.begin({"traceparent": f"00-{TRACE}-{PARENT}-00"}, OWN)
    assert left_out is not None and not sampling.takes(finished(context=left_out))
    assert sampling.takes(finished(context=left_out, error="upstream_timeout", status=504))
    malformed = sampling.begin({"traceparent": f"00-{TRACE}-{PARENT}"}, OWN)
    assert malformed is not None and malformed.trace_id == OWN


def test_faults_of_clients_are_no_errors_and_streams_that_break_are() -> None:
    sampling = Sampling()
    sampling.rate = 0.0
    takes = [sampling.takes(finished(error="x", status=status)) for status in (200, 400, 402, 404, 429, 499, 500, 503)]
    assert takes == [True, False, False, False, True, False, True, True]


def test_answers_that_another_model_had_to_give_are_taken_and_races_are_not() -> None:
    sampling = Sampling()
    sampling.rate = 0.0
    for reason, is_taken in (("json_schema", True), ("unavailable", True), ("raced", False), (None, False)):
        trace = finished()
        for name in ("small", "large"):
            with trace.span("tier", name) as tier, tier.span("model", name):
                pass
        trace.children[0].children[0].left = reason
        assert sampling.takes(trace) is is_taken


def test_an_upstream_that_is_away_does_not_make_spans_of_everything() -> None:
    now = 0.0
    sampling = Sampling(lambda: now)
    sampling.rate = 0.0
    assert sum(sampling.takes(finished(error="x", status=503)) for _ in range(1000)) == AT_ONCE
    now = 1.0
    assert sum(sampling.takes(finished(error="x", status=503)) for _ in range(1000)) == AFTERWARDS_PER_S
    assert sampling.takes(finished(context=TraceContext(OWN, None, 1)))


def test_the_file_counts_before_the_environment_and_the_switch_before_both() -> None:
    assert settings_of(Told(), {}) is None
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318/",
        "OTEL_TRACES_SAMPLER_ARG": "0.5",
        "OTEL_SERVICE_NAME": "from-the-environment",
        "OTEL_METRIC_EXPORT_INTERVAL": "5000",
    }
    by_environment = settings_of(Told(), variables)
    assert by_environment is not None
    assert by_environment.url("traces") == "http://collector:4318/v1/traces"
    assert (by_environment.sample, by_environment.service_name, by_environment.interval_s) == (
        0.5,
        "from-the-environment",
        5.0,
    )
    assert by_environment.headers is None, "the exporter reads OTEL_EXPORTER_OTLP_HEADERS"
    told = Told("https://other", {"x": "y"}, 0.0, "mine", False, 30.0)
    by_file = settings_of(told, variables)
    assert by_file is not None
    assert (by_file.endpoint, by_file.sample, by_file.service_name) == ("https://other", 0.0, "mine")
    assert (by_file.headers, by_file.metrics, by_file.interval_s) == ({"x": "y"}, False, 30.0)
    assert settings_of(told, {**variables, "OTEL_SDK_DISABLED": "True"}) is None


def test_values_that_make_no_sense_are_as_if_they_were_not_there() -> None:
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_TRACES_SAMPLER_ARG": "7"}
    settings = settings_of(Told(), {**variables, "OTEL_METRIC_EXPORT_INTERVAL": "soon"})
    assert settings is not None and (settings.sample, settings.interval_s) == (0.01, 60.0)
    named = settings_of(Told(), {**variables, "OTEL_RESOURCE_ATTRIBUTES": "service.name=x"})
    assert named is not None and named.service_name is None
