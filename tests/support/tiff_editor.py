"""Spoil the fields of a TIFF."""

from __future__ import annotations

import struct

OFFSETS, COUNTS = 324, 325


class Editor:
    """A classic little-endian TIFF whose fields can be overwritten."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)
        self.directories, at = [], struct.unpack_from("<I", data, 4)[0]
        while at:
            self.directories.append(at)
            at = struct.unpack_from("<I", data, self._next(at))[0]

    def _next(self, at: int) -> int:
        return at + 2 + 12 * struct.unpack_from("<H", self.data, at)[0]

    def link(self, directory: int, to: int) -> None:
        struct.pack_into("<I", self.data, self._next(self.directories[directory]), to)

    def entry(self, tag: int) -> int:
        at = self.directories[0] + 2
        while struct.unpack_from("<H", self.data, at)[0] != tag:
            at += 12
        return at

    def field(self, tag: int, *, kind: int | None = None, count: int | None = None, value: int | None = None) -> None:
        at = self.entry(tag)
        for form, place, new in (("<H", 2, kind), ("<I", 4, count), ("<I", 8, value)):
            if new is not None:
                struct.pack_into(form, self.data, at + place, new)

    def number(self, tag: int, value: int) -> None:
        self.field(tag, kind=4, count=1, value=value)

    def values(self, tag: int) -> tuple[int, int]:
        """Where a tag's values are, and how many."""
        count, place = struct.unpack_from("<II", self.data, self.entry(tag) + 4)
        return place, count

    def tile(self, index: int) -> tuple[int, int]:
        """Offset and length of a tile; tifffile writes both lists as 32-bit numbers or, if short, 16."""
        found = []
        for tag in (OFFSETS, COUNTS):
            place, _ = self.values(tag)
            wide = struct.unpack_from("<H", self.data, self.entry(tag) + 2)[0] == 4
            found.append(struct.unpack_from("<I" if wide else "<H", self.data, place + index * (4 if wide else 2))[0])
        return found[0], found[1]
