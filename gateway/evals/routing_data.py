"""Routing data: benchmark prompts with what each of several models made of them, read from a folder of JSON lines."""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from gateway.errors import GatewayError

TOPICS: Mapping[str, Sequence[str]] = {
    "math": (
        "math",
        "abstract_algebra",
        "college_mathematics",
        "elementary_mathematics",
        "high_school_mathematics",
        "high_school_statistics",
    ),
    "physics": ("physics", "astronomy", "college_physics", "conceptual_physics", "high_school_physics"),
    "chemistry": ("chemistry", "college_chemistry", "high_school_chemistry"),
    "biology": ("biology", "college_biology", "high_school_biology", "virology"),
    "medicine": (
        "health",
        "anatomy",
        "clinical_knowledge",
        "college_medicine",
        "medical_genetics",
        "professional_medicine",
        "nutrition",
        "human_aging",
        "human_sexuality",
    ),
    "law": ("law", "international_law", "jurisprudence", "professional_law"),
    "history": (
        "history",
        "high_school_european_history",
        "high_school_us_history",
        "high_school_world_history",
        "prehistory",
    ),
    "business": (
        "business",
        "economics",
        "business_ethics",
        "econometrics",
        "high_school_macroeconomics",
        "high_school_microeconomics",
        "management",
        "marketing",
        "professional_accounting",
        "public_relations",
    ),
    "psychology": ("psychology", "high_school_psychology", "professional_psychology", "sociology"),
    "philosophy": (
        "philosophy",
        "formal_logic",
        "logical_fallacies",
        "moral_disputes",
        "moral_scenarios",
        "world_religions",
    ),
    "politics": (
        "high_school_geography",
        "high_school_government_and_politics",
        "security_studies",
        "us_foreign_policy",
    ),
    "code": ("code", "crux", "mbpp", "human_eval", "computer science"),
    "computing": ("college_computer_science", "computer_security", "high_school_computer_science", "machine_learning"),
    "engineering": ("engineering", "electrical_engineering"),
    "everyday": ("commonsense_qa", "openbook_qa", "arc_challenge"),
    "trivia": ("trivia_qa", "natural_qa"),
    "puzzles": ("agentverse-logicgrid",),
    "writing": ("commongen",),
}
TOPIC_OF = {name: topic for topic, names in TOPICS.items() for name in names}


@dataclass(frozen=True)
class RoutingSet:
    """Args:
    weak, strong: the pair that a router chooses from by default.
    prices: US dollars per million tokens, in and out, by model.
    """

    name: str
    weak: str
    strong: str
    models: Sequence[str]
    prices: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Prompt:
    """`models`: by name what came of it: `s` score 0 to 1, `c` US dollars, and what else the data say."""

    id: str
    set: str
    bench: str
    label: str
    text: str
    models: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class RoutingData:
    sets: Mapping[str, RoutingSet]
    prompts: Mapping[str, Sequence[Prompt]]
    """By set."""

    def all(self) -> list[Prompt]:
        return [prompt for of_set in self.prompts.values() for prompt in of_set]


def read(folder: Path, splits: Sequence[str]) -> RoutingData:
    """All files of a folder, or one file beside its `sets.json`. Raises: GatewayError naming the file."""
    files = sorted([*folder.glob("*.jsonl.gz"), *folder.glob("*.jsonl")]) if folder.is_dir() else [folder]
    home = folder if folder.is_dir() else folder.parent
    sets = _read_sets(home / "sets.json")
    prompts: dict[str, list[Prompt]] = {}
    for file in files:
        for prompt in _read_prompts(file, splits):
            if prompt.set not in sets:
                raise GatewayError(f"{file}: '{prompt.set}' is not in {home / 'sets.json'}")
            prompts.setdefault(prompt.set, []).append(prompt)
    if not prompts:
        raise GatewayError(f"{folder}: no prompts of the split {' or '.join(splits)}")
    return RoutingData({name: sets[name] for name in prompts}, prompts)


def _read_sets(file: Path) -> dict[str, RoutingSet]:
    try:
        return {
            name: RoutingSet(name, told["weak"], told["strong"], told["models"], told.get("price_usd_per_mtok", {}))
            for name, told in orjson.loads(file.read_bytes()).items()
        }
    except (OSError, orjson.JSONDecodeError, KeyError, AttributeError, TypeError) as exc:
        raise GatewayError(f"{file}: cannot be read as a list of sets: {exc!r}") from None


def _read_prompts(file: Path, splits: Sequence[str]) -> list[Prompt]:
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as lines:
            records = [orjson.loads(line) for line in lines if line.strip()]
        return [_prompt(record) for record in records if record["split"] in splits]
    except (OSError, EOFError, orjson.JSONDecodeError, KeyError, TypeError) as exc:
        raise GatewayError(f"{file}: cannot be read as routing data: {exc!r}") from None


def _prompt(record: Mapping[str, Any]) -> Prompt:
    bench = str(record.get("bench") or record["set"])
    category = str(record.get("category") or bench)
    topic = TOPIC_OF.get(category) or TOPIC_OF.get(bench, "")
    label = f"{topic}/{record['set']}:{category}"
    return Prompt(str(record["id"]), str(record["set"]), bench, label, str(record["prompt"]), record["models"])
