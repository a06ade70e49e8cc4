"""Where to export to, from models.yaml and the environment variables of OpenTelemetry."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.telemetry.names import SERVICE

DEFAULT_SAMPLE = 0.01
DEFAULT_INTERVAL_S = 60.0


@dataclass(frozen=True)
class Told:
    """What models.yaml says; None where it does not."""

    otlp: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    sample: float | None = None
    service_name: str | None = None
    metrics: bool = True
    interval_s: float | None = None


@dataclass(frozen=True)
class TelemetrySettings:
    """`endpoint`: of OTLP over HTTP, without a signal's path. `sample`: share of the requests that become spans.
    `service_name`: None where OTEL_RESOURCE_ATTRIBUTES names it. `headers`: None where the environment has them."""

    endpoint: str
    sample: float = DEFAULT_SAMPLE
    headers: Mapping[str, str] | None = None
    service_name: str | None = SERVICE
    metrics: bool = True
    interval_s: float = DEFAULT_INTERVAL_S

    def url(self, signal: str) -> str:
        """Of `traces` or `metrics`."""
        return f"{self.endpoint.rstrip('/')}/v1/{signal}"


def settings_of(told: Told, environment: Mapping[str, str] | None = None) -> TelemetrySettings | None:
    """None where nothing is to be exported. The file is more particular than the environment, so it counts first; but
    OTEL_SDK_DISABLED switches off whatever it says. Values that make no sense are as if they were not there, as the
    standard wants it."""
    variables = os.environ if environment is None else environment
    endpoint = told.otlp or variables.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip()
    if not endpoint or variables.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    sample = told.sample if told.sample is not None else _number(variables, "OTEL_TRACES_SAMPLER_ARG", most=1.0)
    interval_ms = _number(variables, "OTEL_METRIC_EXPORT_INTERVAL")
    named_elsewhere = "service.name=" in variables.get("OTEL_RESOURCE_ATTRIBUTES", "")
    name = told.service_name or variables.get("OTEL_SERVICE_NAME") or (None if named_elsewhere else SERVICE)
    return TelemetrySettings(
        endpoint,
        sample=DEFAULT_SAMPLE if sample is None else sample,
        headers=told.headers or None,
        service_name=name,
        metrics=told.metrics,
        interval_s=told.interval_s or (interval_ms / 1e3 if interval_ms else DEFAULT_INTERVAL_S),
    )


def _number(variables: Mapping[str, str], name: str, *, most: float = float("inf")) -> float | None:
    try:
        value = float(variables.get(name, ""))
    except ValueError:
        return None
    return value if 0 <= value <= most else None
