"""`json`: the answer is JSON."""

import re

import orjson
from pydantic.dataclasses import dataclass

from gateway.chat import PASSED, ChatRequest, Verdict
from gateway.checks import STRICT, Watch, check
from gateway.checks.choices import judge, only_calls
from gateway.checks.growing_json import GrowingJson
from gateway.checks.watches import TextWatch
from gateway.draft import ChoiceDraft, Draft
from gateway.trace import Trace

FENCE = re.compile(r"\s*```(?:json)?\s(.*)```\s*", re.DOTALL | re.IGNORECASE)


@check("json")
@dataclass(frozen=True, config=STRICT)
class Json:
    """`fenced`: one Markdown code fence around the JSON is accepted too."""

    fenced: bool = False

    async def __call__(self, request: ChatRequest, draft: Draft, trace: Trace) -> Verdict:
        return judge(draft, self.fault) if draft.complete else PASSED

    def watch(self, request: ChatRequest) -> Watch:
        return TextWatch(lambda: GrowingJson(fenced=self.fenced))

    def fault(self, choice: ChoiceDraft) -> str | None:
        if only_calls(choice):
            return None
        text = choice.text
        if self.fenced and (fence := FENCE.fullmatch(text)):
            text = fence[1]
        try:
            orjson.loads(text)
        except orjson.JSONDecodeError as exc:
            return f"not JSON: {exc.msg} at character {exc.pos}"
        return None
