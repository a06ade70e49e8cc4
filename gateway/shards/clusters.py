"""Lessons of one kind put together: the same task in other words, answered in the same form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import orjson

from gateway.chat import ChatRequest
from gateway.shards.lessons import Lesson
from gateway.shards.search.likeness import cosines
from gateway.shards.shelf import labels_of, task_of

SAME_TASK = 0.85  # cosine of two system prompts
SAME_QUESTION = 0.7  # of two questions, where there is no system prompt


@dataclass
class Cluster:
    """`task`, `vector`: of its first lesson. `id`: the same as long as that lesson is there. `vectors`: of the tasks of
    all its lessons."""

    tenant: str
    policy: str
    form: str
    task: str
    vector: bytes
    floor: float
    lessons: list[Lesson] = field(default_factory=list)
    vectors: list[bytes] = field(default_factory=list)

    @property
    def id(self) -> str:
        return blake2b(orjson.dumps([self.tenant, self.policy, self.form, self.task]), digest_size=16).hexdigest()


def gather(lessons: Sequence[Lesson], vectors: Sequence[bytes]) -> list[Cluster]:
    """Args: `vectors` are of the lessons' tasks. Only what one tenant asked under one policy comes together."""
    clusters: list[Cluster] = []
    for lesson, vector in zip(lessons, vectors, strict=True):
        key = (lesson.tenant, lesson.policy, form_of(lesson))
        same = [one for one in clusters if (one.tenant, one.policy, one.form) == key]
        likeness = cosines(vector, [one.vector for one in same])
        best = max(range(len(same)), key=likeness.__getitem__, default=None)
        if best is None or likeness[best] < same[best].floor:
            request = ChatRequest(lesson.request)
            floor = SAME_TASK if has_system(lesson) else SAME_QUESTION
            clusters.append(Cluster(*key, task_of(request), vector, floor, [lesson], [vector]))
        else:
            same[best].lessons.append(lesson)
            same[best].vectors.append(vector)
    return clusters


def has_system(lesson: Lesson) -> bool:
    return any(message.get("role") in ("system", "developer") for message in lesson.request["messages"])


def form_of(lesson: Lesson) -> str:
    """What an answer has to look like: a schema, a choice of tools, one of some options, or text."""
    return form_of_request(ChatRequest(lesson.request), is_call=bool(lesson.answer.get("tool_calls")))


def form_of_request(request: ChatRequest, *, is_call: bool = False) -> str:
    """As `form_of`, of one that is not answered yet. `is_call`: it is answered by calling a tool."""
    wanted = request.body.get("response_format"), request.body.get("tools")
    roles = [message.get("role") for message in request.messages]
    has_instructions = not {"system", "developer"}.isdisjoint(roles)
    known = [wanted, is_call, roles.count("user") > 1, has_instructions, sorted(labels_of(request))]
    return blake2b(orjson.dumps(known), digest_size=8).hexdigest()
