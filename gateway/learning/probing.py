"""A probe from end to end: the model and the judge as they are configured, the row that it fills, the files."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from gateway.capability.table import cells_as_json
from gateway.chat import Json
from gateway.config.build import build
from gateway.config.files import Config
from gateway.gateway import Gateway
from gateway.learned_files import Learned, LearnedFile
from gateway.learning import capability_fit
from gateway.learning.capability_fit import with_probe
from gateway.learning.probe import Probed, Step, probe
from gateway.learning.probe_prompts import ProbePrompt
from gateway.live import Live
from gateway.runtime import Runtime


async def run_probe(
    config: Config,
    home: Path,
    name: str,
    prompts: Sequence[ProbePrompt],
    *,
    judge: str | None = None,
    max_cost_usd: float | None = None,
    step: Step | None = None,
) -> tuple[Probed, list[LearnedFile]]:
    """Starts the model where it is a local one. Writes nothing. Raises: UnknownModel, BackendError, ConfigError."""
    runtime = Runtime(home)
    gateway = build(config, runtime)
    runtime.profiles.table.is_changed = False  # to be written by a server, and by nobody else
    model, judging = gateway.model(name), gateway.model(judge) if judge is not None else None
    assert model.responder is not None  # else `model` has said that it is inactive
    learned, now = Learned(home), time.time()
    try:
        await _start(runtime, gateway)
        probed = await probe(
            name,
            model.responder,
            prompts,
            judge=None if judging is None else judging.responder,
            max_cost_usd=max_cost_usd,
            step=step,
        )
        clusters_id, clusters = await _clusters(runtime, home, [one.prompt.ask for one in probed.answered])
    finally:
        await runtime.close()
    in_use = {file: data for file in (capability_fit.PROBES, capability_fit.NAME) if (data := learned.read(file))}
    entry: Json = {
        "at": now,
        "clusters": clusters_id,
        "asked": len(probed.answered),
        "topics": probed.by_topic(),
        "cells": cells_as_json(probed.cells(clusters, now)),
    }
    probes, table = with_probe(in_use, clusters_id, entry, name, now)
    said = [f"Row of '{name}' from {len(probed.answered)} questions. `gateway learn revert` takes it back."]
    return probed, [LearnedFile(capability_fit.PROBES, probes), LearnedFile(capability_fit.NAME, table, said)]


async def _start(runtime: Runtime, gateway: Gateway) -> None:
    """Local models start when they are asked."""
    Live(gateway, runtime.pool)
    await runtime.start()


async def _clusters(runtime: Runtime, home: Path, texts: Sequence[str]) -> tuple[str, list[int]]:
    """Raises: GatewayError where the embedding model cannot be had."""
    from gateway.capability import clusters

    own = clusters.load(home)
    vectors = await runtime.embeddings.of_all(texts) if texts else []
    return own.id, [own.of(vector)[0][0] for vector in vectors]
