"""A policy's `quality`, brought to the tiers of its cascades."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2b
from typing import cast

import orjson

from gateway.checks import Check
from gateway.config.spec import NodeSpec, QualitySpec
from gateway.gateway import Model
from gateway.quality.promises import Pledge
from gateway.responders.hold import WHOLE, Tier
from gateway.responders.promised import Promised
from gateway.runtime import Runtime


class Pledges:
    """Of one policy. `made`: those there are so far. `fingerprint_of`: of a model, as models.yaml has it now."""

    def __init__(
        self, policy: str, said: QualitySpec, runtime: Runtime, *, learns: bool, fingerprint_of: Callable[[str], str]
    ) -> None:
        self._policy, self._said, self._runtime, self._learns = policy, said, runtime, learns
        self._fingerprint_of = fingerprint_of
        self.made: list[Pledge] = []

    def put(self, tier: Tier, spec: NodeSpec, place: str, strong: Model) -> Tier:
        """The tier with the promise as its last check. Soft checks no longer decide by themselves."""
        if spec.model is None or strong.responder is None or strong.name == spec.model:
            return tier
        soft = [check for check in tier.checks if check.soft]
        hard = [check for check in tier.checks if not check.soft]
        said = self._said
        pledge = Pledge(
            arm=place,
            policy=self._policy,
            model=spec.model,
            fingerprint=self._fingerprint(spec, strong.name),
            strong=strong.name,
            asks=strong.responder,
            target=said.target,
            confidence=said.confidence,
            audit=said.audit,
            audit_usd_per_day=said.audit_usd_per_day,
            escalates=said.uncertified == "escalate",
            reading=said.reading,
            is_fixed=said.fixed,
            learns=self._learns,
        )
        self.made.append(pledge)
        promised = cast(Check, Promised(soft, pledge, self._runtime.promises))
        return replace(tier, checks=(*hard, promised), hold=WHOLE)

    def _fingerprint(self, spec: NodeSpec, strong: str) -> str:
        tier = spec.model_dump(mode="json", exclude_defaults=True)
        said = [tier, self._fingerprint_of(spec.model or ""), strong, self._said.target, self._said.confidence]
        return blake2b(orjson.dumps(said, option=orjson.OPT_SORT_KEYS), digest_size=8).hexdigest()
