"""What there is to learn from: the journal's rows, ratings, kept requests and judged drafts, read once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import orjson
from sqlalchemy import select

from gateway.chat import Json, text_of
from gateway.checks import CHECKS, Check
from gateway.errors import BackendError
from gateway.gateway import DIRECT
from gateway.learning.recorded import Outcome, Recording, Was
from gateway.responders.cascade import Cascade, models_in
from gateway.routing.policy import Policy
from gateway.routing.signals import SIGNALS
from gateway.shards.lessons import Lesson, Lessons
from gateway.store.database import Database
from gateway.store.drafts import DraftRow, Drafts
from gateway.store.rows import JournalRow
from gateway.store.tables import FEEDBACK, JOURNAL
from gateway.trace import CHECK

MOST_ROWS = 200_000
MOST_LESSONS = 20_000


@dataclass(frozen=True)
class Hop:
    """One call of one model. `scores`: those that checks have given its answer, by name. `is_judged`: by the checks of
    a cascade, and whole."""

    model: str
    left: str | None
    latency_s: float | None
    cost_usd: float | None
    input_tokens: int | None
    output_tokens: int | None
    scores: Mapping[str, float]
    is_judged: bool

    @property
    def passed(self) -> bool | None:
        """Did its answer do? None where nothing judged it, or where there was none."""
        if self.left is None:
            return True if self.is_judged else None
        return False if self.left in CHECKS else None


@dataclass(frozen=True)
class Row:
    """A request of the journal."""

    row: JournalRow

    @cached_property
    def tree(self) -> Json:
        tree: Json = orjson.loads(self.row.trace)
        return tree

    @cached_property
    def hops(self) -> tuple[Hop, ...]:
        return tuple(_hops(self.tree, None))

    @property
    def facts(self) -> Json:
        """Of the request."""
        facts: Json = self.tree.get("facts") or {}
        return facts


def _hops(node: Json, tier: Json | None) -> Iterator[Hop]:
    if node.get("kind") == "tier":
        tier = node
    elif node.get("kind") == CHECK:
        return  # what a check asks a model is another question
    if node.get("kind") == "model":
        spend, facts = node.get("spend") or {}, (tier or {}).get("facts") or {}
        scores = {name: float(value) for name, value in facts.items() if name in CHECKS and _is_number(value)}
        milliseconds = node.get("ms")
        yield Hop(
            str(node.get("name")),
            node.get("left"),
            None if milliseconds is None else milliseconds / 1e3,
            spend.get("cost_usd"),
            spend.get("input_tokens"),
            spend.get("output_tokens"),
            scores,
            bool(facts.get("judged")),
        )
    for child in node.get("children") or ():
        yield from _hops(child, tier)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True)
class Evidence:
    """`ratings`: the last number from 0 to 1 that each trace was rated with. Rows, and drafts, are oldest first."""

    rows: tuple[Row, ...]
    ratings: Mapping[str, float]
    lessons: Mapping[str, Lesson]
    drafts: tuple[DraftRow, ...]

    def until(self, moment: float) -> Evidence:
        """What had come by then, to fit on; ratings count with what they rate."""
        rows = tuple(one for one in self.rows if one.row.created < moment)
        lessons = {id: one for id, one in self.lessons.items() if one.created < moment}
        return Evidence(rows, self.ratings, lessons, tuple(d for d in self.drafts if d.created < moment))

    def since(self, moment: float) -> Evidence:
        """What came from then on, to try it on."""
        rows = tuple(one for one in self.rows if one.row.created >= moment)
        lessons = {id: one for id, one in self.lessons.items() if one.created >= moment}
        return Evidence(rows, self.ratings, lessons, tuple(d for d in self.drafts if d.created >= moment))


async def gather(database: Database, since: float = 0.0) -> Evidence:
    """The newest rows since then (unix seconds), and what belongs to them."""
    query = select(JOURNAL).where(JOURNAL.c.created >= since).order_by(JOURNAL.c.created.desc()).limit(MOST_ROWS)
    rated = select(FEEDBACK.c.trace_id, FEEDBACK.c.value).order_by(FEEDBACK.c.id)
    async with database.read() as connection:
        rows = [Row(JournalRow(*row)) for row in await connection.execute(query)]
        values = [(str(trace), orjson.loads(value)) for trace, value in await connection.execute(rated)]
    ratings = {trace: float(value) for trace, value in values if isinstance(value, int | float) and 0 <= value <= 1}
    lessons = {one.id: one for one in await Lessons(database).find(after=since, limit=MOST_LESSONS)}
    return Evidence(tuple(reversed(rows)), ratings, lessons, tuple(await Drafts(database).find(since=since)))


Judges = Mapping[tuple[str, str, str], Mapping[str, Check]]
"""By policy, route and model: the checks that judge it, by name."""


def judges_in(policies: Iterable[Policy]) -> Judges:
    found: dict[tuple[str, str, str], Mapping[str, Check]] = {}
    for policy in policies:
        for route in policy.routes:
            for model, checks in _judged(route.answer):
                found[policy.name, route.name, model] = checks
    return found


def _judged(node: Any) -> Iterator[tuple[str, Mapping[str, Check]]]:
    if isinstance(node, Cascade):
        for tier in node.tiers:
            inner = list(_judged(tier.responder))
            yield from inner
            if not inner:
                checks = {check.name: check for check in tier.checks}
                yield from ((name, checks) for name in models_in(tier.responder))
    elif hasattr(node, "inner"):
        yield from _judged(node.inner)


def recordings_of(evidence: Evidence, judges: Judges) -> list[Recording]:
    """The journal's requests to policies. What was said then is known of those that were kept as lessons, and of each
    of these only what the model said that answered."""
    drafts: dict[str, list[DraftRow]] = defaultdict(list)
    for draft in evidence.drafts:
        drafts[draft.trace].append(draft)
    return [
        _recording(one, evidence, judges, drafts[one.row.id])
        for one in evidence.rows
        if one.row.policy not in (None, DIRECT) and one.hops
    ]


def _recording(one: Row, evidence: Evidence, judges: Judges, drafts: list[DraftRow]) -> Recording:
    row, lesson = one.row, evidence.lessons.get(one.row.id)
    judged_by = {hop.model: judges.get((row.policy or "", row.route or "", hop.model), {}) for hop in one.hops}
    outcomes = {}
    for hop in one.hops:
        outcome = _outcome(hop, judged_by[hop.model])
        if outcome is not None:
            outcomes[hop.model] = outcome
    for model, quality in _qualities(row, evidence.ratings, drafts).items():
        if model in outcomes:
            outcomes[model] = outcomes[model].model_copy(update={"quality": quality})
    if lesson is not None and lesson.model in outcomes:
        said = {"answer": text_of(lesson.answer.get("content")), "tool_calls": lesson.answer.get("tool_calls") or ()}
        outcomes[lesson.model] = outcomes[lesson.model].model_copy(update=said)
    was = Was(row.model, row.path, row.cost_usd, row.ms / 1e3)
    body = None if lesson is None else lesson.request
    return Recording(row.id, body, outcomes, _signals(one.facts), judged_by, row.key, was)


def _outcome(hop: Hop, checks: Mapping[str, Check]) -> Outcome | None:
    """None where what it would have answered is not known: a loser of a race, a request that was given up."""
    failed = hop.left in CHECKS
    if hop.left is not None and not failed and hop.left not in _reasons():
        return None
    said: dict[str, bool] = {}
    for name in checks:  # in the order in which they judge
        if name == hop.left:
            said[name] = False
            break
        if failed or hop.is_judged:
            said[name] = True
    return Outcome(
        cost_usd=hop.cost_usd,
        latency_s=hop.latency_s,
        input_tokens=hop.input_tokens,
        output_tokens=hop.output_tokens,
        logprobs=hop.scores.get("logprob"),
        checks=said,
        error=None if hop.left is None or failed else hop.left,
    )


def _qualities(row: JournalRow, ratings: Mapping[str, float], drafts: list[DraftRow]) -> dict[str, float]:
    """Of the model that was rated; else, of a draft that a stronger model was asked about, whether that said the
    same."""
    found: dict[str, float] = {}
    for draft in drafts:
        if draft.same is not None:
            found[draft.model] = float(draft.same)
            if row.model is not None and row.model != draft.model:
                found[row.model] = 1.0
    if row.id in ratings and row.model is not None:
        found[row.model] = ratings[row.id]
    return found


def _signals(facts: Json) -> dict[tuple[str, str | None], Any]:
    found = {}
    for entry in facts.get("signals") or ():
        signal = SIGNALS.get(str(entry.get("signal")))
        if signal is not None and "value" in entry:
            argument = None if signal.by_model or "of" not in entry else str(entry["of"])
            found[signal.name, argument] = entry["value"]
    return found


def _reasons() -> frozenset[str]:
    """Why models give no answer."""
    found, waiting = set(), [BackendError]
    while waiting:
        kind = waiting.pop()
        found.add(kind.reason)
        waiting += kind.__subclasses__()
    return frozenset(found)
