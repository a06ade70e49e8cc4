"""What a probe asks, and whether an answer is right: the set that is shipped, or one's own in the same form."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from gateway.chat import Json
from gateway.errors import ConfigError, Problem
from gateway.quality.same import NUMBER, json_in, number_of, plain, says

VERSION = 1
MAX_TOKENS = 32  # of an answer
MAX_JSON_TOKENS = 56
SLACK = 1e-6


class ProbePrompt(BaseModel):
    """One question. An answer is right where one of `accept` is said, or the last number is `number`, or its JSON is
    `json`, or `regex` is found in it, or all of it is of the form `matches`; where none is given, a judge is asked."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    topic: str = ""
    ask: str = Field(min_length=1)
    system: str | None = None
    accept: tuple[str | int | float, ...] = ()
    number: float | None = None
    as_json: Any = Field(default=None, alias="json")
    regex: str | None = None
    matches: str | None = None
    max_tokens: int | None = Field(default=None, ge=1)

    @field_validator("regex", "matches")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as exc:
            raise ValueError(f"is no regular expression: {exc}") from None
        return value

    @cached_property
    def is_checkable(self) -> bool:
        return bool(self.model_fields_set & {"accept", "number", "as_json", "regex", "matches"})

    @property
    def body(self) -> Json:
        system = [{"role": "system", "content": self.system}] if self.system else []
        messages = [*system, {"role": "user", "content": self.ask}]
        usual = MAX_JSON_TOKENS if "as_json" in self.model_fields_set else MAX_TOKENS
        return {"messages": messages, "max_tokens": self.max_tokens or usual, "temperature": 0}

    def is_right(self, answer: str) -> bool:
        text = answer.strip()
        if "as_json" in self.model_fields_set:
            return same_json(json_in(text), self.as_json)
        if self.number is not None:
            found = NUMBER.findall(text)
            return bool(found) and abs(number_of(found[-1]) - self.number) <= SLACK * max(1.0, abs(self.number))
        if self.regex is not None:
            return re.search(self.regex, text) is not None
        if self.matches is not None:
            return re.fullmatch(self.matches, text) is not None
        return any(says(text, str(accepted)) for accepted in self.accept)


def same_json(found: Any, wanted: Any) -> bool:
    """The same keys and values; texts by their words, and 49.0 is 49. A null that is asked for has to be there."""
    if isinstance(wanted, dict):
        if not isinstance(found, dict) or found.keys() != wanted.keys():
            return False
        return all(same_json(found[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list):
        return isinstance(found, list) and len(found) == len(wanted) and all(map(same_json, found, wanted))
    if isinstance(wanted, bool) or wanted is None:
        return found is wanted
    if isinstance(wanted, str):
        return isinstance(found, str) and plain(found) == plain(wanted)
    return isinstance(found, int | float) and not isinstance(found, bool) and abs(found - wanted) <= SLACK


def shipped() -> list[ProbePrompt]:
    text = (files("gateway.learning") / "data" / "probe.yaml").read_text("utf-8")
    return _parse(text, "probe.yaml")


def read_prompts(path: Path) -> list[ProbePrompt]:
    """Raises: ConfigError naming file and place."""
    try:
        return _parse(path.read_text("utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as exc:
        raise _wrong(str(path), "", f"cannot be read: {getattr(exc, 'strerror', None) or exc}") from None


def _parse(text: str, name: str) -> list[ProbePrompt]:
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as exc:
        raise _wrong(name, "", f"is not YAML: {' '.join(str(exc).split())}") from None
    topics = data.get("prompts") if isinstance(data, dict) and data.get("version") == VERSION else None
    if not isinstance(topics, dict):
        raise _wrong(name, "", "wants 'version: 1', and 'prompts' with a list of them by topic")
    found = []
    for topic, prompts in topics.items():
        for number, prompt in enumerate(prompts if isinstance(prompts, list) else []):
            try:
                found.append(ProbePrompt.model_validate({**prompt, "topic": str(topic)}))
            except ValidationError as exc:
                fault = exc.errors(include_url=False)[0]
                place = ".".join(str(part) for part in (f"prompts.{topic}[{number}]", *fault["loc"]))
                raise _wrong(name, place, fault["msg"]) from None
            except TypeError:
                raise _wrong(name, f"prompts.{topic}[{number}]", "is no mapping") from None
    return found


def _wrong(name: str, key: str, message: str) -> ConfigError:
    return ConfigError([Problem(name, 0, key, message)])


def chosen(prompts: Sequence[ProbePrompt], count: int) -> list[ProbePrompt]:
    """So many of them, the same number of each topic as far as there are."""
    by_topic: dict[str, list[ProbePrompt]] = {}
    for prompt in prompts:
        by_topic.setdefault(prompt.topic, []).append(prompt)
    rounds = max(map(len, by_topic.values()), default=0)
    mixed = [own[place] for place in range(rounds) for own in by_topic.values() if place < len(own)]
    return mixed[:count]
