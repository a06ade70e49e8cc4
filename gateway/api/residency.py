"""What lists tell of a local model's place in memory."""

from __future__ import annotations

from gateway.chat import Json
from gateway.engines import Engine, Residency
from gateway.gateway import Gateway, Model
from gateway.runtime import Runtime


def engine_of(gateway: Gateway, model: Model) -> Engine | None:
    """Its own, or its base's: an adapter runs in that. None for a model of an API."""
    name = model.card.get("base", model.name)
    return next((engine for engine in gateway.engines if engine.name == name), None)


def residency_of(gateway: Gateway, runtime: Runtime, model: Model) -> Json | None:
    """None for a model that nothing here loads or watches.

    `ram_bytes` and `gpu_bytes`: what it takes, or would take where it is not loaded; 0 where nobody knows.
    """
    engine = engine_of(gateway, model)
    if engine is None:
        return None
    state = runtime.pool.state_of(engine)
    told: Json = {
        "kind": engine.residency,
        "stage": state.stage,
        "ram_bytes": state.footprint.ram_bytes,
        "gpu_bytes": state.footprint.gpu_bytes,
        "slots": state.slots,
        "busy": state.busy,
        "waiting": state.waiting,
        "idle_s": None if state.idle_s is None else round(state.idle_s, 1),
        "loads": runtime.metrics.residency.loads.get(engine.name, 0),
        "load_s": None if state.loaded_s is None else round(state.loaded_s, 3),
        "restarts": state.restarts,
        "last_error": state.last_error,
        "why": state.why,
    }
    return told | ({"idle_ttl_s": engine.idle_ttl_s} if engine.residency is Residency.ON_DEMAND else {})


def memory_of(runtime: Runtime) -> Json:
    """What local models take together, and what they may; null without a limit."""
    ram_bytes, gpu_bytes = runtime.memory_limits()
    taken = runtime.pool.taken
    return {
        "budget": {"ram_bytes": ram_bytes, "gpu_bytes": gpu_bytes},
        "taken": {"ram_bytes": taken.ram_bytes, "gpu_bytes": taken.gpu_bytes},
    }
