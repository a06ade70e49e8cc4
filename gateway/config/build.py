"""From what the files say to live objects: one immutable `Gateway`. Names are resolved here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

from gateway.chat import Responder
from gateway.config import plugins
from gateway.config.caching import keeping_of
from gateway.config.failover import with_failover
from gateway.config.files import Config, ModelEntry
from gateway.config.leaves import Surroundings, model_of
from gateway.config.orders import shard_orders, training_orders
from gateway.config.policies import PolicyBuilder
from gateway.config.services import services_of
from gateway.config.spec import ModelsFileSpec
from gateway.config.trained import trainable_in, trainables_of, with_trained
from gateway.engines.footprint import UNLIMITED, Footprint
from gateway.engines.memory import machine, parse_bytes
from gateway.errors import ConfigError, Problem
from gateway.gateway import Gateway, Model
from gateway.quality.learned import read_combiners, read_promises
from gateway.routing.policy import Policy
from gateway.runtime import Runtime
from gateway.training.specialists import Curriculum
from gateway.training.trial import State

DEFAULT_POLICY, DEFAULT_ALIAS = "default", "auto"
ModelMaker = Callable[[ModelEntry, Surroundings], Model]


def build(config: Config, runtime: Runtime, model_of: ModelMaker = model_of) -> Gateway:
    """Raises: ConfigError with every fault found."""
    plugins.load()
    config, trained = with_trained(config, runtime.home)
    problems: list[Problem] = []
    trainables = trainables_of(config, runtime.home)
    around = Surroundings(config, runtime, problems, engines=[], trainable=trainable_in(config))
    for entry in trained:
        if entry.state is not State.TRAINED:
            around.trained.setdefault(entry.model, []).append(entry.full_name)
    models = {name: model_of(entry, around) for name, entry in config.models.items()}
    models = with_failover(models, config, runtime, problems)
    policies: dict[str, Policy] = {}
    readers: dict[str, Responder] = {}
    try:
        runtime.promises.learned(read_combiners(runtime.home), read_promises(runtime.home))
    except ConfigError as exc:
        problems.extend(exc.problems)
    services = services_of(config, models, around.engines, runtime, problems)
    for file in config.policies:
        policy = PolicyBuilder(file, models, around, readers, services).build()
        for place, name in (("policy", policy.name), *(("serves", alias) for alias in policy.serves)):
            if name in models:
                problems.append(file.document.problem((place,), f"'{name}' is the name of a model"))
            elif name in policies and policies[name] is not policy:
                problems.append(file.document.problem((place,), f"'{name}' is taken by policy '{policies[name].name}'"))
            policies[name] = policy
    if DEFAULT_POLICY in policies:
        if DEFAULT_ALIAS in models:
            document = config.models_document
            hint = f"'{DEFAULT_ALIAS}' is an alias of the policy '{DEFAULT_POLICY}'"
            problems.append(document.problem(("models", DEFAULT_ALIAS), "this name is taken", hint))
        policies.setdefault(DEFAULT_ALIAS, policies[DEFAULT_POLICY])
    orders = shard_orders(config, models, policies, readers, around)
    if problems:
        raise ConfigError(problems)
    engines = tuple(around.engines)
    config.warnings.extend(services.learned.warnings)
    if around.places and config.settings.training.automatic and find_spec("torch") is None:
        why, hint = "nothing is trained for 'adapters: true'", "pip install 'onion-gateway[train]'"
        config.warnings.append(config.models_document.problem(("training",), why, hint))
    notes_sessions = any(policy.sticky or policy.reads("session") for policy in policies.values())
    return Gateway(
        models=models,
        policies=policies,
        record=runtime.record,
        minilm=runtime.minilm,
        conversations=runtime.conversations,
        engines=engines,
        budget=budget_of(config.settings),
        bookcase=runtime.bookcase,
        answers=runtime.answers,
        keeping=keeping_of(config),
        promises=runtime.promises,
        pledges=tuple(around.pledges),
        orders=orders,
        sessions=runtime.sessions if notes_sessions else None,
        preparations=tuple(services.preparations),
        trainer=runtime.trainer,
        trainables=trainables,
        specialists=runtime.specialists,
        loop=runtime.loop,
        curriculum=Curriculum(tuple(around.places), tuple(trained), training_orders(config)),
    )


def budget_of(settings: ModelsFileSpec) -> Footprint:
    """What all local models together may take of this machine. GPUs that nothing is known of are not limited."""
    here = machine()
    gpu_bytes = parse_bytes(settings.gpu_memory_budget, here.gpu_bytes) if here.gpu_bytes else UNLIMITED.gpu_bytes
    return Footprint(parse_bytes(settings.memory_budget, here.ram_bytes), gpu_bytes)
