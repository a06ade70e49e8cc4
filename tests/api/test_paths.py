import pytest

from gateway.api.paths import canonical
from tests.conftest import Serve
from tests.upstream import SINGLE

MODELS = "models: {m1: {engine: scripted, replies: [{text: hi}]}}"


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("/v1/chat/completions", "/v1/chat/completions"),
        ("//v1//chat/completions/", "/v1/chat/completions"),
        ("/chat/completions", "/v1/chat/completions"),
        ("/v1/v1/models", "/v1/models"),
        ("/openai/v1/responses", "/v1/responses"),
        ("/openai/responses", "/v1/responses"),
        ("/openai/models", "/v1/models"),
        ("/api/chat", "/api/chat"),
        ("/healthz/", "/healthz"),
        ("/", "/"),
        ("", "/"),
        ("/openai/deployments", "/openai/deployments"),
    ],
)
def test_base_urls_that_are_nearly_right(asked: str, meant: str) -> None:
    assert canonical(asked) == (meant, None)


def test_a_name_in_azures_path_may_have_slashes() -> None:
    assert canonical("/openai/deployments/org/m/chat/completions") == ("/v1/chat/completions", "org/m")
    assert canonical("/openai/deployments/m/nothing/here") == ("/v1/nothing/here", "m")


async def test_azures_paths_name_the_model(serve: Serve) -> None:
    client = await serve(MODELS, default=SINGLE)
    body = {"messages": [{"role": "user", "content": "hello"}]}
    path = "/openai/deployments/m1/chat/completions?api-version=2024-10-21"
    reply = await client.call("POST", path, body, {"api-key": "any"})
    assert (reply.status, reply.text, reply.gateway["policy"]) == (200, "hi", "direct")
