"""Workloads written for tests."""

import gzip
import json
from pathlib import Path
from typing import Any


def line(number: int, **models: dict[str, Any]) -> dict[str, Any]:
    return {"id": f"r{number}", "prompt": f"What is {number} plus one?", "models": models}


def small(quality: float = 1.0, **more: Any) -> dict[str, Any]:
    return {"answer": "It is so.", "quality": quality, "cost_usd": 0.001, "latency_s": 1.0, "output_tokens": 3} | more


def large(quality: float = 1.0, **more: Any) -> dict[str, Any]:
    return {"answer": "It is so.", "quality": quality, "cost_usd": 0.01, "latency_s": 5.0, "output_tokens": 9} | more


def write(path: Path, lines: list[dict[str, Any]]) -> Path:
    text = "".join(json.dumps(one) + "\n" for one in lines)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path
