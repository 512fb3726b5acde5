"""What a page-table monitor reads entries from: an overlay, a dump, or anything that has `read_u64`.

SPDX-License-Identifier: MIT
"""

import contextlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol, cast
from weakref import WeakKeyDictionary, WeakValueDictionary, finalize

from kdmp._kdmp import DumpBase, KdmpError, OverlayBase, UnsupportedDumpError
from kdmp.monitor_paging import PAGING, Paging
from kdmp.pte import default_layout
from kdmp.reader import Reader

if TYPE_CHECKING:
    from kdmp.dump import Dump
    from kdmp.symbols.mmpte import PteLayout


class TableSource(Protocol):
    """The least that a source of page tables has to have.

    It may also have `dump`, which then tells the default root, the paging mode and the layout of the entries;
    without it `monitor` needs `dtb` and `paging`.
    """

    def read_u64(self, pa: int, /) -> int | None:
        """Return the number of 8 bytes at a physical address; None, or a KdmpError, if it is not there."""


class Listener(Protocol):
    """Who wants to know what was written."""

    def note(self, view: int, units: Iterable[int]) -> None:
        """The 8-byte units at these physical addresses may have changed."""


class Source:
    """Page tables that nobody tells the changes of."""

    def __init__(self, read: Callable[[int], int | None], dump: "Dump | None") -> None:
        self._read = read
        self.dump = dump
        self._spaces: dict[tuple[int | None, str | None], tuple[int, Paging]] = {}

    def read(self, pa: int, size: int) -> int | None:
        """Return the entry of 4 or 8 bytes at `pa`, None if it is not there."""
        try:
            value = self._read(pa & ~7)
        except KdmpError:
            return None
        if value is None or size == 8:
            return value
        return value >> 32 if pa & 4 else value & 0xFFFF_FFFF

    def watch(self, pfn: int) -> None:
        """Have the changes of a frame reported."""

    def unwatch(self, pfn: int) -> None:
        """End it."""

    def drain(self) -> None:
        """Report what has changed."""

    def space(self, dtb: int | None, paging: str | None) -> tuple[int, Paging]:
        """Return the root, without its flags, and the paging mode that `monitor` means."""
        if dtb is not None and not 0 <= dtb < 1 << 64:
            raise OverflowError("a page-table root has 64 bits")
        found = self._spaces.get((dtb, paging))
        if found is None:
            name, root = paging, dtb
            if root is None or name is None:
                if self.dump is None:
                    raise ValueError("this source does not tell them: dtb and paging are needed")
                reader = self.dump.reader(dtb, paging, discover=False)
                name, root = reader.paging, reader.dtb
            mode = PAGING.get(name)
            if mode is None or root is None:
                raise UnsupportedDumpError(f"{name} has no page tables to monitor")
            found = self._spaces[dtb, paging] = root & mode.root_mask, mode
        return found

    def layout(self, paging: str) -> "tuple[PteLayout, int | None]":
        """Return the layout of invalid entries, and the L1TF mask."""
        if self.dump is not None:
            with contextlib.suppress(KdmpError):
                known = self.dump.pte_layout
                if known is not None and known.arch == paging:
                    return known, self.dump.invalid_pte_mask
        return default_layout(paging), None


class OverlaySource(Source):
    """An overlay, which tells what was written."""

    def __init__(self, overlay: OverlayBase, listener: Listener, view: int) -> None:
        super().__init__(_strict(overlay.dump, overlay).read_u64, cast("Dump", overlay.dump))
        self.overlay = overlay
        self._feed = _feed_of(overlay)
        self._feed.listeners[listener] = view
        self._watching: set[int] = set()
        # A monitor that is dropped leaves no watches behind.
        finalize(self, _end_watches, overlay, self._watching).atexit = False

    def watch(self, pfn: int) -> None:
        self.overlay.watch_frame(pfn)
        self._watching.add(pfn)

    def unwatch(self, pfn: int) -> None:
        self._watching.discard(pfn)
        with contextlib.suppress(ValueError, OSError):  # the dump is closed or lost
            self.overlay.unwatch_frame(pfn)

    def drain(self) -> None:
        self._feed.drain()


def _end_watches(overlay: OverlayBase, frames: set[int]) -> None:
    with contextlib.suppress(ValueError, OSError):
        for pfn in frames:
            overlay.unwatch_frame(pfn)


class Feed:
    """Hands what an overlay noted to all monitors on it: it can be taken only once."""

    def __init__(self, overlay: OverlayBase) -> None:
        self._overlay = overlay
        self.listeners: WeakKeyDictionary[Listener, int] = WeakKeyDictionary()

    def drain(self) -> None:
        """Tell the listeners what was written since the last time."""
        units = self._overlay.take_dirty()
        if units:
            for listener, view in list(self.listeners.items()):
                listener.note(view, units)


# By id(): a feed keeps its overlay, so none of these can be that of another one.
_feeds: "WeakValueDictionary[int, Feed]" = WeakValueDictionary()


def _feed_of(overlay: OverlayBase) -> Feed:
    feed = _feeds.get(id(overlay))
    if feed is None:
        feed = _feeds[id(overlay)] = Feed(overlay)
    return feed


def _strict(dump: DumpBase, overlay: OverlayBase | None) -> Reader:
    """Physical memory, read with errors even where faults are collected."""
    reader = Reader(dump, paging="physical", overlay=overlay)
    reader.strict = True
    return reader


def open_source(origin: Any, listener: Listener, view: int) -> Source:
    """Return the Source for an overlay, a dump, or a TableSource; raises TypeError for anything else."""
    if isinstance(origin, OverlayBase):
        return OverlaySource(origin, listener, view)
    if isinstance(origin, DumpBase):
        dump = cast("Dump", origin)
        return Source(_strict(dump, None).read_u64, dump)
    if isinstance(origin, Reader):
        if origin.paging != "physical":
            raise ValueError("page tables are read by physical address: give the dump, or its `phys`")
        return Source(_strict(origin.dump, origin.overlay).read_u64, origin.owner)
    if not callable(getattr(origin, "read_u64", None)):
        raise TypeError(f"{type(origin).__name__} is neither an overlay, nor a dump, nor has it read_u64")
    return Source(origin.read_u64, getattr(origin, "dump", None))
