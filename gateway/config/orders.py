"""What is to be done beside requests: whom shards are proven for, who writes them, and when adapters are trained."""

from __future__ import annotations

from gateway.chat import Responder
from gateway.config.files import Config
from gateway.config.leaves import Surroundings
from gateway.config.lines import nearest
from gateway.config.readers import reader_of
from gateway.config.spec import ShardsSpec
from gateway.config.trained import undistillable
from gateway.gateway import Model
from gateway.routing.policy import Policy
from gateway.shards import Scope
from gateway.shards.orders import Orders, Sharing, Source, Subject
from gateway.training.orders import TrainingOrders
from gateway.training.trial import Terms


def training_orders(config: Config) -> TrainingOrders:
    said = config.settings.training
    canary = said.canary
    return TrainingOrders(
        is_automatic=said.automatic,
        min_pairs=said.min_pairs,
        own_pairs=said.own_pairs,
        scrubs=said.scrub,
        usd_per_hour=said.usd_per_hour,
        pays_back_days=said.pays_back_days,
        terms=Terms(canary.shadow, canary.steps, canary.step, canary.confidence),
        settings=said.settings,
        barred=undistillable(config),
    )


def shard_orders(
    config: Config,
    models: dict[str, Model],
    policies: dict[str, Policy],
    readers: dict[str, Responder],
    around: Surroundings,
) -> Orders:
    """Whom shards are proven for, and who writes them. `readers`: as the policies ask them."""

    def subject(name: str) -> Subject | None:
        responder = readers.get(name, models[name].responder)
        return Subject(reader_of(name, config.models[name], around.runtime.home), responder) if responder else None

    said, author = config.settings.shards, None
    if said.author is not None:
        if said.author not in models:
            problem = f"no model is called '{said.author}'"
            hint = nearest(said.author, models)
            around.problems.append(config.models_document.problem(("shards", "author"), problem, hint))
        else:
            author = subject(said.author)
    reviewed = frozenset(policy.name for policy in policies.values() if policy.review)
    subjects = tuple(found for name in sorted(readers) if (found := subject(name)) is not None)
    return Orders(subjects, author, reviewed, said.prove == "auto", _sharing(said))


def _sharing(said: ShardsSpec) -> Sharing:
    sources = tuple(
        Source(
            one.name,
            one.url,
            one.publisher,
            one.api_key,
            one.interval_s,
            one.review == "required",
            Scope(one.scope),
        )
        for one in said.subscribe
    )
    return Sharing(sources, said.trust, said.publish, said.republish)
