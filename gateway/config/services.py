"""What signals may ask, put together of what the gateway is built from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.config.files import Config
from gateway.config.lines import nearest
from gateway.engines import Engine
from gateway.errors import Problem
from gateway.gateway import Model
from gateway.routing.learned import Learned
from gateway.routing.services import ServedModel, Services
from gateway.runtime import Runtime


def services_of(
    config: Config, models: Mapping[str, Model], engines: Sequence[Engine], runtime: Runtime, problems: list[Problem]
) -> Services:
    judge = config.settings.judge
    if judge is not None and judge not in models:
        message = f"no model is called '{judge}'"
        problems.append(config.models_document.problem(("judge",), message, nearest(judge, models)))
        judge = None
    return Services(
        runtime.embeddings,
        {name: _served(model, engines, runtime) for name, model in models.items()},
        Learned(runtime.home, runtime.embeddings),
        runtime.sessions,
        runtime.errands,
        judge,
    )


def _served(model: Model, engines: Sequence[Engine], runtime: Runtime) -> ServedModel:
    server = str((model.stated or {}).get("base", model.name))  # an adapter's is its base's
    own = [engine for engine in engines if engine.name == server or engine.name.rpartition("#")[0] == server]

    def is_loaded() -> bool:
        return not own or any(runtime.pool.is_loaded(engine) for engine in own)

    def wake() -> None:
        for engine in own:
            runtime.pool.prefetch(engine, 1.0)

    return ServedModel(model.name, model.responder, model.counter, lambda: model.card, is_loaded, wake)
