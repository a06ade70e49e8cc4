"""Files and jobs over HTTP, as OpenAI's clients use them; the process that trains is played."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.config.build import build
from gateway.config.files import read_config
from gateway.training import jobs, process
from gateway.training.registry import read_registry
from tests.asgi import Client, Response
from tests.conftest import Serve, running
from tests.engines.adapter import write_adapter
from tests.sources.gguf_files import write_gguf

POLICY = """
    policy: default
    serves: [auto]
    routes:
      - {name: rest, answer: {model: expert}}
"""
BOUNDARY = "xyz"


@pytest.fixture(autouse=True)
def played(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "COMMAND", (sys.executable, str(Path(__file__).parent / "stand_in.py")))
    monkeypatch.setattr(jobs, "CALLABLE_WITHIN_S", 0.2)


@pytest.fixture
def models(tmp_path: Path) -> Iterator[str]:
    write_gguf(tmp_path / "core.gguf")
    yield f"""
    models:
      core: {{engine: llama.cpp, source: "file:{tmp_path}/core.gguf", residency: on_demand}}
      expert: {{engine: scripted, replies: [{{text: "Hello!"}}]}}
    """


def chats(kind: str = "good", count: int = 12) -> bytes:
    lines = [
        {
            "messages": [
                {"role": "system", "content": kind},
                {"role": "user", "content": f"What is {n} and {n}?"},
                {"role": "assistant", "content": str(2 * n)},
            ]
        }
        for n in range(count)
    ]
    return b"\n".join(map(orjson.dumps, lines))


async def upload(client: Client, content: bytes, purpose: str = "fine-tune", **headers: str) -> Response:
    part = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n{purpose}\r\n--{BOUNDARY}\r\n'
    part += 'Content-Disposition: form-data; name="file"; filename="chats.jsonl"\r\n\r\n'
    body = part.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()
    said = {"content-type": f"multipart/form-data; boundary={BOUNDARY}", **headers}
    return await client.call("POST", "/v1/files", body, said)


async def submit(client: Client, kind: str = "good", **more: Any) -> dict[str, Any]:
    file = (await upload(client, chats(kind))).json["id"]
    reply = await client.call("POST", "/v1/fine_tuning/jobs", {"model": "core", "training_file": file, **more})
    assert reply.status == 200, reply.body
    job: dict[str, Any] = reply.json
    return job


async def over(client: Client, id: str) -> dict[str, Any]:
    client.runtime.trainer.work()
    while (job := (await client.call("GET", f"/v1/fine_tuning/jobs/{id}")).json)["status"] not in jobs.OVER:
        await asyncio.sleep(0.02)
    found: dict[str, Any] = job
    return found


async def test_files_are_kept_listed_read_and_deleted(serve: Serve, models: str) -> None:
    client = await serve(models, default=POLICY)
    made = (await upload(client, chats())).json
    assert (made["object"], made["bytes"], made["purpose"]) == ("file", len(chats()), "fine-tune")
    assert (await client.call("GET", "/v1/files")).json["data"] == [made]
    assert (await client.call("GET", "/v1/files?purpose=assistants")).json["data"] == []
    assert (await client.call("GET", f"/v1/files/{made['id']}")).json == made
    assert (await client.call("GET", f"/v1/files/{made['id']}/content")).body == chats()
    assert (await client.call("DELETE", f"/v1/files/{made['id']}")).json["deleted"] is True
    assert (await client.call("GET", f"/v1/files/{made['id']}")).status == 404


@pytest.mark.parametrize(
    ("content", "purpose", "param"),
    [(b"{", "fine-tune", "file"), (chats(), "vision", "purpose"), (b'{"messages": []}', "fine-tune", "file")],
)
async def test_files_at_fault_are_refused(serve: Serve, models: str, content: bytes, purpose: str, param: str) -> None:
    client = await serve(models, default=POLICY)
    reply = await upload(client, content, purpose)
    assert (reply.status, reply.error["param"]) == (400, param)


async def test_what_is_no_form_is_refused(serve: Serve, models: str) -> None:
    client = await serve(models, default=POLICY)
    assert (await client.call("POST", "/v1/files", b"{}", {"content-type": "application/json"})).error[
        "param"
    ] == "file"
    broken = {"content-type": "multipart/form-data"}
    assert (await client.call("POST", "/v1/files", b"x", broken)).status == 400


async def test_a_job_trains_and_its_model_is_registered(serve: Serve, models: str) -> None:
    client = await serve(models, default=POLICY)
    job = await submit(client, suffix="My dates!", seed=7, metadata={"for": "tests"}, hyperparameters={"n_epochs": 4})
    assert (job["object"], job["status"], job["finished_at"]) == ("fine_tuning.job", "queued", None)
    done = await over(client, job["id"])
    assert (done["status"], done["error"], done["seed"], done["metadata"]) == ("succeeded", None, 7, {"for": "tests"})
    assert done["fine_tuned_model"].startswith("core:My-dates-") and done["trained_tokens"] == 100
    assert done["hyperparameters"]["n_epochs"] == 4
    [entry] = read_registry(client.runtime.home).values()
    assert entry.full_name == done["fine_tuned_model"] and entry.data["examples"] == 11  # one is held out
    folder = client.runtime.home / "adapters" / "core" / entry.name
    assert {path.name for path in folder.iterdir()} == {"adapter.gguf", "training.log"}, "no words are left"
    events = (await client.call("GET", f"/v1/fine_tuning/jobs/{job['id']}/events")).json["data"]
    assert events[0]["message"] == "The job has successfully completed"
    assert [event["data"]["total_steps"] for event in events if event["type"] == "metrics"] == [9]
    [kept] = (await client.call("GET", f"/v1/fine_tuning/jobs/{job['id']}/checkpoints")).json["data"]
    assert kept["metrics"]["full_valid_loss"] == 0.25
    listed = (await client.call("GET", "/v1/fine_tuning/jobs?metadata[for]=tests")).json
    assert [one["id"] for one in listed["data"]] == [job["id"]] and listed["has_more"] is False
    assert (await client.call("GET", "/v1/fine_tuning/jobs?metadata[for]=others")).json["data"] == []


async def test_a_trained_model_is_a_model_after_a_reload(serve: Serve, models: str, tmp_path: Path) -> None:
    client = await serve(models, default=POLICY)
    adapter = write_adapter(tmp_path / "adapter.gguf", seed=1)
    job = await over(client, (await submit(client, f"adapter {adapter}"))["id"])
    config = read_config(tmp_path / "0" / "models.yaml", tmp_path / "0" / "policies")
    gateway = build(config, client.runtime)
    model = gateway.models[job["fine_tuned_model"]]
    assert (model.card["base"], model.responder is not None) == ("core", True)
    assert job["fine_tuned_model"] in gateway.trainables.names and set(gateway.trainables.files) == {"core"}


async def test_a_trained_model_is_deleted_by_its_name(serve: Serve, models: str) -> None:
    client = await serve(models, default=POLICY)
    name = (await over(client, (await submit(client))["id"]))["fine_tuned_model"]
    assert (await client.call("DELETE", "/v1/models/core")).status == 400
    assert (await client.call("DELETE", "/v1/models/core:nobody")).status == 404
    gone = await client.call("DELETE", f"/v1/models/{name}")
    assert gone.json == {"id": name, "object": "model", "deleted": True}
    assert read_registry(client.runtime.home) == {}
    assert list((client.runtime.home / "adapters" / "core").iterdir()) == []
    assert (await client.call("DELETE", f"/v1/models/{name}")).status == 404


async def test_over_another_base_an_adapter_is_left_out(serve: Serve, models: str, tmp_path: Path) -> None:
    client = await serve(models, default=POLICY)
    adapter = write_adapter(tmp_path / "adapter.gguf", seed=1)
    job = await over(client, (await submit(client, f"adapter {adapter}"))["id"])
    write_gguf(tmp_path / "core.gguf", {"general.name": "another"})
    config = read_config(tmp_path / "0" / "models.yaml", tmp_path / "0" / "policies")
    gateway = build(config, client.runtime)
    assert job["fine_tuned_model"] not in gateway.models
    [warning] = config.warnings
    assert "another model now" in warning.message


async def test_a_file_that_is_no_adapter_is_left_out(serve: Serve, models: str, tmp_path: Path) -> None:
    client = await serve(models, default=POLICY)
    job = await over(client, (await submit(client))["id"])
    config = read_config(tmp_path / "0" / "models.yaml", tmp_path / "0" / "policies")
    assert job["fine_tuned_model"] not in build(config, client.runtime).models
    assert "its file" in config.warnings[0].message


@pytest.mark.parametrize(
    ("kind", "code", "words"),
    [
        ("fails out_of_memory", "out_of_memory", "it cannot be"),
        ("fails unfit", "unfit", "it cannot be"),
        ("dies", "failed", "ended unexpectedly (exit status 3): out of luck"),
    ],
)
async def test_what_fails_says_why_and_registers_nothing(
    serve: Serve, models: str, kind: str, code: str, words: str
) -> None:
    client = await serve(models, default=POLICY)
    job = await over(client, (await submit(client, kind))["id"])
    assert (job["status"], job["error"]["code"], job["fine_tuned_model"]) == ("failed", code, None)
    assert words in job["error"]["message"]
    assert read_registry(client.runtime.home) == {}


async def test_a_job_is_cancelled_while_it_waits_and_while_it_runs(serve: Serve, models: str) -> None:
    client = await serve(models, default=POLICY)
    running, waiting = await submit(client, "slow"), await submit(client)
    client.runtime.trainer.work()
    while not (client.runtime.home / "training" / running["id"] / "checkpoint.pt").exists():
        await asyncio.sleep(0.01)
    for job in (waiting, running):
        reply = await client.call("POST", f"/v1/fine_tuning/jobs/{job['id']}/cancel")
        assert reply.json["status"] == "cancelled"
        assert (await over(client, job["id"]))["status"] == "cancelled"
    again = await client.call("POST", f"/v1/fine_tuning/jobs/{running['id']}/cancel")
    assert (again.status, again.error["param"]) == (400, "fine_tuning_job_id")
    assert not (client.runtime.home / "training" / running["id"]).exists()


async def test_a_job_goes_on_where_a_server_was_ended(tmp_path: Path, models: str) -> None:
    async with running(tmp_path, models, default=POLICY) as client:
        job = await submit(client, "slow")
        client.runtime.trainer.work()
        while not (client.runtime.home / "training" / job["id"] / "checkpoint.pt").exists():
            await asyncio.sleep(0.01)
    async with running(tmp_path, models, default=POLICY) as client:
        assert (await client.call("GET", f"/v1/fine_tuning/jobs/{job['id']}")).json["status"] == "running"
        assert (await over(client, job["id"]))["status"] == "succeeded"
        events = (await client.call("GET", f"/v1/fine_tuning/jobs/{job['id']}/events")).json["data"]
        assert any(event["data"].get("step") == 2 for event in events), "from its checkpoint on"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": None}, "model"),
        ({"model": "expert"}, "model"),
        ({"training_file": "file-none"}, "training_file"),
        ({"validation_file": "file-none"}, "validation_file"),
        ({"hyperparameters": {"n_epochs": 0}}, "epochs"),
        ({"hyperparameters": {"epochs": 3}}, "epochs"),
        ({"hyperparameters": {"learning_rate_multiplier": "much"}}, "learning_rate_multiplier"),
        ({"method": {"type": "dpo"}}, "method.type"),
        ({"suffix": 5}, "suffix"),
        ({"metadata": "x"}, "metadata"),
        ({"integrations": [{"type": "wandb"}]}, "integrations"),
        ({"gateway": {"rang": 3}}, "rang"),
    ],
)
async def test_jobs_at_fault_are_refused(serve: Serve, models: str, body: dict[str, Any], param: str) -> None:
    client = await serve(models, default=POLICY)
    file = (await upload(client, chats())).json["id"]
    said = {"model": "core", "training_file": file, **body}
    reply = await client.call("POST", "/v1/fine_tuning/jobs", said)
    assert reply.error["param"] == param and reply.status in (400, 404)


async def test_few_examples_are_too_few(serve: Serve, models: str) -> None:
    client = await serve(models, default=POLICY)
    file = (await upload(client, chats(count=9))).json["id"]
    reply = await client.call("POST", "/v1/fine_tuning/jobs", {"model": "core", "training_file": file})
    assert "9 examples are too few" in reply.error["message"]


async def test_lists_are_paged(serve: Serve, models: str) -> None:
    client = await serve(models, default=POLICY)
    ids = [(await upload(client, chats())).json["id"] for _ in range(3)]
    first = (await client.call("GET", "/v1/files?limit=2")).json
    assert [one["id"] for one in first["data"]] == ids[:0:-1] and first["has_more"]
    rest = (await client.call("GET", f"/v1/files?limit=2&after={first['last_id']}")).json
    assert [one["id"] for one in rest["data"]] == ids[:1] and not rest["has_more"]
    assert (await client.call("GET", "/v1/files?after=nobody")).error["param"] == "after"
    assert (await client.call("GET", "/v1/files?limit=0")).error["param"] == "limit"
