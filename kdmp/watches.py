"""Watches of an overlay: callbacks for writes to frames and ranges.

They are software: only writes through the overlay and its readers are seen, by whoever makes them (an
emulator that calls them, say). Nothing traps a processor, and reads are not seen.

SPDX-License-Identifier: MIT
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from kdmp._kdmp import KdmpError, Translation, TranslationError
from kdmp.scopes import uncollected

if TYPE_CHECKING:
    from kdmp.overlay import Overlay
    from kdmp.reader import Reader

# callback(overlay, address, size)
Callback: TypeAlias = "Callable[[Overlay, int, int], Any]"

_PAGE = 0x1000
_NARROW = 64  # pages of a physical range that are looked up by frame
MAX_VIRTUAL_PAGES = 1 << 16  # each one is translated whenever page tables are written


class Watch:
    """A callback on a range of addresses, from `Overlay.watch`; `remove` ends it.

    `start`, `size` (bytes) and `reader` (None for physical addresses) say what is watched, `active` whether
    it has not been removed.
    """

    def __init__(
        self, watches: "Watches", start: int, size: int, callback: Callback, reader: "Reader | None"
    ) -> None:
        self.start, self.size, self.callback, self.reader = start, size, callback, reader
        self.active = True
        self._watches = watches
        self._calling = False

    def __repr__(self) -> str:
        space = "physical" if self.reader is None else "virtual"
        return f"<kdmp.Watch {space} {self.start:#x}-{self.start + self.size - 1:#x}>"

    def remove(self) -> None:
        """End the watch; ending it again does nothing."""
        self._watches.remove(self)


class _Part(NamedTuple):
    """Bytes `low` up to `high` of a frame that a watch is on; `base` is the address of byte 0."""

    watch: Watch
    low: int
    high: int
    base: int


class Watches:
    """The watches of one overlay, and by which frames they are found."""

    def __init__(self, overlay: "Overlay") -> None:
        self.all: list[Watch] = []
        self._overlay = overlay
        self._stale = True
        self._single: tuple[Watch, int, int] | None = None  # the only one, if it is physical
        self._frames: dict[int, list[_Part]] = {}
        self._wide: list[tuple[Watch, int, int]] = []  # and first and last address
        self._tables: set[int] = set()  # frames that decide where watched virtual addresses are
        self._shown: dict[int, int] = {}  # of remapped frames: whose content they show

    def add(self, start: int, size: int, callback: Callback, reader: "Reader | None") -> Watch:
        """Begin a watch."""
        if start < 0 or size < 1 or start + size > 1 << 64:
            raise ValueError("a watch needs at least one byte, and a range within 64 bits")
        if reader is not None and (start % _PAGE + size - 1) // _PAGE >= MAX_VIRTUAL_PAGES:
            raise ValueError(f"a virtual range may have at most {MAX_VIRTUAL_PAGES} pages")
        if not callable(callback):
            raise TypeError("the callback must be callable")
        watch = Watch(self, start, size, callback, reader)
        self.all.append(watch)
        self._changed()
        return watch

    def remove(self, watch: Watch) -> None:
        """End a watch."""
        if watch in self.all:
            self.all.remove(watch)
            watch.active = False
            self._changed()

    def clear(self) -> None:
        """End all."""
        for watch in list(self.all):
            self.remove(watch)

    def forget_places(self) -> None:
        """Whole frames have changed: where everything is has to be found out again."""
        self._stale, self._single = True, None

    def _changed(self) -> None:
        self.forget_places()
        self._overlay.on_write = self._on_write if self.all else None

    def on_frame(self, pfn: int) -> list[Watch]:
        """Return the watches that are on bytes of a frame."""
        if self._stale:
            self._find_places()
        stale = self._stale
        found = {id(watch) for watch, _, _ in self._hits([(pfn << 12, _PAGE)])}
        self._stale = stale
        return [watch for watch in self.all if id(watch) in found]

    # ---- where the watched bytes are ----

    def _find_places(self) -> None:
        self._stale = False
        self._single = None
        self._frames.clear()
        self._wide.clear()
        self._tables.clear()
        self._shown = {pfn: target for pfn, target, _ in self._overlay.remaps() if target is not None}
        for watch in self.all:
            pages = (watch.start % _PAGE + watch.size - 1) // _PAGE + 1
            if watch.reader is None and pages > _NARROW:
                self._wide.append((watch, watch.start, watch.start + watch.size - 1))
                continue
            end = watch.start + watch.size
            for page in range(watch.start & ~0xFFF, end, _PAGE):
                pa = page if watch.reader is None else self._locate(watch.reader, page)
                if pa is not None:
                    part = _Part(watch, max(watch.start - page, 0), min(end - page, _PAGE), page)
                    self._frames.setdefault(pa >> 12, []).append(part)
        if len(self.all) == 1 and self.all[0].reader is None and not self._shown:
            (watch,) = self.all
            self._single = watch, watch.start, watch.start + watch.size - 1

    @uncollected
    def _locate(self, reader: "Reader", va: int) -> int | None:
        """The physical address of a page, None if it has none; notes what that depends on."""
        walk: Translation | TranslationError
        pa = None
        try:
            walk = reader.translate(va)
            pa = walk.pa
        except TranslationError as error:
            walk = error
        self._tables.update(entry.pa >> 12 for entry in walk.entries or ())
        if walk.prototype:
            with suppress(KdmpError):  # nor can it be written then
                self._tables.add(reader.translate(walk.prototype).pfn)
        return pa

    # ---- writes ----

    def _on_write(self, reader: Any, address: Any, size: int, places: list[tuple[int, int]]) -> None:
        """Call whom it concerns; their first exception is raised when all have been called."""
        if self._single is not None and len(places) == 1:  # the usual case, quickly
            watch, first, last = self._single
            pa, size = places[0]
            if pa <= last and first < pa + size and watch.active and not watch._calling:
                start = pa if pa > first else first
                watch._calling = True
                try:
                    watch.callback(
                        self._overlay, start, (pa + size if pa + size <= last else last + 1) - start
                    )
                finally:
                    watch._calling = False
            return
        if self._stale:
            self._find_places()
        found = self._hits(places)
        if not found:
            return
        failure: BaseException | None = None
        for watch, start, count in _merged(found):
            try:
                self._call(watch, start, count)
            except BaseException as error:
                if failure is not None:
                    failure.add_note(f"and of another watch: {error!r}")
                failure = failure or error
        if failure is not None:
            raise failure

    def _call(self, watch: Watch, start: int, size: int) -> None:
        if watch._calling or not watch.active:
            return  # it writes to what it watches, or has been removed
        watch._calling = True
        try:
            watch.callback(self._overlay, start, size)
        finally:
            watch._calling = False

    def _everywhere(self, places: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """The places, and those of frames that show the same bytes."""
        for pa, size in places:
            target = self._shown.get(pa >> 12, pa >> 12)
            for pfn in (target, *(pfn for pfn, shown in self._shown.items() if shown == target)):
                yield pfn << 12 | pa & 0xFFF, size

    def _hits(self, places: Iterable[tuple[int, int]]) -> list[tuple[Watch, int, int]]:
        """Which watches are on these bytes: the watch, the first address and the end, in its own terms.

        Notes when they are of a page table that decides where watched bytes are."""
        found = []
        for pa, size in self._everywhere(places) if self._shown else places:
            pfn, low = pa >> 12, pa & 0xFFF
            for watch, first, last, base in self._frames.get(pfn, ()):
                if low < last and first < low + size:
                    start = low if low > first else first
                    found.append((watch, base + start, base + (low + size if low + size < last else last)))
            for watch, first, last in self._wide:
                if pa <= last and first < pa + size:
                    found.append((watch, pa if pa > first else first, min(pa + size, last + 1)))
            if pfn in self._tables:
                self._stale = True
        return found


def _merged(found: list[tuple[Watch, int, int]]) -> list[tuple[Watch, int, int]]:
    """(watch, address, size): what touches is one."""
    merged: list[tuple[Watch, int, int]] = []
    order = {id(watch): k for k, (watch, _, _) in reversed(list(enumerate(found)))}
    for watch, start, end in sorted(found, key=lambda hit: (order[id(hit[0])], hit[1])):
        if merged and merged[-1][0] is watch and start <= merged[-1][1] + merged[-1][2]:
            _, first, size = merged.pop()
            start, end = first, max(end, first + size)
        merged.append((watch, start, end - start))
    return merged
