"""The dashboard asks for what there is, and is one that Grafana takes."""

from __future__ import annotations

import json
import re
from typing import Any

import promql_parser
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import ROOT, Serve

DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy" / "grafana.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
GRAPHS = [panel for panel in PANELS if panel["type"] != "row"]
QUERIES = [(panel["title"], target["expr"]) for panel in GRAPHS for target in panel["targets"]]
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
PROMETHEUS_OWN = {"instance", "job", "le"}
MODELS = """
models:
  small: {engine: scripted, replies: [{text: 'no'}]}
  large: {engine: scripted, replies: [{text: a longer answer than that}]}
  broken: {engine: scripted, replies: [{error: {status: 500, message: broken}}]}
  cut: {engine: scripted, replies: [{text: a b c d e f, cut_after: 2}]}
  local: {engine: llama.cpp, source: "file:model.gguf", residency: on_demand}
"""
ESCALATES = """
policy: default
routes:
  - name: hard
    answer: {cascade: [{model: small, checks: [{length: {min_chars: 5}}]}, {model: large}]}
"""


async def emitted(serve: Serve) -> dict[str, set[str] | None]:
    """Names of all series, and the labels of each; None of one that has counted nothing here."""
    client = await serve(MODELS, default=ESCALATES)
    for fields in ({"stream": True}, {"model": "broken"}, {"model": "cut", "stream": True}):
        await client.chat(**fields)
    text = (await client.call("GET", "/metrics")).body.decode()
    names: dict[str, set[str] | None] = {}
    for family in text_string_to_metric_families(text):
        for suffix in SUFFIXES[family.type]:
            labels = {label for sample in family.samples for label in sample.labels}
            names[family.name + suffix] = labels if family.samples else None
    return names


async def test_everything_it_asks_for_is_there(serve: Serve) -> None:
    names = await emitted(serve)
    for title, expression in QUERIES:
        asked = set(re.findall(r"\bgateway_\w+", expression))
        assert asked and asked <= names.keys(), f"{title}: {asked - names.keys()}"
        labels = {label for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(", ")}
        labels |= set(re.findall(r"[{,]\s*(\w+)\s*[=!]", expression))
        for name in asked:
            known = names[name]
            if known is not None and len(asked) == 1:
                assert labels - PROMETHEUS_OWN <= known, f"{title}: {labels - known}"


def test_legends_name_labels_that_their_queries_leave() -> None:
    for panel in GRAPHS:
        for target in panel["targets"]:
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            grouped = {label for group in re.findall(r"by \(([^)]*)\)", target["expr"]) for label in group.split(", ")}
            assert shown <= grouped or target["expr"].startswith("gateway_build_info"), panel["title"]


def test_the_variable_is_read_from_a_series_that_is_there() -> None:
    names = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert names["datasource"]["type"] == "datasource" and names["datasource"]["query"] == "prometheus"
    assert names["instance"]["query"]["query"] == "label_values(gateway_build_info, instance)"


@pytest.mark.parametrize(("title", "expression"), QUERIES, ids=[title for title, _ in QUERIES])
def test_every_query_is_promql(title: str, expression: str) -> None:
    promql_parser.parse(expression.replace("$__rate_interval", "5m").replace("$instance", ".*"))


def test_panels_are_where_grafana_can_put_them() -> None:
    assert DASHBOARD["schemaVersion"] >= 36 and DASHBOARD["id"] is None and DASHBOARD["title"] and DASHBOARD["uid"]
    ids = [panel["id"] for panel in PANELS]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert cells and not cells & taken and max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells
    for panel in GRAPHS:
        assert panel["type"] in ("timeseries", "stat") and panel["datasource"]["uid"] == "${datasource}"
        refs = [target["refId"] for target in panel["targets"]]
        assert refs and len(set(refs)) == len(refs)
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])
        assert panel["fieldConfig"]["defaults"]["unit"]


def test_it_has_a_row_for_each_thing_to_look_after() -> None:
    rows = [panel["title"] for panel in PANELS if panel["type"] == "row"]
    assert rows == ["Traffic", "Latency", "Tiers and escalation", "Models and engines", "Tokens and cost", "Errors"]
