"""The llm command, set up with what `gateway connect llm` prints, which lies beside it as `printed.json`."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import yaml

HERE = Path.cwd()
os.environ["LLM_USER_PATH"] = str(HERE)

from click.testing import CliRunner  # noqa: E402
from llm.cli import cli  # noqa: E402
from run import KEY  # noqa: E402

WEATHER = "def weather(city: str) -> str:\n    return 'sunny'\n"


def llm(*words: str) -> str:
    done = CliRunner().invoke(cli, list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output.removesuffix("\n")


def set_up() -> None:
    """As the page says, and two models more."""
    models, shell = json.loads(Path("printed.json").read_text())["snippets"]
    (chat,) = yaml.safe_load(models["text"])
    more = [{**chat, "model_id": "base", "completion": True}, {**chat, "model_id": "responses", "responses": True}]
    Path("extra-openai-models.yaml").write_text(yaml.safe_dump([chat, *more]))
    keys, ask = shell["text"].strip().splitlines()
    assert llm(*shlex.split(keys.replace('"$GATEWAY_KEY"', KEY))[1:]) == ""
    assert llm(*shlex.split(ask)[1:]) == "Hello from small"


def test_prompts() -> None:
    assert llm("-m", "onion", "hello") == "Hello from small"
    assert llm("-m", "onion", "--no-stream", "-s", "Be brief.", "hello") == "Hello from small"
    assert llm("-m", "onion", "something hard") == "the hard answer"
    assert llm("-m", "onion", "-c", "hello") == "Hello from small"
    assert llm("-m", "onion", "-o", "temperature", "0.5", "-o", "max_tokens", "9", "hello") == "Hello from small"


def test_usage() -> None:
    for words in (("hello",), ("--no-stream", "hello")):
        assert "11 input, 3 output" in llm("-m", "onion", "-u", *words)


def test_schemas() -> None:
    for words in ((), ("--no-stream",)):
        said = llm("-m", "onion", "--schema", "city, population int", *words, "a place")
        assert json.loads(said) == {"city": "Paris", "population": 2100000}


def test_tools() -> None:
    assert llm("-m", "onion", "--functions", WEATHER, "the weather for llm!") == "It is sunny in Paris."
    said = llm("-m", "onion", "--functions", WEATHER, "--no-stream", "the weather for llm whole!")
    assert said == "It is sunny in Paris."


def test_a_completions_model() -> None:
    assert llm("-m", "base", "hello") == "Hello from small"
    assert llm("-m", "base", "--no-stream", "hello") == "Hello from small"
    said = llm("-m", "base", "-o", "logprobs", "2", "-o", "max_tokens", "5", "hello")
    assert said == "Hello from small"


def test_a_responses_model() -> None:
    assert llm("-m", "responses", "hello") == "Hello from small"
    assert llm("-m", "responses", "--no-stream", "hello") == "Hello from small"
    said = llm("-m", "responses", "--schema", "city, population int", "a place")
    assert json.loads(said)["city"] == "Paris"
    assert llm("-m", "responses", "--functions", WEATHER, "the weather for llm responses!") == "It is sunny in Paris."


def test_an_error() -> None:
    done = CliRunner().invoke(cli, ["-m", "onion", "--key", "sk-wrong", "hello"])
    assert done.exit_code == 1 and "key" in done.output and "Traceback" not in done.output


set_up()
