"""A policy's promise in a running gateway: uncertified at first, certified by labels, kept over a restart."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gateway.errors import ConfigError
from tests.asgi import Client
from tests.conftest import Serve, build_from, running

MODELS = """
models:
  core:
    engine: scripted
    price: {input_usd_per_mtok: 0, output_usd_per_mtok: 0}
    replies:
      - {when: {contains: hard}, text: "Lyon"}
      - {when: {contains: empty}, text: ""}
      - {text: "Paris"}
  expert:
    engine: scripted
    price: {input_usd_per_mtok: 1, output_usd_per_mtok: 1}
    replies:
      - {text: "It is Paris."}
"""
POLICY = """
policy: default
serves: [auto]
quality: {target: 0.9, confidence: 0.9%s}
routes:
  - name: all
    answer:
      cascade:
        - {model: core, checks: [not_empty%s]}
        - {model: expert}
"""


def policy(quality: str = "", checks: str = "") -> str:
    return POLICY % (quality, checks)


async def ask(client: Client, text: str = "What is the capital of France?") -> tuple[str, str]:
    """Who answered, and what is promised."""
    call = client.start_chat(messages=[{"role": "user", "content": text}])
    done = await call.done()
    assert done.status == 200
    assert client.runtime.promises is not None
    await client.runtime.promises.idle()
    return done.headers["x-gateway-model"], done.headers["x-gateway-quality"]


async def test_until_it_is_certified_the_checks_decide_and_accepted_answers_are_audited(serve: Serve) -> None:
    client = await serve(MODELS, default=policy())
    assert await ask(client) == ("core", "uncertified")
    [told] = client.runtime.promises.report()
    assert (told["arm"], told["status"], told["audits"], told["audits_of_accepted"]) == (
        "default/all/core",
        "uncertified",
        1,
        1,
    )
    journal = client.runtime.journal
    assert journal is not None
    summary = await journal.summary()
    assert {name for name, _ in summary.by_route} == {"default/all", "default/audit"}


async def test_all_goes_on_until_then_where_the_policy_says_so(serve: Serve) -> None:
    client = await serve(MODELS, default=policy(", uncertified: escalate"))
    assert await ask(client) == ("expert", "uncertified")


async def test_labels_of_escalations_certify_it(serve: Serve) -> None:
    client = await serve(MODELS, default=policy(", uncertified: escalate"))
    for _ in range(60):
        who, quality = await ask(client)
        if quality == "certified":
            break
    else:
        raise AssertionError("never certified")
    assert who == "core"
    assert client.runtime.promises.report()[0]["bound"] <= 0.1


async def test_wrong_drafts_are_no_longer_accepted_and_the_false_accepts_are_counted(serve: Serve) -> None:
    client = await serve(MODELS, default=policy())
    for _ in range(40):
        who, quality = await ask(client, "A hard one")
    assert (who, quality) == ("expert", "certified")  # at a threshold that such a draft does not reach
    [told] = client.runtime.promises.report()
    assert told["false_accept_rate"] == 1.0


async def test_a_hard_check_vetoes_and_counts_as_traffic(serve: Serve) -> None:
    client = await serve(MODELS, default=policy())
    assert await ask(client, "an empty one") == ("expert", "uncertified")
    [told] = client.runtime.promises.report()
    assert (told["labels"], told["local_share"]) == (1, 0.0)


async def test_audits_keep_to_their_budget(serve: Serve) -> None:
    client = await serve(MODELS, default=policy(", audit_usd_per_day: 0"))
    await ask(client)
    assert client.runtime.promises.report()[0]["audits"] == 0


async def test_what_the_larger_model_says_in_an_audit_is_a_lesson_where_the_policy_learns(serve: Serve) -> None:
    client = await serve(MODELS, default=policy() + "learn: true\n")
    await ask(client, "A hard one")
    assert client.runtime.bookcase.opened is not None
    lessons = client.runtime.bookcase.opened.lessons
    await lessons.flush()
    [lesson] = await lessons.find()
    assert (lesson.failed, lesson.answer["content"]) == ({"core": "audit"}, "It is Paris.")
    assert lesson.request["messages"][-1]["content"] == "A hard one"


async def test_it_is_kept_over_a_restart_and_forgotten_with_another_tier(tmp_path: Path, empty_database: Path) -> None:
    (tmp_path / "home").mkdir()
    shutil.copy(empty_database, tmp_path / "home" / "gateway.db")
    async with running(tmp_path, MODELS, default=policy()) as client:
        await ask(client)
    async with running(tmp_path, MODELS, default=policy()) as client:
        assert client.runtime.promises.report()[0]["labels"] == 1
        drafts = client.runtime.promises.drafts
        assert drafts is not None
        [row] = await drafts.find("default/all/core")
        assert (row.same, row.accepted, row.audited) == (True, True, True)
    async with running(tmp_path, MODELS, default=policy(checks=", no_loop")) as client:
        assert client.runtime.promises.report()[0]["labels"] == 0


async def test_the_journal_holds_numbers_alone(serve: Serve) -> None:
    client = await serve(MODELS, default=policy())
    call = client.start_chat(messages=[{"role": "user", "content": "What is the capital of France?"}])
    done = await call.done()
    assert client.runtime.journal is not None
    row = await client.runtime.journal.find(done.headers["x-gateway-trace"])
    assert row is not None and '"p_correct"' in row.trace and "Paris" not in row.trace


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("quality: {target: 1.5}", "target"),
        ("quality: {strong: nobody}", "strong"),
        ("quality: {tagret: 0.9}", "tagret"),
    ],
)
def test_faults_are_named(tmp_path: Path, text: str, key: str) -> None:
    written = policy().replace("quality: {target: 0.9, confidence: 0.9}", text)
    with pytest.raises(ConfigError, match=key):
        build_from(tmp_path, MODELS, default=written)


def test_a_promise_needs_a_cascade(tmp_path: Path) -> None:
    alone = "policy: p\nquality: {}\nroutes: [{name: a, answer: {model: core}}]\n"
    with pytest.raises(ConfigError, match="cascade"):
        build_from(tmp_path, MODELS, p=alone)


async def test_how_far_it_has_come_can_be_asked(serve: Serve) -> None:
    client = await serve(MODELS, default=policy())
    await ask(client)
    [told] = (await client.call("GET", "/v1/quality")).json["data"]
    assert (told["policy"], told["model"], told["strong"], told["labels"]) == ("default", "core", "expert", 1)


async def test_explain_tells_the_threshold(serve: Serve) -> None:
    client = await serve(MODELS, default=policy())
    body = {"model": "auto", "messages": [{"role": "user", "content": "Hello"}]}
    [told] = (await client.call("POST", "/v1/route/explain", body)).json["promises"]
    assert (told["arm"], told["threshold"], told["status"]) == ("default/all/core", None, "uncertified")
