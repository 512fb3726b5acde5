"""The user memory of a process in large pieces: what its page tables map, and what only its VADs lead to.

A page of a mapped file or image may be in memory while the process has no page table entry for it: the
prototype PTE that the VAD leads to knows the frame. `kdmp.windows.vadpages` answers for one page; this is for
all of them.

SPDX-License-Identifier: MIT
"""

import contextlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from kdmp._kdmp import FormatError, Gap, KdmpError, TranslationError
from kdmp.extract import pieces
from kdmp.reader import Reader
from kdmp.windows.userbase import UserProcess
from kdmp.windows.vadpages import (
    MAX_SUBSECTIONS,
    SECTION_TYPES,
    asks_vad,
    decode_prototype,
    section_runs,
)
from kdmp.windows.vads import Vad, VadProcess, find

if TYPE_CHECKING:
    from kdmp.dump import Progress
    from kdmp.targets import Writable
    from kdmp.windows.imagefile import ExtractedImage, Layout
    from kdmp.windows.session import Windows

__all__ = ["MAX_PROTOTYPES", "ProcessMemory", "Resident"]

MAX_PROTOTYPES = 1 << 22
"""Prototype PTEs of a process that are looked at: views of 16 GiB."""

_PAGE = 0x1000

# Bits that mean the same in all releases.
_VALID, _PROTOTYPE, _TRANSITION = 1, 1 << 10, 1 << 11


@dataclass(frozen=True, slots=True)
class Resident:
    """Pages that are in memory: `size` bytes at `va` are at `pa`."""

    va: int
    pa: int
    size: int

    @property
    def stop(self) -> int:
        """The address behind them."""
        return self.va + self.size


class ProcessMemory:
    """What is read of a process: `read_into` and `missing` as of a Reader.

    Pages of the views `vads` that no page table entry leads to are found when a gap is met there.
    Demand-zero pages are zeros. `cut` says that there were too many prototype PTEs to look at all.
    """

    def __init__(self, process: VadProcess, reader: Reader, vads: Iterable[Vad]) -> None:
        self.reader = reader
        if reader.paging not in ("physical", "triage"):
            self.reader = Reader(reader.dump, **{**reader._arguments(), "zero_fill": True})
            self.reader._ask_vads = reader._ask_vads
            self.reader.strict = True
        self.cut = False
        self._windows: Windows = process.windows
        views = (vad for vad in vads if not vad.private and vad.type_value in SECTION_TYPES)
        self._views = sorted(views, key=lambda vad: vad.start)
        self._starts = [vad.start for vad in self._views]
        self._known: dict[int, list[Resident]] = {}
        self._left = MAX_PROTOTYPES
        self._subsections = [MAX_SUBSECTIONS]  # that may still be looked at

    # ---- as a reader ----

    def read_into(self, va: int, buffer: memoryview) -> int:
        """Fill a buffer up to the first hole and return the count of bytes."""
        got = self.reader.read_into(va, buffer)
        while got < len(buffer):
            run = self._at(va + got)
            if run is None:
                break
            count = min(len(buffer) - got, run.stop - va - got)
            more = self._physical.read_into(run.pa + va + got - run.va, buffer[got : got + count])
            got += more
            if more < count:
                break
            if got < len(buffer):
                got += self.reader.read_into(va + got, buffer[got:])
        return got

    def missing(self, va: int, size: int = 1) -> Gap | None:
        """Return the Gap at an address, None if the byte there can be read."""
        gap = self.reader.missing(va, size)
        if gap is None:
            return None
        stop = gap.address + gap.size
        for run in self.resident(va, stop):
            if run.va <= va:
                return None
            stop = run.va
            break
        return Gap((va, stop - va, gap.reason))

    @cached_property
    def _physical(self) -> Reader:
        return self.reader.physical

    # ---- what is resident ----

    def _at(self, va: int) -> Resident | None:
        return next(self.resident(va, va + 1), None)

    def resident(self, start: int, stop: int) -> Iterator[Resident]:
        """Yield the pages of views between two addresses that are in memory and in the dump, ascending."""
        number = max(bisect_right(self._starts, start) - 1, 0)
        for place in range(number, len(self._views)):
            vad = self._views[place]
            if vad.start >= stop:
                return
            if vad.stop <= start:
                continue
            runs = self._known.get(place)
            if runs is None:
                runs = self._known[place] = list(self._find(vad))
            first = max(bisect_right(runs, start, key=lambda run: run.va) - 1, 0)
            for run in runs[first:]:
                if run.va >= stop:
                    return
                if run.stop > start:
                    yield run

    def _find(self, vad: Vad) -> Iterator[Resident]:
        """The resident pages of a view, those that follow each other in both spaces together."""
        last: Resident | None = None
        for va, pa in self._pages(vad):
            if last is not None and (last.stop, last.pa + last.size) == (va, pa):
                last = Resident(last.va, last.pa, last.size + _PAGE)
                continue
            if last is not None:
                yield last
            last = Resident(va, pa, _PAGE)
        if last is not None:
            yield last

    def _pages(self, vad: Vad) -> Iterator[tuple[int, int]]:
        """Virtual and physical address of the resident pages of a view."""
        layout = self._windows.dump.pte_layout
        width = layout.size if layout is not None else 8
        for start, stop, first in section_runs(vad, self._subsections):
            count = min((stop - start) // _PAGE, self._left)
            self.cut |= count < (stop - start) // _PAGE
            self._left -= count
            for at, value in self._prototypes(first, count, width):
                va = start + (at - first) // width * _PAGE
                try:
                    page = decode_prototype(vad, va, at, value)
                except (KdmpError, OverflowError):
                    continue
                if page.pa is not None and self._counts(va) and self._physical.is_readable(page.pa, _PAGE):
                    yield va, page.pa

    def _counts(self, va: int) -> bool:
        """Whether the page table entry leaves it to the VAD what is at an address."""
        gap = self.reader.missing(va)
        if gap is None or not isinstance(gap.reason, TranslationError):
            return False
        return asks_vad(self.reader, va, gap.reason)

    def _prototypes(self, first: int, count: int, width: int) -> Iterator[tuple[int, int]]:
        """Address and value of the prototype PTEs that may name a frame, of `count` from `first` on."""
        at = first
        try:
            for piece in pieces(self._windows.reader, first, count * width):
                if isinstance(piece, Gap):
                    at += piece.size
                    continue
                data = bytes(piece)
                for offset in range(-(at - first) % width, len(data) - width + 1, width):
                    value = int.from_bytes(data[offset : offset + width], "little")
                    if value & _VALID or value & (_PROTOTYPE | _TRANSITION) == _TRANSITION:
                        yield at + offset, value
                at += len(data)
        except (KdmpError, OverflowError):
            return


def extract_user_image(
    process: UserProcess,
    base: int | None,
    size: int | None,
    where: "Writable",
    layout: "Layout",
    *,
    overwrite: bool,
    progress: "Progress | None",
) -> "ExtractedImage":
    """As `UserModule.extract`, which see."""
    from kdmp.windows.imagefile import extract_image

    reader = process.reader
    if reader is None:
        raise FormatError("the process has no address space: its page-table root is not known")
    vad: Vad | None = None
    if base is not None:
        with contextlib.suppress(KdmpError, OverflowError):  # what the page tables map is there without it
            vad = find(process, base)
    memory = ProcessMemory(process, reader, [] if vad is None else [vad])
    return extract_image(
        memory, reader.dump, base, size, where, layout, overwrite=overwrite, progress=progress
    )
