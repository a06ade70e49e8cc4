"""Server-sent events from bytes, however they were cut into reads."""

from __future__ import annotations

MAX_EVENT_BYTES = 32 * 1024 * 1024


class EventTooLarge(Exception):
    pass


class SseDecoder:
    r"""Collects bytes and gives back the `data` of each whole event.

    Lines end in \n or \r\n; several data lines are joined by \n; comments and other fields are passed over.
    """

    __slots__ = ("_buffer", "_data", "_seen")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._seen = 0  # bytes of the buffer known to hold no line end: never searched twice
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> list[bytes]:
        """Data of the events that this piece completed. Raises: EventTooLarge."""
        buffer = self._buffer
        buffer += piece
        events: list[bytes] = []
        start = 0
        while (end := buffer.find(b"\n", max(start, self._seen))) >= 0:
            line = bytes(buffer[start:end])
            start = end + 1
            self._take(line[:-1] if line.endswith(b"\r") else line, events)
        del buffer[:start]
        self._seen = len(buffer)
        if len(buffer) + sum(map(len, self._data)) > MAX_EVENT_BYTES:
            raise EventTooLarge
        return events

    def flush(self) -> list[bytes]:
        """At the end of the stream: the last event, where its blank line never came."""
        events: list[bytes] = []
        if self._buffer:
            self._take(bytes(self._buffer).rstrip(b"\r"), events)
            self._buffer.clear()
            self._seen = 0
        self._take(b"", events)
        return events

    def _take(self, line: bytes, events: list[bytes]) -> None:
        if line.startswith(b"data:"):
            self._data.append(line[6:] if line[5:6] == b" " else line[5:])
        elif not line and self._data:
            events.append(self._data[0] if len(self._data) == 1 else b"\n".join(self._data))
            self._data.clear()
