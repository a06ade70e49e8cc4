"""What thousands of gateways in one process would each make anew is made once: they do the same, only sooner."""

from __future__ import annotations

import asyncio
import atexit
import shutil
import ssl
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.config import lines
from gateway.embedding import minilm
from gateway.embedding.sentence_model import SentenceModel
from gateway.store import sqlite
from gateway.store.database import FILE_NAME, open_database


@cache
def empty_database() -> Path:
    """A file with all tables and no rows: to copy it is faster than to migrate."""
    home = Path(tempfile.mkdtemp(prefix="onion-gateway-empty-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)

    async def make() -> None:
        await (await open_database(home)).close()

    with ThreadPoolExecutor(1) as beside:  # there may be a loop in this thread
        beside.submit(asyncio.run, make()).result()
    return home / FILE_NAME


def give_tables(home: Path) -> None:
    """To a home that is not there yet."""
    home.mkdir(mode=0o700, parents=True)
    shutil.copy(empty_database(), home)


def patch(patched: pytest.MonkeyPatch) -> None:
    _load_sentence_models_once(patched)
    _compile_statements_once(patched)
    _read_certificates_once(patched)
    _parse_files_once(patched)


def _load_sentence_models_once(patched: pytest.MonkeyPatch) -> None:
    @cache
    def loaded(*arguments: Any) -> SentenceModel:
        return SentenceModel(*arguments)

    def of_files(model: Path, tokenizer: Path, context: int) -> SentenceModel:
        return loaded(model.resolve(), tokenizer.resolve(), context)

    patched.setattr(minilm, "SentenceModel", of_files)


def _compile_statements_once(patched: pytest.MonkeyPatch) -> None:
    """An engine compiles a statement when it sees it first, and tells dialects apart by identity."""
    make_engine, made = sqlite.make_engine, list[Engine]()

    def with_what_is_compiled(path: Path) -> AsyncEngine:
        engine = make_engine(path)
        if not made or not hasattr(made[0].dialect, "server_version_info"):  # it is set up by a first connection
            made[:] = [engine.sync_engine]
        engine.sync_engine.dialect, engine.sync_engine._compiled_cache = made[0].dialect, made[0]._compiled_cache
        return engine

    patched.setattr(sqlite, "make_engine", with_what_is_compiled)


def _read_certificates_once(patched: pytest.MonkeyPatch) -> None:
    """Each client of httpx reads all authorities, 30 ms of work."""
    create = ssl.create_default_context
    of_file = cache(lambda cafile: create(cafile=cafile))

    def context(*arguments: Any, **options: Any) -> ssl.SSLContext:
        is_plain = not arguments and options.keys() == {"cafile"}
        made: ssl.SSLContext = of_file(**options) if is_plain else create(*arguments, **options)
        return made

    patched.setattr(ssl, "create_default_context", context)


def _parse_files_once(patched: pytest.MonkeyPatch) -> None:
    """Nodes are only read, and flattening them again changes nothing."""

    class Loader(yaml.SafeLoader):
        def __init__(self, text: str) -> None:
            super().__init__(text)
            self._text = text

        def get_single_node(self) -> yaml.Node | None:
            if self._text not in nodes:
                nodes[self._text] = super().get_single_node()
            return nodes[self._text]

    nodes: dict[str, yaml.Node | None] = {}
    here = ModuleType("yaml")
    vars(here).update(vars(yaml), SafeLoader=Loader)
    patched.setattr(lines, "yaml", here)
