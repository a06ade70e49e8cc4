"""What is allowed and mostly not wanted: settings that let others in, or read along. Warnings, no faults."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from gateway.config.address_specs import AddressSpec
from gateway.config.lines import Document
from gateway.config.model_specs import LiteLLMSpec, ModelSpec, VllmSpec
from gateway.config.spec import ModelsFileSpec
from gateway.errors import Problem
from gateway.transport import is_loopback

WHOLE_WORLD = 2  # bits of a network, and fewer: a quarter of all addresses


def risks_of(document: Document, settings: ModelsFileSpec, specs: Mapping[str, ModelSpec]) -> Iterator[Problem]:
    """Args: `specs`: of the active models, by name."""
    yield from _of_the_edge(document, settings)
    for name, spec in specs.items():
        if any(_is_readable(url) for url in _keyed_urls(spec)):
            yield document.problem(("models", name), *CLEAR)
        if isinstance(spec, VllmSpec) and any(word.startswith("--trust-remote-code") for word in spec.args):
            why = "code that comes with the model is run"
            yield document.problem(("models", name, "args"), why, "take a model that needs none")
    for n, one in enumerate(settings.shards.subscribe):
        if one.api_key and _is_readable(one.url):
            yield document.problem(("shards", "subscribe", n), *CLEAR)
    telemetry = settings.telemetry
    if telemetry.otlp and telemetry.headers and _is_readable(telemetry.otlp):
        yield document.problem(("telemetry", "otlp"), *CLEAR)


CLEAR = ("the key crosses the network where others can read it", "write https://")


def _of_the_edge(document: Document, settings: ModelsFileSpec) -> Iterator[Problem]:
    if "*" in (settings.cors_origins or ()):
        why = "every page that somebody here visits may ask; without API keys it needs nothing else"
        yield document.problem(("cors_origins",), why, "name the origins, and make keys")
    for n, text in enumerate(settings.trusted_proxies):
        if text != "unix" and ipaddress.ip_network(text, strict=False).prefixlen < WHOLE_WORLD:
            why = f"{text}: anybody may say to come from any address"
            yield document.problem(("trusted_proxies", n), why, "name the proxy's own address")


def _keyed_urls(spec: ModelSpec) -> Iterator[str]:
    """Those that are sent a key."""
    addresses: tuple[AddressSpec, ...] = getattr(spec, "addresses", ())
    headers: Mapping[str, str] = getattr(spec, "headers", {})
    has_secret_header = any(name.lower() in ("authorization", "x-api-key", "api-key", "cookie") for name in headers)
    yield from (one.url for one in addresses if one.key or has_secret_header)
    if isinstance(spec, LiteLLMSpec) and spec.base_url and (spec.api_key or has_secret_header):
        yield spec.base_url


def _is_readable(url: str) -> bool:
    return url.startswith("http://") and not is_loopback(urlsplit(url).hostname)
