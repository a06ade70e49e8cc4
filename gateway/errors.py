"""The error tree. Each class carries the HTTP status, OpenAI `type` and `code`, and whether a retry can help.

    GatewayError
    ├── RequestError            the caller can fix it
    │   ├── InvalidRequest        400  wrong JSON, type, range, or a field that cannot be served
    │   ├── Unauthorized          401  invalid_api_key
    │   ├── Forbidden             403  host or origin not allowed
    │   ├── UnknownModel          404  model_not_found (also: a model that is switched off)
    │   ├── NotFound              404  no such route or record
    │   │   └── ThreadNotFound      404  a conversation that would have to be kept here
    │   ├── MethodNotAllowed      405
    │   ├── BodyTooLarge          413
    │   ├── RateLimited           429  a key asks more often, or for more at once, than it may
    │   ├── UnknownEncoding       415  a body compressed in a way that is not understood
    │   ├── NotCached             504  only a cached answer would do
    │   └── LoopDetected          508  the request has passed too many gateways
    ├── BackendError            a model did not answer; a cascade may try the next one
    │   ├── UpstreamRefused       any  the upstream's own error, status and code kept
    │   │   └── ContentFiltered       any  what it says about content that it will not work on
    │   ├── ModalityRefused       400  the model does not take this kind of content
    │   ├── ContextTooLong        400  the request does not fit into the model's context
    │   ├── ToolsRefused          400  a call is wanted, and the model cannot make any
    │   ├── ChatRefused           400  the model makes vectors, and answers nobody
    │   ├── PromptRefused         400  a prompt, or a field of one, that the model does not take
    │   ├── CostCapReached        402  the next model would cost more than the caller allows
    │   │   └── BudgetReached       429  … than the budget of its key leaves
    │   ├── Overloaded            429  queue full
    │   ├── BadBackendReply       502  not JSON, cut, or an error inside a stream
    │   ├── ChecksFailed          502  on_exhausted: error
    │   ├── BackendUnavailable    503  refused, crashed, not started
    │   │   └── ModelLoading        503  it is being loaded, and who asked can be answered elsewhere
    │   └── BackendTimeout        504
    ├── StoreUnavailable      503  what was to be stored or read could not be: the disk is full, or locked
    ├── EngineError             a local model server did not start (logged; becomes BackendUnavailable)
    ├── SourceError             a model file cannot be fetched or is not what it should be (commands only)
    └── ConfigError             start-up and reload only; never reaches a client

A backend translates its library's exceptions at its own edge; only the API layer makes OpenAI error objects.
A failed check is a `Verdict`, not an exception. Messages say what was wrong, where, and what to change; they
hold no key, no upstream address and no stack trace.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, ClassVar

CONTENT_FILTER = "content_filter"
STOPPING = "the server is stopping"  # said by a gateway that stops, and understood by one that asks it


class GatewayError(Exception):
    """Root of the tree.

    `param` names the request field at fault; `headers` go to the client as they are (`retry-after` and the like).
    """

    status: int = 500
    type: str = "server_error"
    code: str | None = None
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, param: str | None = None, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.headers: dict[str, str] = dict(headers or {})


class RequestError(GatewayError):
    status = 400
    type = "invalid_request_error"


class InvalidRequest(RequestError):
    pass


class Unauthorized(RequestError):
    status = 401
    code = "invalid_api_key"


class Forbidden(RequestError):
    status = 403
    type = "permission_error"


class UnknownModel(RequestError):
    status = 404
    code = "model_not_found"

    def __init__(self, message: str, *, param: str | None = "model") -> None:
        super().__init__(message, param=param)


class NotFound(RequestError):
    status = 404
    code = "not_found"


class ThreadNotFound(NotFound):
    code = "thread_not_found"


class MethodNotAllowed(RequestError):
    status = 405
    code = "method_not_allowed"


class BodyTooLarge(RequestError):
    status = 413
    code = "request_too_large"


class RateLimited(RequestError):
    """`about`: what there is too much of, `requests` or `tokens`."""

    status = 429
    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after_s: float, about: str = "requests") -> None:
        ms = math.ceil(retry_after_s * 1000)
        super().__init__(message, headers={"retry-after": str(math.ceil(ms / 1000)), "retry-after-ms": str(ms)})
        self.type = about


class UnknownEncoding(RequestError):
    status = 415
    code = "unsupported_content_encoding"


class NotCached(RequestError):
    status = 504
    code = "not_cached"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"x-should-retry": "false"})


class LoopDetected(RequestError):
    status = 508
    code = "loop_detected"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"x-should-retry": "false"})  # SDKs try again what is 500 or more


class AddressFault(Enum):
    """What a failure tells of the address that was asked, where a model may have several."""

    UNREACHED = auto()  # no connection: nothing was sent
    CUT = auto()  # the connection was lost before a word of an answer: nobody works on the request any more
    UNAVAILABLE = auto()  # it says that it cannot work on anything now
    STOPPING = auto()  # it says that it is being stopped
    BUSY = auto()  # it says that it has too much to do
    BROKEN = auto()  # a proxy in front of it says that it failed: it may have worked on the request
    FAILED = auto()  # it failed over this request, or did not get done: that may be the request's own fault
    KEY = auto()  # it does not take our key, or has no money for it


class BackendError(GatewayError):
    """A model did not answer. `reason` is the short word that `x-gateway-path` shows after `!`; `fault` is None where
    the address is not to blame."""

    status = 502
    reason: str = "error"
    fault: AddressFault | None = None


class UpstreamRefused(BackendError):
    """The upstream answered with an error of its own; status, type, code and param are kept."""

    def __init__(
        self,
        message: str,
        *,
        status: int,
        type: str | None = None,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, param=param, headers=headers)
        self.status = status
        self.reason = f"http_{status}"
        self.type = type or "invalid_request_error"
        self.code = code


class ContentFiltered(UpstreamRefused):
    """Another model may have other rules. `reason` stays the same whatever the status."""

    def __init__(self, message: str, **more: Any) -> None:
        super().__init__(message, **more)
        self.reason = CONTENT_FILTER


class ModalityRefused(BackendError):
    """`kind`: of content, which the model does not take at all; None where it only wants it sent otherwise."""

    status = 400
    type = "invalid_request_error"
    code = "unsupported_content"
    reason = "modality"

    def __init__(self, message: str, *, kind: str | None = None) -> None:
        super().__init__(message, param="messages")
        self.kind = kind


class ToolsRefused(BackendError):
    status = 400
    type = "invalid_request_error"
    code = "unsupported_tools"
    reason = "tools"


class ChatRefused(BackendError):
    status = 400
    type = "invalid_request_error"
    code = "unsupported_chat"
    reason = "no_chat"


class PromptRefused(BackendError):
    status = 400
    type = "invalid_request_error"
    code = "unsupported_prompt"
    reason = "prompt"


class ContextTooLong(BackendError):
    """`context`: tokens that the model takes."""

    status = 400
    type = "invalid_request_error"
    code = "context_length_exceeded"
    reason = "context"

    def __init__(self, message: str, *, context: int) -> None:
        super().__init__(message, param="messages")
        self.context = context


class CostCapReached(BackendError):
    status = 402
    type = "insufficient_quota"
    code = "max_cost_exceeded"
    reason = "max_cost"


class BudgetReached(CostCapReached):
    """Trying again soon is of no use, and SDKs are told so."""

    status = 429
    code = "insufficient_quota"
    reason = "budget"

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message, headers={"retry-after": str(math.ceil(retry_after_s)), "x-should-retry": "false"})


class Overloaded(BackendError):
    status = 429
    type = "rate_limit_error"
    code = "overloaded"
    retryable = True
    reason = "overloaded"

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message, headers={"retry-after": str(max(1, round(retry_after_s)))})
        self.retry_after_s = retry_after_s


class BadBackendReply(BackendError):
    code = "bad_upstream_reply"
    retryable = True
    reason = "bad_reply"


class ChecksFailed(BackendError):
    code = "checks_failed"
    reason = "checks"


class BackendUnavailable(BackendError):
    status = 503
    code = "upstream_unavailable"
    retryable = True
    reason = "unavailable"


class ModelLoading(BackendUnavailable):
    code = "model_loading"
    reason = "loading"


class BackendTimeout(BackendError):
    status = 504
    code = "upstream_timeout"
    retryable = True
    reason = "timeout"


class StoreUnavailable(GatewayError):
    status = 503
    code = "store_unavailable"

    def __init__(self) -> None:
        message = "the gateway cannot read or write what it stores at the moment, and its log says why: try again later"
        super().__init__(message, headers={"retry-after": "10"})


class EngineError(GatewayError):
    pass


class SourceError(GatewayError):
    pass


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault in a config file, as `gateway check` prints it. `line` counts from 1; 0 means the whole file."""

    file: str
    line: int
    key: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        key = f" {self.key}:" if self.key else ""
        return f"{place}:{key} {self.message}" + (f" ({self.hint})" if self.hint else "")


class ConfigError(GatewayError):
    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)
