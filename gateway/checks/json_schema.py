"""`json_schema`: the answer is JSON that matches a schema."""

from typing import Any

import orjson
from pydantic.dataclasses import dataclass

from gateway.chat import PASSED, ChatRequest, Verdict
from gateway.checks import STRICT, Watch, check
from gateway.checks.choices import judge, only_calls
from gateway.checks.growing_json import GrowingJson, Guide
from gateway.checks.schema import SchemaError, client_schema, operator_schema
from gateway.checks.watches import TextWatch
from gateway.draft import ChoiceDraft, Draft
from gateway.trace import Trace


@check("json_schema")
@dataclass(frozen=True, config=STRICT)
class JsonSchema:
    """`schema`: None takes the one of the request's `response_format`; without either every answer passes."""

    schema: dict[str, Any] | bool | None = None

    def __post_init__(self) -> None:
        if self.schema is not None:
            operator_schema(self.schema)

    def watch(self, request: ChatRequest) -> Watch | None:
        raw = request.json_schema if self.schema is None else self.schema
        if raw is None:
            return None
        guide = Guide(raw)
        return TextWatch(lambda: GrowingJson(guide))

    async def __call__(self, request: ChatRequest, draft: Draft, trace: Trace) -> Verdict:
        raw = request.json_schema if self.schema is None else self.schema
        if raw is None or not draft.complete:
            return PASSED
        try:
            schema = client_schema(raw) if self.schema is None else operator_schema(raw)
        except SchemaError as exc:
            return Verdict(False, str(exc))

        def fault(choice: ChoiceDraft) -> str | None:
            if only_calls(choice):
                return None
            try:
                instance = orjson.loads(choice.text)
            except orjson.JSONDecodeError as exc:
                return f"not JSON: {exc.msg} at character {exc.pos}"
            return schema.fault(instance, len(choice.text))

        return judge(draft, fault)
