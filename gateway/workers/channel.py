"""Messages between a supervisor and one worker, over a pair of sockets: what is asked and answered, what is only told.

They are pickled, as those of `multiprocessing` are: both ends are the same program, one has started the other, and
nobody else has the sockets.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import pickle
import socket
from collections.abc import Callable, Coroutine, Mapping
from enum import IntEnum, auto
from typing import Any, cast

from gateway.errors import GatewayError

log = logging.getLogger(__name__)
SIZE_BYTES = 4  # before each message
INTERNAL = "internal error"

Handler = Callable[..., Any]
"""What it returns is the answer; a coroutine works on it beside others."""


class Kind(IntEnum):
    ASK = auto()
    TELL = auto()
    CANCEL = auto()
    ANSWER = auto()
    FAILED = auto()


class Lost(GatewayError):
    """The process at the other end is gone, or is about to be."""

    status = 503

    def __init__(self) -> None:
        super().__init__("the server is stopping")


class Channel(asyncio.Protocol):
    """One end. Messages arrive in the order in which they were sent.

    Args: `handlers`: what the other end may ask or tell, by name. `on_lost`: called once it is gone.
    """

    def __init__(self, handlers: Mapping[str, Handler], on_lost: Callable[[], None]) -> None:
        self._handlers, self._on_lost = handlers, on_lost
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._answering: dict[int, asyncio.Task[None]] = {}
        self._numbers = itertools.count(1)
        self.is_lost = False

    async def open(self, end: socket.socket) -> None:
        end.setblocking(False)
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=end)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def number(self) -> int:
        """A new one, to name what the other end is to hold."""
        return next(self._numbers)

    async def ask(self, name: str, *args: Any) -> Any:
        """The answer of the other end's handler. Where this is cancelled, so is its work on it.

        Raises: Lost, or the GatewayError that the handler raised.
        """
        if self.is_lost:
            raise Lost
        number = self.number()
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            self._send(Kind.ASK, number, name, args)
            return await answer
        except asyncio.CancelledError:
            if self._asked.pop(number, None) is not None:
                self._send(Kind.CANCEL, number, None, None)
            raise

    def tell(self, name: str, *args: Any) -> None:
        """Never waits; nothing happens where the other end is gone."""
        self._send(Kind.TELL, 0, name, args)

    def _send(self, kind: Kind, number: int, name: str | None, what: Any) -> None:
        if self._transport is not None and not self.is_lost:
            message = pickle.dumps((int(kind), number, name, what), pickle.HIGHEST_PROTOCOL)
            self._transport.write(len(message).to_bytes(SIZE_BYTES) + message)

    # -- as the event loop calls it --------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(Lost())
        self._asked.clear()
        for task in self._answering.values():
            task.cancel()
        self._on_lost()

    def data_received(self, data: bytes) -> None:
        buffer, at = self._buffer, 0
        buffer += data
        while len(buffer) >= (begin := at + SIZE_BYTES):
            end = begin + int.from_bytes(buffer[at:begin])
            if len(buffer) < end:
                break
            kind, number, name, what = pickle.loads(buffer[begin:end])
            at = end
            self._take(kind, number, name, what)
        del buffer[:at]

    def _take(self, kind: int, number: int, name: str, what: Any) -> None:
        if kind == Kind.ANSWER or kind == Kind.FAILED:
            asked = self._asked.pop(number, None)
            if asked is None or asked.done():
                return  # who asked has left
            if kind == Kind.ANSWER:
                asked.set_result(what)
            else:
                asked.set_exception(_unpacked(*what))
        elif kind == Kind.CANCEL:
            if number in self._answering:
                self._answering[number].cancel()
        else:
            self._handle(number, name, what)

    def _handle(self, number: int, name: str, args: Any) -> None:
        """`number`: 0 for what is only told."""
        try:
            answer = self._handlers[name](*args)
        except Exception as exc:
            self._fail(number, name, exc)
            return
        if isinstance(answer, Coroutine):
            key = number or -self.number()
            task = self._answering[key] = asyncio.create_task(self._answer(number, name, answer))
            task.add_done_callback(lambda _: self._answering.pop(key, None))
        else:
            self._reply(number, name, answer)

    async def _answer(self, number: int, name: str, answer: Coroutine[Any, Any, Any]) -> None:
        try:
            found = await answer
        except Exception as exc:
            self._fail(number, name, exc)
        else:
            self._reply(number, name, found)

    def _reply(self, number: int, name: str, found: Any) -> None:
        if number:
            try:
                self._send(Kind.ANSWER, number, None, found)
            except Exception as exc:  # it cannot be pickled; who asked must not wait for ever
                self._fail(number, name, exc)

    def _fail(self, number: int, name: str, error: Exception) -> None:
        if not isinstance(error, GatewayError):
            log.error("message '%s' failed", name, exc_info=error)
            error = GatewayError(INTERNAL)
        elif not number:
            log.error("message '%s' failed: %s", name, error.message)
        if number:
            try:
                self._send(Kind.FAILED, number, None, (type(error), error.args, vars(error)))
            except Exception:  # something that it names cannot be pickled
                plain = GatewayError(error.message)
                self._send(Kind.FAILED, number, None, (GatewayError, plain.args, vars(plain)))


def _unpacked(kind: type[GatewayError], args: tuple[Any, ...], state: dict[str, Any]) -> GatewayError:
    """The error as it was raised; those of the tree each have their own arguments, so it is not made anew."""
    error = kind.__new__(kind, *args)
    error.args = args
    vars(error).update(state)
    return error
