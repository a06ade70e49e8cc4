"""Bodies that come compressed, though nobody asked for it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

AT_ONCE_BYTES = 256 * 1024
ENCODINGS = frozenset({b"gzip", b"x-gzip", b"deflate"})
GZIP, ZLIB, RAW = zlib.MAX_WBITS | 16, zlib.MAX_WBITS, -zlib.MAX_WBITS


class Inflater:
    """One body's content coding: gzip of one or more members, or deflate with zlib's head or, as some send it, none."""

    __slots__ = ("_is_gzip", "_stream")

    def __init__(self, encoding: bytes) -> None:
        self._is_gzip = encoding != b"deflate"
        self._stream: zlib._Decompress | None = None

    @property
    def is_whole(self) -> bool:
        """May it end here? Nothing at all is no cut body either."""
        return self._stream is None or self._stream.eof

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """What a piece, of a byte at least, swells to: parts of `AT_ONCE_BYTES` at most. Raises: zlib.error."""
        while piece:
            if self._stream is None:
                is_raw = not self._is_gzip and piece[0] & 0x0F != zlib.DEFLATED
                self._stream = zlib.decompressobj(wbits=GZIP if self._is_gzip else RAW if is_raw else ZLIB)
            elif self._stream.eof:
                if not self._is_gzip:
                    raise zlib.error("more than one stream")
                self._stream = zlib.decompressobj(wbits=GZIP)
            yield from self._inflated(self._stream, piece)
            piece = self._stream.unused_data

    def _inflated(self, stream: zlib._Decompress, piece: bytes) -> Iterator[bytes]:
        while True:
            part = stream.decompress(piece, AT_ONCE_BYTES)
            if part:
                yield part
            piece = stream.unconsumed_tail
            if stream.eof or (not piece and len(part) < AT_ONCE_BYTES):  # as many bytes may be in store still
                return
