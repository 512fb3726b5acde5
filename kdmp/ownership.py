"""Whose memory it is: the processes and kernel modules that frames and addresses belong to.

SPDX-License-Identifier: MIT
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from kdmp._kdmp import KdmpError
from kdmp.mappings import bounds

if TYPE_CHECKING:
    from kdmp.dump import Dump
    from kdmp.reader import Reader
    from kdmp.windows.processes import Process

__all__ = ["Belonging", "Ownership"]

_MOST_PLACES = 1 << 20
_MOST_PROCESSES = 1 << 14
_BUCKET = 9  # places are cut at every 2 MiB, so that a look-up is short
_SHOWN = 8


class Belonging(NamedTuple):
    """A place where memory is mapped: virtual address, the process if it is a user address.

    `name` is the process' name, or the kernel module's and the distance into it ("nt+0x1234"), or that of the
    file that is mapped there; None if nothing is known.
    """

    va: int
    pid: int | None
    name: str | None

    def __str__(self) -> str:
        if self.pid is None:
            return self.name or f"{self.va:#x}"
        return f"{self.pid} {self.name or '?'} {self.va:#x}"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that are known as a dict."""
        return {name: value for name, value in self._asdict().items() if value is not None}


class Ownership:
    """Tells whose memory something in a dump is.

    `reader` is the address space that was searched. In physical memory the page tables of the kernel and of
    all processes answer; they are gone through once, when the first question comes, up to a million places
    (`complete` tells). In the space of one process its VADs do.
    """

    def __init__(self, dump: "Dump", reader: "Reader", process: "Process | None" = None) -> None:
        self._dump = dump
        self._reader = reader
        self._process = process
        self._split = None if reader.paging == "physical" else bounds(reader.paging, 0, None, "kernel")
        self.complete = True
        self._frame = lru_cache(maxsize=1 << 16)(self._look_up)

    def of(self, va: int | None, pa: int | None) -> list[Belonging]:
        """Return the places that memory at a virtual or (if `va` is None) physical address belongs to.

        At most 8 of them; empty if none is known.
        """
        if va is not None:
            return [self._of_virtual(va)]
        if pa is None:
            return []
        offset = pa & 0xFFF
        return [self._named(page + offset, who) for page, who in self._frame(pa >> 12)]

    def _of_virtual(self, va: int) -> Belonging:
        kernel = self._split is None or va >= self._split[0]
        process = self._process
        if kernel or process is None:
            return self._named(va, None)
        return Belonging(va, process.pid, self._vad_name(va) or process.full_name or process.name)

    def _vad_name(self, va: int) -> str | None:
        """The file, or the kind, of what is at a user address of the process."""
        starts, vads = self._vads
        at = bisect_right(starts, va) - 1
        if at < 0 or va > vads[at].end:
            return None
        file: str | None = vads[at].file
        return file.rsplit("\\", 1)[-1] if file else vads[at].kind

    @cached_property
    def _vads(self) -> tuple[list[int], list[Any]]:
        try:
            vads = sorted(self._process.vads(), key=lambda vad: vad.start) if self._process else []
        except KdmpError:
            vads = []
        return [vad.start for vad in vads], vads

    def _named(self, va: int, who: "Process | None") -> Belonging:
        if who is not None:
            return Belonging(va, who.pid, who.full_name or who.name)
        try:
            module = self._dump.windows.module_at(va)
        except KdmpError:
            module = None
        if module is None:
            return Belonging(va, None, None)
        return Belonging(va, None, f"{module.name or hex(module.base)}+{va - module.base:#x}")

    # ---- the way back from frames ----

    def _look_up(self, pfn: int) -> "list[tuple[int, Process | None]]":
        places = self._places
        found: list[tuple[int, int | None]] = []
        at = bisect_left(places, (pfn >> _BUCKET << _BUCKET,))
        while at < len(places) and places[at][0] <= pfn and len(found) < _SHOWN:
            first, last, page, number = places[at]
            if pfn <= last:
                found.append((page + (pfn - first << 12), number))
            at += 1
        # The kernel's last: who looks for an owner means a process.
        found.sort(key=lambda place: (place[1] is None, place[1] or 0))
        return [(page, None if number is None else self._processes[number]) for page, number in found]

    @cached_property
    def _processes(self) -> "list[Process]":
        try:
            return list(self._dump.windows.processes()[:_MOST_PROCESSES])
        except KdmpError:
            return []

    @cached_property
    def _places(self) -> list[tuple[int, int, int, int | None]]:
        """First and last frame, first page, number of the process: everything that is mapped, sorted."""
        places: list[tuple[int, int, int, int | None]] = []
        for number, space, half in self._spaces():
            try:
                window = bounds(space.paging, 0, None, half)
                for extent in space.extents(*(window or ())):
                    if extent.pa is not None:
                        _cut(places, extent.pa, extent.address, extent.size, number)
                    if len(places) > _MOST_PLACES:
                        self.complete = False
                        break
            except KdmpError:
                self.complete = False
        places.sort(key=lambda place: place[:3])
        return places

    def _spaces(self) -> "Iterator[tuple[int | None, Reader, Any]]":
        """The kernel half of the dump's own space, and the user halves of all processes."""
        try:
            yield None, self._dump.reader(view=self._reader.overlay), "kernel"
        except KdmpError:
            self.complete = False
        seen = set()
        for number, process in enumerate(self._processes):
            if process.dtb and process.dtb not in seen:
                seen.add(process.dtb)
                try:
                    yield number, self._dump.reader(process.dtb, view=self._reader.overlay), "user"
                except KdmpError:
                    self.complete = False


def _cut(
    places: list[tuple[int, int, int, int | None]], pa: int, va: int, size: int, number: int | None
) -> None:
    """Add a stretch of frames, cut at the buckets."""
    pfn, end = pa >> 12, pa + size + 0xFFF >> 12
    page = va & -0x1000
    while pfn < end and len(places) <= _MOST_PLACES:
        stop = min(end, (pfn >> _BUCKET) + 1 << _BUCKET)
        places.append((pfn, stop - 1, page, number))
        page += stop - pfn << 12
        pfn = stop
