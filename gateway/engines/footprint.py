"""What a model takes of a machine's memory."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of main memory, and of all GPUs together."""

    ram_bytes: int = 0
    gpu_bytes: int = 0

    def __add__(self, other: Footprint) -> Footprint:
        return Footprint(self.ram_bytes + other.ram_bytes, self.gpu_bytes + other.gpu_bytes)

    def __sub__(self, other: Footprint) -> Footprint:
        return Footprint(self.ram_bytes - other.ram_bytes, self.gpu_bytes - other.gpu_bytes)

    def fits(self, room: Footprint) -> bool:
        return self.ram_bytes <= room.ram_bytes and self.gpu_bytes <= room.gpu_bytes


NOTHING = Footprint()
UNLIMITED = Footprint(2**62, 2**62)
