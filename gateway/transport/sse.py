"""Server-sent events from bytes, however they were cut into reads."""

from __future__ import annotations

MAX_EVENT_BYTES = 32 * 1024 * 1024
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class EventTooLarge(Exception):
    pass


class SseDecoder:
    r"""Collects bytes and gives back the `data` of each whole event.

    Lines end in \n, \r\n or \r; several data lines are joined by \n; comments and other fields are passed over.
    """

    __slots__ = ("_buffer", "_data", "_data_bytes", "_ended_in_cr", "_is_first_line", "_seen")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._seen = 0  # bytes of the buffer known to hold no line end: never searched twice
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._ended_in_cr = False  # and its line was taken: a \n that comes next ends no other
        self._is_first_line = True

    def feed(self, piece: bytes) -> list[bytes]:
        """Data of the events that this piece completed. Raises: EventTooLarge."""
        if self._ended_in_cr or b"\r" in piece:
            piece = self._with_line_feeds(piece)
        buffer = self._buffer
        buffer += piece
        events: list[bytes] = []
        start = 0
        while (end := buffer.find(b"\n", max(start, self._seen))) >= 0:
            self._take(bytes(buffer[start:end]), events)
            start = end + 1
        del buffer[:start]
        self._seen = len(buffer)
        if len(buffer) + self._data_bytes > MAX_EVENT_BYTES:
            raise EventTooLarge
        return events

    def flush(self) -> list[bytes]:
        """At the end of the stream: the last event, where its blank line never came."""
        events: list[bytes] = []
        if self._buffer:
            self._take(bytes(self._buffer), events)
            self._buffer.clear()
            self._seen = 0
        self._take(b"", events)
        return events

    def _with_line_feeds(self, piece: bytes) -> bytes:
        if self._ended_in_cr and piece:
            self._ended_in_cr = False
            piece = piece.removeprefix(b"\n")
        if piece.endswith(b"\r"):
            self._ended_in_cr = True
        return piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _take(self, line: bytes, events: list[bytes]) -> None:
        if self._is_first_line:
            self._is_first_line = False
            line = line.removeprefix(BYTE_ORDER_MARK)
        if line.startswith(b"data:"):
            self._data.append(line[6:] if line[5:6] == b" " else line[5:])
            self._data_bytes += len(line)
        elif not line and self._data:
            events.append(self._data[0] if len(self._data) == 1 else b"\n".join(self._data))
            self._data.clear()
            self._data_bytes = 0
        elif line == b"data":  # a field without a value
            self._data.append(b"")
            self._data_bytes += len(line)


def _usual(piece: bytes) -> list[bytes] | None:
    """Of whole events of one `data: ` line each, which is how nearly all come; None where there is anything else."""
    events = piece[:-2].split(b"\n\n")
    if b"\r" in piece or piece.count(b"\n") != 2 * len(events):
        return None
    for event in events:
        if event[:6] != b"data: ":
            return None
    return [event[6:] for event in events]
