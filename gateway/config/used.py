"""How a model's calls are counted beside its price: its layer, the hours of its engine, its energy."""

from __future__ import annotations

from functools import cache

from gateway.config.model_specs import AttachSpec, GgufSpec, LocalSpec, ModelSpec
from gateway.costs.meter import ATTACHED, CORE, LOCAL, REMOTE, Used, watts_of
from gateway.engines.llama_cpp_python import cores_but_one
from gateway.engines.memory import gpu_count
from gateway.runtime import Runtime


def used_of(engine: str, spec: ModelSpec, runtime: Runtime) -> Used:
    """Args: `engine` is the name of the server: each address of a model has its own."""
    is_here, energy = isinstance(spec, LocalSpec), spec.energy
    watts = energy.watts if energy is not None else modelled_watts(spec)
    may_have_hours = isinstance(spec, AttachSpec) or (spec.price is not None and spec.price.usd_per_hour > 0)
    meter = runtime.meter(engine, watts, is_here=is_here) if is_here or may_have_hours or watts is not None else None
    return Used(layer_of(spec), meter, energy.joules_per_token if energy is not None else None)


def layer_of(spec: ModelSpec) -> str:
    if isinstance(spec, LocalSpec):
        return CORE if spec.residency == "always" else LOCAL
    return ATTACHED if isinstance(spec, AttachSpec) else REMOTE


def modelled_watts(spec: ModelSpec) -> float | None:
    """Of a model that a CPU computes, by its threads; None where a GPU may do it, or another machine."""
    if not isinstance(spec, GgufSpec) or (spec.gpu_layers != 0 and _has_gpu()):
        return None
    return watts_of(spec.threads or len(spec.cpus) or cores_but_one())


@cache
def _has_gpu() -> bool:
    return gpu_count() > 0
