"""Which frames were met, and which of them side by side.

SPDX-License-Identifier: MIT
"""

from collections.abc import Iterator

__all__ = ["Frames"]

_CHUNK = 1 << 12
_MOST_JOINS = 1 << 20


class _Flags:
    """A flag for each of very many numbers; takes memory where one is set."""

    def __init__(self) -> None:
        self._chunks: dict[int, bytearray] = {}

    def runs(self, first: int, count: int) -> Iterator[tuple[int, int, bool]]:
        """Yield (number, count, whether they are set) of the runs of equal flags."""
        while count:
            at = first % _CHUNK
            most = min(count, _CHUNK - at)
            chunk = self._chunks.get(first // _CHUNK)
            isset = chunk is not None and chunk[at] != 0
            stop = -1 if chunk is None else chunk.find(b"\0" if isset else b"\1", at, at + most)
            size = most if stop < 0 else stop - at
            yield first, size, isset
            first, count = first + size, count - size

    def set(self, first: int, count: int) -> None:
        """Set the flags of `count` numbers."""
        while count > 0:
            at = first % _CHUNK
            size = min(count, _CHUNK - at)
            chunk = self._chunks.setdefault(first // _CHUNK, bytearray(_CHUNK))
            chunk[at : at + size] = b"\1" * size
            first, count = first + size, count - size


class Frames:
    """The frames met so far, and the pairs of frames met side by side.

    Takes up to two bytes for each frame between 0 and the highest, in chunks where one was met. Of pairs
    that are no neighbours in physical memory a million are remembered.
    """

    def __init__(self) -> None:
        self._met = _Flags()
        self._followed = _Flags()  # frames met with their neighbour behind them
        self._joins: set[tuple[int, int]] = set()

    def add(self, pfn: int, count: int) -> Iterator[tuple[int, int, bool]]:
        """Meet frames that follow each other; yield them as (pfn, count, whether they are new).

        Old ones come apart where they were not met side by side: ask `join` about neighbours.
        """
        for first, size, old in self._met.runs(pfn, count):
            if not old:
                self._met.set(first, size)
                self._followed.set(first, size - 1)
                yield first, size, True
                continue
            begin = first
            for at, some, together in self._followed.runs(first, size - 1):
                if not together:
                    for single in range(at, at + some):
                        yield begin, single + 1 - begin, False
                        begin = single + 1
            yield begin, first + size - begin, False

    def join(self, before: int | None, after: int | None) -> bool:
        """Meet two frames side by side; return whether that is new. None is what has no frame."""
        if before is None or after is None:
            return True
        if before + 1 == after:
            new = not next(self._followed.runs(before, 1))[2]
            self._followed.set(before, 1)
            return new
        if (before, after) in self._joins:
            return False
        if len(self._joins) < _MOST_JOINS:
            self._joins.add((before, after))
        return True
