"""`http`: a service of the operator's says whether the answer is good."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import orjson
from pydantic import Field, field_validator
from pydantic.dataclasses import dataclass

from gateway.chat import PASSED, ChatRequest, Verdict
from gateway.checks import STRICT, Resources, check, with_parts
from gateway.draft import ChoiceDraft, Draft
from gateway.tasks import together
from gateway.trace import CHECK, Trace
from gateway.transport import ConnectFailed, ConnectionCut, ConnectTimeout, HttpClient, ReplyTooLarge

MAX_REPLY_BYTES = 64 * 1024
MAX_REASON_CHARS = 200


class NoWord(Exception):
    """The service did not say whether the answer is good. The message says why, without its address."""


class AsksService:
    """`client`: that asks it, once it is bound."""

    client: HttpClient | None = None


@check("http", costly=True)
@dataclass(frozen=True, config=STRICT)
class Http(AsksService):
    """Each choice is sent as `{"request", "draft"}`; `{"passed", "score", "reason"}` is expected back. With `at_least`
    the score has to reach it, too. `on_error`: what to take it for where the service has no word."""

    url: str
    timeout_s: Annotated[float, Field(gt=0, le=600)] = 5.0
    headers: dict[str, str] = Field(default_factory=dict)
    at_least: float | None = None
    on_error: Literal["fail", "pass"] = "fail"

    @field_validator("url")
    @classmethod
    def is_web_address(cls, url: str) -> str:
        if not url.startswith(("http://", "https://", "http+unix://")):
            raise ValueError("wants an address that begins with http:// or https://")
        return url

    @field_validator("headers")
    @classmethod
    def can_be_sent(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if not name.isascii() or not name or any(c in name + value for c in "\r\n\0") or ":" in name:
                raise ValueError(f"header {name[:40]!r} cannot be sent")
        return {name.lower(): value for name, value in headers.items()}

    def bound(self, resources: Resources) -> Http:
        return with_parts(self, client=resources.client)

    async def __call__(self, request: ChatRequest, draft: Draft, trace: Trace) -> Verdict:
        if not draft.complete:
            return PASSED
        if not draft.choices:
            return Verdict(False, "no choices")
        with trace.span(CHECK, "http") as span:
            return worst(await together(*(self._verdict(request, choice, span) for choice in draft.choices)))

    async def _verdict(self, request: ChatRequest, choice: ChoiceDraft, span: Trace) -> Verdict:
        try:
            return await self._ask(request, choice)
        except NoWord as exc:
            span.note(unanswered=str(exc))
            return Verdict(self.on_error == "pass", str(exc))

    async def _ask(self, request: ChatRequest, choice: ChoiceDraft) -> Verdict:
        """Raises: NoWord."""
        assert self.client is not None  # it is bound
        whole = choice.as_choice()
        draft = {"index": choice.index, "text": choice.text, "message": whole["message"]}
        draft["finish_reason"] = whole["finish_reason"]
        body = orjson.dumps({"request": request.body, "draft": draft})
        headers = {"content-type": "application/json", "accept": "application/json", **self.headers}
        due = time.monotonic() + self.timeout_s
        try:
            reply = await self.client.post(self.url, headers, body, connect_s=self.timeout_s, due=due)
            try:
                if not 200 <= reply.status < 300:
                    raise NoWord(f"status {reply.status}")
                said = orjson.loads(await reply.read(MAX_REPLY_BYTES, due))
            finally:
                reply.close()
        except (TimeoutError, ConnectTimeout):
            raise NoWord("no word in time") from None
        except ConnectFailed:
            raise NoWord("it cannot be reached") from None
        except ConnectionCut:
            raise NoWord("it broke off") from None
        except ReplyTooLarge:
            raise NoWord("its reply is too large") from None
        except orjson.JSONDecodeError:
            raise NoWord("its reply is not JSON") from None
        return self._read(said)

    def _read(self, said: Any) -> Verdict:
        """Raises: NoWord."""
        passed = said.get("passed") if isinstance(said, Mapping) else None
        if not isinstance(passed, bool):
            raise NoWord("its reply does not say `passed`")
        score = said.get("score")
        if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
            score = None
        if self.at_least is not None:
            if score is None:
                raise NoWord("its reply has no `score`")
            passed = passed and score >= self.at_least
        return Verdict(passed, str(said.get("reason") or "")[:MAX_REASON_CHARS], score)


def worst(verdicts: list[Verdict]) -> Verdict:
    """Of all choices: failed where one has failed, with the lowest score."""
    chosen = next((verdict for verdict in verdicts if not verdict.passed), verdicts[0])
    scores = [verdict.score for verdict in verdicts if verdict.score is not None]
    return Verdict(chosen.passed, chosen.reason, min(scores, default=None))
