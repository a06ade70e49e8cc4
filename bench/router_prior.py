"""Makes the learned router that is shipped: `python -m bench.router_prior --train DIR [--out FILE]`.

Like `gateway eval routing` trains one, but for its classes: one for each topic of a set, which makes the file small.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

from gateway.capability.router import SHIPPED
from gateway.evals.routing import fit
from gateway.evals.routing_data import Prompt, RoutingData, read
from gateway.evals.routing_vectors import Vectors
from gateway.runtime import gateway_home


def coarse(prompt: Prompt) -> Prompt:
    topic = prompt.label.split("/")[0]
    return replace(prompt, label=f"{topic}/{prompt.bench}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "onion-router-cache")
    parser.add_argument("--out", type=Path, default=SHIPPED)
    options = parser.parse_args()
    train = read(options.train, ["train"])
    prompts = {name: [coarse(prompt) for prompt in of_set] for name, of_set in train.prompts.items()}
    router = fit(RoutingData(train.sets, prompts), Vectors(options.cache, gateway_home()).of)
    router.save(options.out)
    print(f"{options.out}: {len(router.classes)} classes, {options.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
