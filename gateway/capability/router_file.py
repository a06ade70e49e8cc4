"""A learned router as a YAML file: names and numbers to read, large arrays as base64."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from gateway.capability import hashing
from gateway.capability.router import (
    CLASS_WAVES,
    DIMENSIONS,
    LARGE,
    SMALL,
    TARGET_WAVES,
    Floats,
    Heads,
    Reading,
    Router,
)
from gateway.learned_file import VERSION, existing_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
DIGITS = 6
STEPS = 127


def write(router: Router, path: Path) -> None:
    """Whole or not at all."""
    reading = router.reading
    data = {
        "version": VERSION,
        "floor": round(router.floor, DIGITS),
        "classes": list(router.classes),
        "targets": {name: round(mean, DIGITS) for name, mean in zip(router.targets, router.means, strict=True)},
        "reading": {
            "form": _half(reading.form),
            "grams": _byte(reading.grams),
            "gram_scale": _half(reading.gram_scale),
            "pairs": _byte(reading.pairs),
            "centroids": _byte(reading.centroids),
        },
        "plain": _heads(router.plain),
    }
    if router.full is not None:
        data["full"] = _heads(router.full)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(yaml.dump(data, Dumper=DUMPER, sort_keys=False, width=120), "utf-8")
    fresh.replace(path)


def read(path: Path) -> Router:
    """Raises: ConfigError naming the file."""
    return existing_file(path, "a learned router", _router)


def _router(data: Any) -> Router:
    classes, targets = tuple(map(str, data["classes"])), {str(name): float(x) for name, x in data["targets"].items()}
    if list(targets)[:2] != [SMALL, LARGE]:
        raise ValueError(f"its first targets must be {SMALL} and {LARGE}")
    k, form = len(classes), hashing.STATISTICS
    arrays = data["reading"]
    reading = Reading(
        _array(arrays["form"], 2, form),
        _array(arrays["grams"], hashing.BUCKETS, k),
        _array(arrays["gram_scale"], 2, k),
        _array(arrays["pairs"], hashing.CODES, hashing.CODES),
        _array(arrays["centroids"], None, DIMENSIONS),
    )
    plain = _read_heads(data["plain"], k, len(targets), 0)
    full = _read_heads(data["full"], k, len(targets), DIMENSIONS) if "full" in data else None
    if full is not None and not len(reading.centroids):
        raise ValueError("it has no centroids")
    return Router(classes, tuple(targets), reading, plain, full, tuple(targets.values()), float(data["floor"]))


def _heads(heads: Heads) -> dict[str, Any]:
    quantiles = [round(value, DIGITS) for value in heads.likeness]
    return {"classes": _half(heads.classes), "targets": _half(heads.targets), "likeness": quantiles}


def _read_heads(data: Any, classes: int, targets: int, dimensions: int) -> Heads:
    rest = classes + dimensions + 1
    likeness = tuple(map(float, data["likeness"]))
    if len(likeness) < 2 or list(likeness) != sorted(likeness):
        raise ValueError("likeness wants two rising numbers or more")
    of_classes = _array(data["classes"], CLASS_WAVES + rest, classes)
    return Heads(of_classes, _array(data["targets"], TARGET_WAVES + rest, targets), likeness)


def _half(array: Floats) -> dict[str, Any]:
    return _packed(array.astype("<f2"), "float16")


def _byte(array: Floats) -> dict[str, Any]:
    """In steps of one 127th of the largest."""
    largest = float(np.abs(array).max(initial=0.0)) or 1.0
    packed = _packed(np.rint(array / largest * STEPS).astype(np.int8), "int8")
    return {"scale": round(largest / STEPS, 9), **packed}


def _packed(array: NDArray[Any], dtype: str) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(array.shape), "base64": base64.b64encode(array.tobytes()).decode()}


def _array(data: Any, rows: int | None, columns: int) -> Floats:
    dtype = {"float16": "<f2", "int8": "i1"}[data["dtype"]]
    shape = tuple(data["shape"])
    if len(shape) != 2 or shape[1] != columns or rows not in (None, shape[0]):
        raise ValueError(f"an array has the shape {list(shape)}, and {[rows, columns]} is wanted")
    raw = np.frombuffer(base64.b64decode(data["base64"], validate=True), dtype).reshape(shape)
    array: Floats = raw.astype(np.float32) * np.float32(data.get("scale", 1.0))
    if not np.isfinite(array).all():
        raise ValueError("an array has numbers that are not finite")
    return array
