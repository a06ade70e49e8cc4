"""The leaf for llama-cpp-python's server, which takes some of OpenAI's fields otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway import past as pasts
from gateway.backends.openai import OpenAIBackend
from gateway.chat import Answer, ChatRequest, Emit
from gateway.providers import Provider, Quirks
from gateway.trace import Trace

LLAMA_CPP_PYTHON = Provider(
    "llama-cpp-python",
    # It gives one choice whatever `n` is, knows only the older of OpenAI's two names for the limit, and uses the
    # templates of models, which know no developers.
    quirks=Quirks(
        drops=frozenset({"n"}), renames={"max_completion_tokens": "max_tokens"}, roles={"developer": "system"}
    ),
    fetches_images=False,
    always_streams=True,  # who waits for a whole answer and leaves is not noticed
    past=pasts.LOCAL,
)


class LlamaCppPythonBackend(OpenAIBackend):
    """A JSON schema goes there in a field of its own: it refuses the type `json_schema`."""

    async def respond(self, request: ChatRequest, emit: Emit, trace: Trace) -> Answer:
        wanted: Any = request.body.get("response_format")
        if isinstance(wanted, Mapping) and wanted.get("type") == "json_schema" and request.json_schema is not None:
            request = request.with_body(response_format={"type": "json_object", "schema": request.json_schema})
        return await super().respond(request, emit, trace)
