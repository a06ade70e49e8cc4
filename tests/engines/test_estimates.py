"""What a model will take: against what the real core model took, and what follows from the shape of others."""

from __future__ import annotations

import asyncio
import json
import shutil
import struct
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.engines import Patience, State
from gateway.engines.estimates import GPU_CONTEXT_BYTES, GPU_HOST_BYTES, REPACKED, of_gguf, of_safetensors
from gateway.engines.footprint import Footprint
from gateway.engines.llama_cpp import LlamaCppSettings
from gateway.engines.memory import machine, measure
from gateway.errors import EngineError
from tests.engines.conftest import site
from tests.engines.projector import write_projector
from tests.sources.gguf_files import laid_out

MIB, GIB = 1 << 20, 1 << 30
LAYERS, EMBEDDING, HEADS, KV_HEADS, VOCABULARY = 4, 256, 8, 2, 1024
TOKEN = 2 * KV_HEADS * (EMBEDDING // HEADS) * 2  # bytes of keys and values for a token in a layer, f16
LAYER_BYTES, EMBED_BYTES = 64 * 1024, 96 * 1024
F32, Q4_1, Q4_K = 0, 3, 12


def write(path: Path, *, architecture: str = "llama", kind: int = Q4_1, tied: bool = True, **changes: Any) -> Path:
    """A model of four layers; None takes a key away."""
    shape: dict[str, Any] = {
        "block_count": LAYERS,
        "embedding_length": EMBEDDING,
        "feed_forward_length": 512,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "vocab_size": VOCABULARY,
        **{key.replace("__", "."): given for key, given in changes.items()},
    }
    keys = {f"{architecture}.{key}": given for key, given in shape.items() if given is not None}
    tensors = [("token_embd.weight", (EMBEDDING, VOCABULARY), kind, EMBED_BYTES)]
    if not tied:
        tensors.append(("output.weight", (EMBEDDING, VOCABULARY), kind, EMBED_BYTES))
    tensors += [(f"blk.{layer}.attn_q.weight", (EMBEDDING, EMBEDDING), kind, LAYER_BYTES) for layer in range(LAYERS)]
    path.write_bytes(laid_out({"general.architecture": architecture, **keys}, tensors))
    return path


def ram_of(path: Path, context: int = 1024, slots: int = 1, **more: Any) -> int:
    return of_gguf(path, context=context, slots=slots, **more).ram_bytes


async def pss_in_use(settings: LlamaCppSettings, home: Path) -> int:
    """Of its process, once it has read a prompt of more than one batch, and each slot has answered."""
    where, changed = site(home, Patience()), asyncio.Event()
    child = settings.supervise(where, changed.set)
    child.start()
    try:
        async with asyncio.timeout(60):
            while child.state is not State.READY:
                assert child.state is not State.FAILED, child.last_error
                changed.clear()
                await changed.wait()
            assert child.lease is not None and child.pid is not None
            headers = {"authorization": f"Bearer {child.lease.key}"}
            async with aiohttp.ClientSession(headers=headers) as session:

                async def ask(number: int) -> None:
                    content = f"{number} " + "one two three four " * (0 if number else 65)
                    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 2}
                    async with session.post(f"{child.lease.url}/chat/completions", json=body) as reply:  # type: ignore[union-attr]
                        assert reply.status == 200, await reply.text()

                await asyncio.gather(*map(ask, range(settings.slots)))
            taken = await asyncio.to_thread(measure, child.pid)
            assert taken is not None
            return taken.ram_bytes
    finally:
        await child.stop()
        await where.client.close()


@pytest.mark.model
@pytest.mark.skipif(sys.platform != "linux", reason="PSS is Linux's")
@pytest.mark.slow
@pytest.mark.parametrize(("context", "slots"), [(512, 1), (4096, 4)])
async def test_the_core_model_takes_what_was_estimated(
    core_model_path: Path, tmp_path: Path, context: int, slots: int
) -> None:
    path = tmp_path / "core.gguf"  # a copy: pages that others map too would be shared out among them and us
    shutil.copyfile(core_model_path, path)
    try:
        settings = LlamaCppSettings("core", path, context=context, slots=slots, threads=1)
        measured = await pss_in_use(settings, tmp_path)
        estimated = await asyncio.to_thread(of_gguf, path, context=context, slots=slots)
        assert estimated.gpu_bytes == 0
        assert measured <= estimated.ram_bytes <= 1.15 * measured, (measured / MIB, estimated.ram_bytes / MIB)
    finally:
        path.unlink()


def test_each_token_of_each_slot_has_its_keys_and_values(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gguf")
    one, two, three = (ram_of(path, slots=slots) for slots in (1, 2, 3))
    assert three - two == two - one > LAYERS * TOKEN * 1024
    assert ram_of(path, context=2048, batch=0) - ram_of(path, context=1024, batch=0) == LAYERS * TOKEN * 1024
    assert ram_of(path, context=1000) > ram_of(path, context=1024) - 64 * 1024  # room is made in steps of 256 tokens


def test_heads_may_have_their_own_lengths_and_layers_their_own_number(tmp_path: Path) -> None:
    plain = ram_of(write(tmp_path / "a.gguf"), batch=0)
    longer = write(tmp_path / "b.gguf", attention__key_length=64, attention__value_length=64)
    assert ram_of(longer, batch=0) - plain == LAYERS * TOKEN * 1024
    half = write(tmp_path / "c.gguf", attention__head_count_kv=[KV_HEADS, 0, KV_HEADS, 0])
    assert plain - ram_of(half, batch=0) == 2 * TOKEN * 1024


@pytest.mark.parametrize(
    ("architecture", "changes", "full_layers"),
    [
        ("gemma2", {}, 2),
        ("gemma3", {}, 0),  # each sixth, and there are four
        ("anything", {}, LAYERS),  # not known to have windows
        ("anything", {"attention__sliding_window_pattern": [True, False, True, True]}, 1),
    ],
)
def test_a_window_bounds_what_a_layer_keeps(
    tmp_path: Path, architecture: str, changes: dict[str, Any], full_layers: int
) -> None:
    path = write(tmp_path / "a.gguf", architecture=architecture, attention__sliding_window=512, **changes)
    more = ram_of(path, 65536, batch=0, checkpoints=0) - ram_of(path, 32768, batch=0, checkpoints=0)
    assert more == full_layers * TOKEN * 32768


def test_copies_of_a_window_or_a_state_count(tmp_path: Path) -> None:
    plain = write(tmp_path / "a.gguf")
    assert ram_of(plain, checkpoints=0) == ram_of(plain, checkpoints=32)
    windows = write(tmp_path / "b.gguf", architecture="gemma3", attention__sliding_window=512)
    one = LAYERS * 512 * TOKEN
    assert ram_of(windows, slots=2, checkpoints=3) - ram_of(windows, slots=2, checkpoints=0) == 2 * 3 * one
    ssm: dict[str, Any] = {"ssm__conv_kernel": 4, "ssm__inner_size": 512, "ssm__state_size": 16, "ssm__group_count": 1}
    mamba = write(
        tmp_path / "c.gguf", architecture="mamba2", attention__head_count=0, attention__head_count_kv=None, **ssm
    )
    state = LAYERS * 4 * (3 * (512 + 2 * 16) + 512 * 16)
    assert ram_of(mamba, checkpoints=1) - ram_of(mamba, checkpoints=0) == state
    assert ram_of(mamba, 32768, batch=0) == ram_of(mamba, 1024, batch=0)  # whatever the context


def test_layers_between_those_that_attend_keep_a_state(tmp_path: Path) -> None:
    ssm: dict[str, Any] = {
        "ssm__conv_kernel": 4,
        "ssm__inner_size": 512,
        "ssm__state_size": 16,
        "full_attention_interval": 4,
    }
    path = write(tmp_path / "a.gguf", architecture="qwen3next", **ssm)
    assert ram_of(path, 2048, batch=0) - ram_of(path, 1024, batch=0) == TOKEN * 1024
    assert ram_of(path, checkpoints=1) - ram_of(path, checkpoints=0) == 3 * 4 * (3 * 512 + 512 * 16)


def test_encoders_keep_nothing_of_a_context(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gguf", architecture="bert")
    assert ram_of(path, 8192, batch=0) == ram_of(path, 512, batch=0)


def test_experts_work_side_by_side(tmp_path: Path) -> None:
    plain = ram_of(write(tmp_path / "a.gguf"))
    experts = write(tmp_path / "b.gguf", expert_used_count=8, expert_feed_forward_length=512)
    assert ram_of(experts) - plain == 256 * 4 * 3 * (8 - 1) * 512


def test_what_is_laid_out_anew_is_there_twice(tmp_path: Path) -> None:
    assert "Q4_K" in REPACKED and "Q4_1" not in REPACKED
    layers = LAYERS * LAYER_BYTES
    for tied in (True, False):
        plain, anew = (write(tmp_path / f"{kind}.gguf", kind=kind, tied=tied) for kind in (Q4_1, Q4_K))
        assert ram_of(anew) - ram_of(plain) == layers + EMBED_BYTES


def test_a_gpu_takes_the_last_layers_and_what_follows_them(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gguf", tied=False)
    cache = TOKEN * 1024

    def on(gpu_layers: int | None) -> Footprint:
        return of_gguf(path, context=1024, slots=1, has_gpu=True, gpu_layers=gpu_layers)

    none, output, two, whole = on(0), on(1), on(2), on(None)
    assert output.gpu_bytes - none.gpu_bytes == none.ram_bytes - output.ram_bytes == EMBED_BYTES
    assert two.gpu_bytes - output.gpu_bytes == output.ram_bytes - two.ram_bytes == LAYER_BYTES + cache
    assert whole.gpu_bytes - two.gpu_bytes == two.ram_bytes - whole.ram_bytes == 3 * (LAYER_BYTES + cache)
    assert whole == on(-1) == on(99) == on(LAYERS + 1)
    assert none.gpu_bytes >= GPU_CONTEXT_BYTES
    assert none.ram_bytes - GPU_HOST_BYTES == ram_of(path) == ram_of(path, gpu_layers=99)  # without a GPU, all is here


def test_embeddings_that_are_the_output_too_are_in_both_memories(tmp_path: Path) -> None:
    whole = {
        tied: of_gguf(write(tmp_path / "a.gguf", tied=tied), context=1024, slots=1, has_gpu=True)
        for tied in (True, False)
    }
    assert whole[True] == whole[False]


def test_all_parts_of_a_split_file_count(tmp_path: Path) -> None:
    first = write(tmp_path / "a-00001-of-00003.gguf")
    parts = [tmp_path / f"a-0000{number}-of-00003.gguf" for number in (2, 3)]
    for number, part in enumerate(parts):
        keys = {"split.no": number + 1, "split.count": 3}
        part.write_bytes(laid_out(keys, [("blk.2.ffn_up.weight", (EMBEDDING, 512), Q4_1, 128 * 1024)]))
    alone = ram_of(write(tmp_path / "b.gguf"))
    assert ram_of(first) - alone == 2 * 128 * 1024
    parts[1].write_bytes(b"GGUF")
    with pytest.raises(EngineError, match="part 3 of its model file is cut short"):
        ram_of(first)
    parts[0].unlink()
    with pytest.raises(EngineError, match="part 2 of its model file cannot be read: No such file"):
        ram_of(first)


def test_a_projector_and_adapters_come_on_top(tmp_path: Path) -> None:
    path, projector = write(tmp_path / "a.gguf"), write_projector(tmp_path / "mmproj.gguf")
    adapter = tmp_path / "adapter.gguf"
    keys = {"general.architecture": "llama", "general.type": "adapter"}
    adapter.write_bytes(laid_out(keys, [("blk.0.attn_q.weight.lora_a", (EMBEDDING, 8), F32, 8192)]))
    assert ram_of(path, mmproj=projector) - ram_of(path) > projector.stat().st_size - 4096
    assert ram_of(path, adapters=[adapter, adapter]) - ram_of(path) == 2 * 8192
    assert ram_of(path, prompt_cache_bytes=MIB) - ram_of(path) == MIB
    with_gpu = of_gguf(path, projector, context=1024, slots=1, has_gpu=True)
    assert with_gpu.ram_bytes == of_gguf(path, context=1024, slots=1, has_gpu=True).ram_bytes
    with pytest.raises(EngineError, match="its projector file is missing"):
        ram_of(path, mmproj=tmp_path / "none.gguf")


def test_a_file_that_says_little_is_its_size_and_a_process(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(laid_out({"general.architecture": "new"}, [("x", (32, 32), 77, 4 * MIB)]))
    assert 4 * MIB + 24 * MIB < ram_of(path) < 64 * MIB


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "its model file is missing"), (b"MZ", "its model file is cut short"), (b"", "its model file is empty")],
)
def test_a_file_that_cannot_be_loaded_is_named(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "a.gguf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EngineError, match=reason):
        ram_of(path)
    with pytest.raises(EngineError, match="its model file"):
        ram_of(tmp_path)


@settings(max_examples=80, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_a_file_claims_there_is_an_estimate_or_an_error(tmp_path: Path, data: st.DataObject) -> None:
    whole = bytearray(write(tmp_path / "whole.gguf", attention__sliding_window=512, ssm__state_size=16).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(24, 700))] = data.draw(st.integers(0, 255))
    path = tmp_path / "changed.gguf"
    path.write_bytes(whole)
    try:
        taken = of_gguf(path, context=1024, slots=2, gpu_layers=2, has_gpu=True)
    except EngineError:
        return
    assert taken.ram_bytes > 0 and taken.gpu_bytes > 0


# vLLM


def tensors(path: Path, *kinds: tuple[str, int]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for number, (dtype, size) in enumerate(kinds):
        header[f"t{number}"] = {"dtype": dtype, "shape": [size], "data_offsets": [at, at + size]}
        at += size
    data = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(data)) + data)  # the numbers themselves are not looked at


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text('{"hidden_size": 64, "intermediate_size": 128, "vocab_size": 1000}')
    tensors(tmp_path / "model-00001-of-00002.safetensors", ("F32", 40 * MIB), ("F8_E4M3", 5 * MIB))
    tensors(tmp_path / "model-00002-of-00002.safetensors", ("BF16", 20 * MIB))
    tensors(tmp_path / "consolidated.safetensors", ("BF16", 400 * MIB))
    return tmp_path


def on_cpu(model: Path | str, **changes: Any) -> Footprint | None:
    fields = {"context": 2048, "slots": 4, "dtype": None, "gpu_share": None, "gpu_total_bytes": 0}
    return of_safetensors(model, **{**fields, "kv_space_bytes": GIB, **changes})


def test_on_the_processor_vllm_takes_weights_and_its_cache(folder: Path) -> None:
    usual = on_cpu(folder)
    assert usual is not None and usual.gpu_bytes == 0
    assert usual == on_cpu(folder, dtype="auto") == on_cpu(folder, dtype="bfloat16")
    assert 3 * GIB + 45 * MIB < usual.ram_bytes < 3 * GIB + 60 * MIB
    wide, half = on_cpu(folder, dtype="float32"), on_cpu(folder, kv_space_bytes=None)
    assert wide is not None and wide.ram_bytes - usual.ram_bytes > 40 * MIB
    assert half is not None and half.ram_bytes - usual.ram_bytes == machine().ram_bytes // 2 - GIB


def test_on_a_gpu_vllm_takes_its_share_whatever_the_model_is(folder: Path) -> None:
    for model in (folder, "someone/something"):
        taken = on_cpu(model, gpu_total_bytes=10 * GIB)
        assert taken is not None and taken.gpu_bytes == 9 * GIB and taken.ram_bytes > GIB
        taken = on_cpu(model, gpu_total_bytes=10 * GIB, gpu_share=0.5)
        assert taken is not None and taken.gpu_bytes == 5 * GIB


def test_nothing_is_known_of_a_model_that_is_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "empty").mkdir()
    for model in ("someone/something", "no repository", tmp_path / "missing", tmp_path / "empty"):
        assert on_cpu(model) is None
    (tmp_path / "empty" / "config.json").write_text("{}")
    assert on_cpu(tmp_path / "empty") is None


def test_a_repository_in_the_cache_is_read(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    repo = cache / "models--someone--something"
    snapshot = repo / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("abc")
    for file in folder.glob("*.*"):
        (snapshot / file.name).symlink_to(file)
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    assert on_cpu("someone/something") == on_cpu(folder) is not None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        struct.pack("<Q", 2**40) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 3) + b'{"a',
        struct.pack("<Q", 10) + b'{"a": {}}\n',
    ],
)
def test_broken_safetensors_are_named(folder: Path, content: bytes) -> None:
    (folder / "model-00002-of-00002.safetensors").write_bytes(content)
    with pytest.raises(EngineError, match="its model-00002-of-00002.safetensors is not a safetensors file"):
        on_cpu(folder)


def test_a_broken_config_is_named(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(EngineError, match="its config.json is not JSON"):
        on_cpu(folder)
