"""GGUF headers: what they say, and that no bytes whatever can hang the reader or fill the memory."""

from __future__ import annotations

import os
import struct
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gateway.sources.gguf import INPUT, OUTPUT, BrokenGguf, Weights, read_header, read_weights
from tests.sources.gguf_files import CHAT, gguf, laid_out, write_gguf


def test_the_header_says_what_the_model_is(tmp_path: Path) -> None:
    header = read_header(write_gguf(tmp_path / "a.gguf"))
    assert (header.architecture, header.name, header.size_label) == ("llama", "Tiny Chat", "135M")
    assert (header.context, header.parameters, header.quantization) == (8192, 135_000_000, "Q4_K_M")
    assert header.has_template and header.chats and header.parts == 1


@pytest.mark.model
def test_the_real_core_model_is_read(core_model_path: Path) -> None:
    header = read_header(core_model_path)
    assert (header.architecture, header.context, header.size_label) == ("llama", 8192, "135M")
    assert header.parameters == 134_515_008 and header.has_template
    shape = header.shape
    assert (shape.layers, shape.embedding, shape.vocabulary, shape.merges) == (30, 576, 49152, 48900)
    assert (set(shape.heads), set(shape.kv_heads), set(shape.feed_forward)) == ({9}, {3}, {1536})
    assert sum(part.size_bytes for part in header.weights) == 96_576_768  # what llama.cpp says, 92.10 MiB
    assert {part.layer for part in header.weights} == {INPUT, OUTPUT, *range(30)}


def test_weights_are_told_by_layer_and_type(tmp_path: Path) -> None:
    tensors = [
        ("token_embd.weight", (64, 32), 8, 320),
        ("blk.0.attn_q.weight", (64, 64), 12, 640),
        ("blk.0.attn_k.weight", (64, 64), 12, 640),
        ("blk.0.attn_norm.weight", (64,), 0, 256),
        ("blk.11.ffn_up.weight", (64, 12), 99, 96),
        ("output.weight", (64, 32), 14, 128),
    ]
    (tmp_path / "a.gguf").write_bytes(laid_out(CHAT, tensors))
    weights = read_header(tmp_path / "a.gguf").weights
    assert set(weights) == {
        Weights(INPUT, "Q8_0", True, 320),
        Weights(0, "Q4_K", True, 1280),
        Weights(0, "F32", False, 256),
        Weights(11, None, False, 96),
        Weights(OUTPUT, "Q6_K", True, 128),
    }
    assert weights == read_weights(tmp_path / "a.gguf")


def test_what_differs_by_layer_is_read_by_layer(tmp_path: Path) -> None:
    changes = {
        "llama.block_count": 4,
        "llama.attention.head_count": 8,
        "llama.attention.head_count_kv": [0, 2, 0, 2],
        "llama.attention.sliding_window": 512,
        "llama.attention.sliding_window_pattern": [True, True, True, False],
        "tokenizer.ggml.tokens": [str(number) for number in range(5000)],
        "tokenizer.ggml.token_type": [1] * 5000,
    }
    shape = read_header(write_gguf(tmp_path / "a.gguf", changes)).shape
    assert shape.heads == (8, 8, 8, 8) and shape.kv_heads == (0, 2, 0, 2) and shape.vocabulary == 5000
    assert shape.sliding_window == 512 and shape.windowed == (True, True, True, False)
    changes["llama.attention.sliding_window_pattern"] = 2
    assert read_header(write_gguf(tmp_path / "a.gguf", changes)).shape.windowed == (True, False, True, False)


def test_a_later_part_of_a_split_file_has_weights_and_says_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a-00002-of-00002.gguf"
    path.write_bytes(laid_out({"split.no": 1, "split.count": 2}, [("blk.1.attn_q.weight", (64, 64), 12, 640)]))
    assert read_weights(path) == (Weights(1, "Q4_K", True, 640),)
    with pytest.raises(BrokenGguf, match="architecture"):
        read_header(path)


def test_the_first_part_may_be_a_header_alone(tmp_path: Path) -> None:
    path = tmp_path / "a-00001-of-00002.gguf"
    path.write_bytes(laid_out({**CHAT, "split.count": 2}, []))
    assert read_header(path).weights == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"general.architecture": "bert"},
        {"general.architecture": "nomic-bert"},
        {"general.architecture": "clip"},
        {"llama.pooling_type": 3},
    ],
)
def test_what_makes_vectors_or_pictures_does_not_chat(tmp_path: Path, changes: dict[str, object]) -> None:
    assert not read_header(write_gguf(tmp_path / "a.gguf", changes)).chats


BROKEN = {
    "empty": (b"", "is empty"),
    "html": (b"<html>not found</html>", "does not begin with GGUF"),
    "version": (b"GGUF" + struct.pack("<I", 9), "version 9"),
    "big-endian": (b"GGUF" + struct.pack(">I", 3), "big-endian"),
    "many keys": (b"GGUF" + struct.pack("<IQQ", 3, 1, 2**60), "claims"),
    "long key": (b"GGUF" + struct.pack("<IQQQ", 3, 1, 1, 2**62) + b"x" * 100, "cut short"),
    "cut": (gguf(CHAT)[:200], "cut short"),
    "no weights": (gguf(CHAT, weights=0), "cut short"),
    "vocabulary only": (gguf(CHAT, tensors=0), "no weights"),
    "no architecture": (gguf({"general.name": "x"}), "architecture"),
    "many layers": (gguf({**CHAT, "llama.block_count": 5000}), "layers"),
}


@pytest.mark.parametrize(("data", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_file_says_why(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "a.gguf").write_bytes(data)
    with pytest.raises(BrokenGguf, match=reason):
        read_header(tmp_path / "a.gguf")


def test_a_pipe_does_not_hang_the_reader(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.gguf")
    with pytest.raises(BrokenGguf, match="not a plain file"):
        read_header(tmp_path / "a.gguf")


def test_names_cannot_move_the_cursor(tmp_path: Path) -> None:
    header = read_header(write_gguf(tmp_path / "a.gguf", {"general.name": "x\n\x1b[2Jy\u202e" + "z" * 500}))
    assert header.name is not None and header.name.isprintable() and len(header.name) <= 100


def test_a_list_of_lists_of_a_claimed_billion_takes_no_memory(tmp_path: Path) -> None:
    data = b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, 8, 10**9)
    (tmp_path / "a.gguf").write_bytes(data + b"\0" * 4096)
    tracemalloc.start()
    with pytest.raises(BrokenGguf):
        read_header(tmp_path / "a.gguf")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


@settings(max_examples=100, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tail=st.binary(max_size=600))
@example(tail=struct.pack("<IQQ", 3, 0, 10_000) + b"\0" * 400)
def test_random_bytes_after_the_magic_end_in_an_error(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "random.gguf"
    path.write_bytes(b"GGUF" + tail)
    with pytest.raises(BrokenGguf):
        read_header(path)


@settings(max_examples=100, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_good_file_with_bytes_changed_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    whole = bytearray(gguf(CHAT))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(4, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "changed.gguf"
    path.write_bytes(bytes(whole[: data.draw(st.integers(5, len(whole)))]))
    try:
        read_header(path)
    except BrokenGguf:
        pass
