"""What litellm's list of models is read for, and what it costs to read it."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from gateway import catalogue
from gateway.trace import Price
from tests.conftest import ROOT, build_from
from tests.upstream import SINGLE


def test_a_models_price_context_and_content() -> None:
    found = catalogue.known("anthropic/claude-sonnet-4-5")
    assert found is not None
    assert found.price == Price(3.0, 15.0, 0.3), "US dollars per million tokens"
    assert (found.context, found.max_output_tokens) == (200_000, 64_000)
    assert found.accepts == {"text", "image", "file"}


@pytest.mark.parametrize(
    "name",
    [
        "gemini/gemini-2.5-flash",
        "vertex_ai/gemini-2.5-flash",
        "vertex_ai/claude-sonnet-4-5",
        "bedrock/us.anthropic.claude-sonnet-4-5-20250929-v1:0",
        "bedrock/converse/us.anthropic.claude-sonnet-4-5-20250929-v1:0",
        "azure/gpt-4o",
        "openai/gpt-5-mini",
    ],
)
def test_providers_that_the_list_writes_in_their_own_ways(name: str) -> None:
    found = catalogue.known(name)
    assert found is not None and found.price is not None and "image" in found.accepts


@pytest.mark.parametrize("name", ["anthropic/gpt-5-mini", "anthropic/nobody", "nobody/claude-sonnet-4-5", "claude", ""])
def test_what_is_not_in_the_list_is_not_guessed(name: str) -> None:
    assert catalogue.known(name) is None


def test_a_price_of_nothing_is_not_believed() -> None:
    found = catalogue.known("ollama/llama3")
    assert found is not None and found.price is None


@pytest.mark.parametrize(
    ("base_url", "model", "is_known"),
    [
        ("https://api.openai.com/v1", "gpt-5-mini", True),
        ("https://API.openai.com/v1", "gpt-5-mini", True),
        ("https://api.groq.com/openai/v1", "openai/gpt-oss-120b", True),
        ("https://api.mistral.ai/v1", "mistral-large-latest", True),
        ("https://api.deepseek.com", "deepseek-chat", True),
        ("https://api.together.xyz/v1", "openai/gpt-oss-20b", True),
        ("https://api.openai.com/v1", "made-up", False),
        ("https://api.openai.com.example.org/v1", "gpt-5-mini", False),
        ("http://127.0.0.1:8000/v1", "gpt-5-mini", False),
    ],
)
def test_prices_by_address_only_where_the_host_is_known(base_url: str, model: str, is_known: bool) -> None:
    found = catalogue.known_at(base_url, model)
    assert (found is not None and found.price is not None) is is_known


def test_entries_without_a_price_take_the_lists(tmp_path) -> None:  # type: ignore[no-untyped-def]
    models = """
    models:
      m1: {engine: openai, base_url: 'https://api.openai.com/v1', model: gpt-5-mini, api_key: k}
      own: {engine: openai, base_url: 'https://api.openai.com/v1', model: gpt-5-mini, api_key: k,
            price: {input_usd_per_mtok: 7}}
      unknown: {engine: openai, base_url: 'http://10.0.0.5/v1', model: gpt-5-mini}
      claude: {engine: litellm, model: anthropic/claude-sonnet-4-5, api_key: k}
      text: {engine: litellm, model: anthropic/claude-sonnet-4-5, api_key: k, accepts: [text], context: 9000,
             price: {input_usd_per_mtok: 7}}
      new: {engine: litellm, model: anthropic/made-up, api_key: k}
    """
    gateway, _ = build_from(tmp_path, models, default=SINGLE)
    cards = {name: model.card or {} for name, model in gateway.models.items()}
    assert cards["m1"]["price"]["output_usd_per_mtok"] == 2.0
    assert cards["own"]["price"] == cards["text"]["price"] == {"input_usd_per_mtok": 7}
    assert "price" not in cards["unknown"] and "price" not in cards["new"]
    assert cards["claude"]["price"] == {
        "input_usd_per_mtok": 3.0,
        "output_usd_per_mtok": 15.0,
        "cached_input_usd_per_mtok": 0.3,
    }
    assert cards["claude"]["accepts"] == ["text", "image", "file"] and cards["claude"]["context"] == 200_000
    assert cards["text"]["context"] == 9000
    assert cards["text"]["accepts"] == cards["new"]["accepts"] == ["text"]


COSTS = """
import sys, tempfile
from pathlib import Path
from tests.conftest import build_from
from gateway import catalogue
entry = {"litellm": "{engine: litellm, model: anthropic/claude-sonnet-4-5}",
         "elsewhere": "{engine: openai, base_url: 'http://10.0.0.5/v1', model: gpt-5-mini}"}[sys.argv[1]]
build_from(Path(tempfile.mkdtemp()), f"models: {{m1: {entry}}}",
           default="policy: default\\nroutes: [{name: all, answer: {model: m1}}]")
import gateway.cli
loaded = [name for name in sys.modules if name.split(".")[0] in ("litellm", "httpx", "openai")]
print(catalogue._entries.cache_info().currsize, *loaded)
"""


@pytest.mark.parametrize(("entry", "reads"), [("litellm", "1"), ("elsewhere", "0")])
def test_building_a_config_reads_the_list_only_where_needed_and_never_imports_litellm(entry: str, reads: str) -> None:
    run = subprocess.run([sys.executable, "-c", COSTS, entry], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == [reads]


def test_reading_the_list_takes_milliseconds() -> None:
    took_s = []
    for _ in range(3):
        catalogue._entries.cache_clear()
        started = time.monotonic()
        assert catalogue.known("anthropic/claude-sonnet-4-5")
        took_s.append(time.monotonic() - started)
    assert min(took_s) < 0.2
