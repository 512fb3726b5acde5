"""What an image exports: the names and ordinals of its export directory.

Layout: Microsoft's PE/COFF specification, ".edata". A table of which pages are missing gives what is there.

SPDX-License-Identifier: MIT
"""

import struct
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from kdmp._kdmp import FormatError, KdmpError
from kdmp.windows.entity import Problem
from kdmp.windows.pe import PAGE, ImageMemory

__all__ = ["Export", "ExportTable"]

_MAX_EXPORTS = 1 << 16  # an ordinal has 16 bits
_MAX_NAME = 4096
_MAX_TEXT = 8 << 20  # of all names together
_MAX_PROBES = 1 << 14  # of names that cannot be read, looking one up


@dataclass(frozen=True, slots=True)
class Export:
    """An exported function or variable.

    `name` is None for what is exported by ordinal only, or if the name is not in memory. `rva` and `address`
    say where it is; of a `forwarder` ("NTDLL.RtlFoo") that is the place of this text.
    """

    name: str | None
    ordinal: int
    rva: int
    address: int
    forwarder: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dict."""
        return asdict(self)


class ExportTable:
    """The export directory of an image, at (RVA, size) `directory`.

    Iteration gives all exports by ordinal; `find` looks one up as the loader does. `problems` tells what is
    missing of those read so far. Raises UnreadableError or FormatError if the directory itself is not there.
    """

    def __init__(self, memory: ImageMemory, directory: tuple[int, int]) -> None:
        self._memory = memory
        self._start, self._size = directory
        self._problems: list[Problem] = []
        self._budget = _MAX_TEXT
        fields = struct.unpack("<IIHH7I", memory.exact(self._start, 40))
        self._name, self.ordinal_base, functions, names = fields[4:8]
        self._functions, self._names, self._ordinals = fields[8:11]
        self.function_count = self._limit(functions, "functions")
        self.name_count = self._limit(names, "names")

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What was found missing or wrong so far."""
        return tuple(self._problems)

    def _note(self, why: object, rva: int) -> None:
        problem = Problem("exports", str(why), self._memory.base + rva)
        if problem not in self._problems:
            self._problems.append(problem)

    def _limit(self, count: int, what: str) -> int:
        if count > _MAX_EXPORTS:
            self._note(f"the directory claims {count} {what}, only {_MAX_EXPORTS} are read", self._start)
        return min(count, _MAX_EXPORTS)

    def __repr__(self) -> str:
        return f"<ExportTable {self.function_count} functions, {self.name_count} names>"

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Export]:
        return iter(self.entries)

    @cached_property
    def image_name(self) -> str | None:
        """The image's own name as its linker knew it ("ntoskrnl.exe"), None if it is not in memory."""
        try:
            return self._text(self._name) if self._name else None
        except KdmpError as error:
            self._note(error, self._name)
            return None

    def _text(self, rva: int) -> str:
        if self._budget <= 0:
            raise FormatError("the names are longer than those of any image")
        text = self._memory.string(rva, _MAX_NAME)
        self._budget -= len(text) + 1
        return text.decode("utf-8", "replace")

    # ---- all ----

    @cached_property
    def entries(self) -> tuple[Export, ...]:
        """All exports that can be read, by ordinal and name."""
        names: dict[int, list[str | None]] = {}
        ordinals = self._column(self._ordinals, self.name_count, "H")
        places = self._column(self._names, self.name_count, "I")
        lost = 0
        for place, index in zip(places, ordinals, strict=True):
            if place is None or index is None:
                continue  # its page has been noted
            try:
                name: str | None = self._text(place)
            except KdmpError as error:
                if not lost:
                    self._note(error, place)
                lost += 1
                name = None
            names.setdefault(index, []).append(name)
        if lost > 1:
            self._note(f"{lost} names cannot be read", self._names)
        found = []
        for index, rva in enumerate(self._column(self._functions, self.function_count, "I")):
            if rva:
                found += [self._export(name, index, rva) for name in names.get(index, (None,))]
        found.sort(key=lambda export: (export.ordinal, export.name or ""))
        return tuple(found)

    def _column(self, rva: int, count: int, kind: str) -> list[int | None]:
        """An array of numbers, None where its memory is missing."""
        width = struct.calcsize(kind)
        values: list[int | None] = []
        end = rva + count * width
        while len(values) < count:
            at = rva + len(values) * width
            # To the end of the page, or one number that crosses it.
            size = max(min(end, (at // PAGE + 1) * PAGE) - at, width) // width * width
            try:
                values += struct.unpack(f"<{size // width}{kind}", self._memory.exact(at, size))
            except KdmpError as error:
                self._note(error, at)
                if isinstance(error, FormatError):  # outside the image, and so is the rest
                    size = end - at
                values += [None] * (size // width)
        return values[:count]

    def _export(self, name: str | None, index: int, rva: int) -> Export:
        forwarder = None
        if self._start <= rva < self._start + self._size:
            try:
                forwarder = self._text(rva)
            except KdmpError as error:
                self._note(error, rva)
        return Export(name, self.ordinal_base + index, rva, self._memory.base + rva, forwarder)

    # ---- one ----

    def find(self, name: str | int) -> Export | None:
        """Return the export of this name or ordinal, None if there is none.

        Names are found by binary search, reading a few of them only. UnreadableError if a part of the table
        that may hold it is not in memory.
        """
        if isinstance(name, int):
            index = name - self.ordinal_base
            return self._at(None, index) if 0 <= index < self.function_count else None
        wanted = name.encode("utf-8", "replace")
        low, high, probes = 0, self.name_count, _MAX_PROBES
        while low < high:
            middle = (low + high) // 2
            error: KdmpError | None = None
            # The middle one, or else the nearest that is in memory.
            for number in (*range(middle, high), *range(middle - 1, low - 1, -1)):
                probes -= 1
                if probes < 0:
                    raise FormatError("too much of the export table cannot be read")
                try:
                    place = int.from_bytes(self._memory.exact(self._names + 4 * number, 4), "little")
                    found = self._memory.string(place, _MAX_NAME)
                    break
                except KdmpError as why:
                    error = error or why
            else:
                assert error is not None
                raise error
            if found == wanted:
                index = int.from_bytes(self._memory.exact(self._ordinals + 2 * number, 2), "little")
                return self._at(name, index)
            if found < wanted:
                low = number + 1
            else:
                high = number
        return None

    def _at(self, name: str | None, index: int) -> Export | None:
        if index >= self.function_count:
            return None
        rva = int.from_bytes(self._memory.exact(self._functions + 4 * index, 4), "little")
        return self._export(name, index, rva) if rva else None

    @cached_property
    def _by_rva(self) -> tuple[list[int], list[Export]]:
        own = sorted((e for e in self.entries if e.forwarder is None), key=lambda e: e.rva)
        return [export.rva for export in own], own

    def nearest(self, rva: int) -> Export | None:
        """Return the export at an RVA or the last one below it, None if there is none."""
        places, own = self._by_rva
        at = bisect_right(places, rva)
        return own[at - 1] if at else None
