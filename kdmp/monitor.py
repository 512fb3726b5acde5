"""The page-table monitor: which addresses lose or gain their page when page tables change.

    ov = dump.overlay()
    monitor = kdmp.PageTableMonitor(ov)
    monitor.monitor(0x7FF6_0000_1000, tag="code")
    ov.reader().write(...)                     # an emulator runs
    for event in monitor.process():
        print(event)                           # PageOut(...), PageIn(...)

SPDX-License-Identifier: MIT
"""

from collections.abc import Container, Hashable
from operator import index
from typing import Any, SupportsIndex

from kdmp._kdmp import AccessContext, OverlayBase
from kdmp.monitor_engine import Engine, Watched
from kdmp.monitor_events import Event, MonitorState, PageIn, PageOut, ProtectionChanged, StateChanged, Unknown
from kdmp.monitor_paging import PAGING, Paging
from kdmp.monitor_source import Source, TableSource, open_source
from kdmp.reader import Reader

__all__ = [
    "Event",
    "MonitorState",
    "PageIn",
    "PageOut",
    "PageTableMonitor",
    "ProtectionChanged",
    "StateChanged",
    "TableSource",
    "Unknown",
]


class PageTableMonitor:
    """Tells which of the monitored addresses lost or gained a page.

    `source` is an overlay, whose writes mark the page table entries that they touch, or a dump or anything
    else that has `read_u64` (see TableSource), of which `advance` gives the next state; a SnapshotSeries is
    one. `process()` looks at the marked entries and returns events: PageOut and PageIn; with `details` (the
    default unless `source` is an overlay) also ProtectionChanged, StateChanged and Unknown.

    The order of events is fixed. Entries are handled from the highest level down, at equal levels by
    address, and the addresses that depend on an entry in the order they came; a page that is exchanged gives
    PageOut, then PageIn. What `details` adds comes behind these, once for each address.

    Addresses of several views (overlays of one dump) may be monitored at once. Entries are taken as the
    processor does: a page that is in transition is not present. Not to be used by several threads at once.
    """

    def __init__(self, source: Any, *, details: bool | None = None) -> None:
        if isinstance(source, Reader) and source.overlay is not None:
            source = source.overlay
        self._engine = Engine(not isinstance(source, OverlayBase) if details is None else bool(details))
        self._origins: dict[int, Any] = {}
        self._default = self._add_view(source)

    def __repr__(self) -> str:
        return (
            f"<kdmp.PageTableMonitor of {len(self)} addresses, {self.paged_in} paged in, "
            f"{self.entries} entries in {self.tables} tables>"
        )

    def __len__(self) -> int:
        return len(self._engine.watched)

    # ---- which addresses ----

    def monitor(
        self,
        va: SupportsIndex | AccessContext,
        dtb: SupportsIndex | None = None,
        *,
        view: Any = None,
        tag: Hashable = None,
        paging: str | None = None,
    ) -> MonitorState:
        """Monitor a virtual address; return its state. There is no event for the state it has already.

        `dtb` is the page-table root (default: the source's), `paging` the mode, `view` an overlay, or its
        number or name (default: the monitor's own source); `tag` is anything hashable, for the events.
        An address that is monitored already gets one more reference and keeps its tag, and its state is the
        one that the last `process()` left.

        A page table that is not there is no error, but the state "unknown". Raises NonCanonicalError, and
        RootNotPresentError or UnsupportedDumpError if the source cannot tell a root or has no page tables.
        """
        number = self._view(view, add=True)
        address, root, mode = self._space(va, dtb, number, paging)
        mode.check(address)
        return self._engine.state_of(self._engine.add(number, address, root, mode, tag))

    def unmonitor(
        self,
        va: SupportsIndex | AccessContext,
        dtb: SupportsIndex | None = None,
        *,
        view: Any = None,
        paging: str | None = None,
    ) -> bool:
        """Give back one reference; with the last the address is forgotten. Return whether it
        was monitored."""
        watched = self._find(va, dtb, view, paging)
        if watched is None:
            return False
        watched.references -= 1
        if watched.references == 0:
            self._engine.remove(watched)
        return True

    def unmonitor_by_force(
        self,
        va: SupportsIndex | AccessContext,
        dtb: SupportsIndex | None = None,
        *,
        view: Any = None,
        paging: str | None = None,
    ) -> bool:
        """Forget an address, however many references it has; return whether it was monitored."""
        watched = self._find(va, dtb, view, paging)
        if watched is not None:
            self._engine.remove(watched)
        return watched is not None

    def unmonitor_all(self) -> None:
        """Forget all addresses and all marks."""
        for watched in list(self._engine.watched.values()):
            self._engine.remove(watched)

    def unmonitor_view(self, view: Any) -> int:
        """Forget all addresses of a view (an overlay or its number), which may be gone; return how many."""
        number = self._view(view, add=False)
        gone = [watched for watched in self._engine.watched.values() if watched.view == number]
        for watched in gone:
            self._engine.remove(watched)
        if number != self._default and number in self._origins:
            del self._origins[number], self._engine.sources[number]
        return len(gone)

    def status(
        self,
        va: SupportsIndex | AccessContext,
        dtb: SupportsIndex | None = None,
        *,
        view: Any = None,
        paging: str | None = None,
    ) -> MonitorState | None:
        """Return the state of an address as the last `process()` left it; None if it is not monitored."""
        watched = self._find(va, dtb, view, paging)
        return None if watched is None else self._engine.state_of(watched)

    # ---- figures ----

    @property
    def tables(self) -> int:
        """How many page-table pages the monitored addresses depend on."""
        return len(self._engine.tables)

    @property
    def entries(self) -> int:
        """How many page table entries the monitored addresses depend on."""
        return len(self._engine.entries)

    @property
    def paged_in(self) -> int:
        """How many monitored addresses have a page."""
        return self._engine.paged_in

    def state(self) -> dict[str, Any]:
        """Everything that is known, as plain values: the figures, the marks that wait, by writer, and for
        each address what `monitor` was given, its references, state and entries, root first."""
        self._engine.drain()
        return {
            "tables": self.tables,
            "entries": self.entries,
            "paged_in": self.paged_in,
            "marked": {writer: len(marks) for writer, marks in sorted(self._engine.marks.items()) if marks},
            "addresses": [self._facts(watched) for watched in self._engine.watched.values()],
        }

    def _facts(self, watched: Watched) -> dict[str, Any]:
        return {
            "view": watched.view,
            "va": watched.va,
            "root": watched.root,
            "paging": watched.paging.name,
            "tag": watched.tag,
            "references": watched.references,
            **self._engine.state_of(watched)._asdict(),
            "chain": [{"level": link.level, "pa": link.pa, "value": link.value} for link in watched.chain],
        }

    # ---- changes ----

    @property
    def writer(self) -> int:
        """Whose the marks of writes through overlays are, from now on: the number of a virtual processor.

        For emulators with several; 0 at first."""
        return self._engine.writer

    @writer.setter
    def writer(self, writer: SupportsIndex) -> None:
        number = index(writer)
        self._engine.drain()
        self._engine.writer = number

    def mark_dirty(self, entry_pa: SupportsIndex, *, view: Any = None, writer: SupportsIndex = 0) -> bool:
        """Mark the page table entry at a physical address as written.

        Return whether it is one that is monitored and was not marked for this writer before. Writes through
        an overlay mark by themselves.
        """
        self._engine.drain()
        return self._engine.mark((self._view(view, add=False), index(entry_pa)), index(writer))

    def process(self, writer: SupportsIndex | None = None) -> list[Event]:
        """Look at the marked entries and return what happened.

        With `writer` only at those that this writer marked. If something raises in the middle (a dump that
        was closed), the remaining marks stay, and the events so far come with the next call.
        """
        self._engine.drain()
        return self._engine.process(None if writer is None else index(writer))

    def advance(
        self, source: Any = None, *, view: Any = None, changed: Container[int] | None = None
    ) -> list[Event]:
        """Go on to the next state of a source and return the events from the last to this one.

        `source` takes the place of the view's; None: the same one says other things now. All entries count
        as marked; with `changed` only those in these frames.
        """
        number = self._view(view, add=False)
        if number not in self._origins:
            raise ValueError(f"nothing of view {number} is monitored")
        if any(origin is source for other, origin in self._origins.items() if other != number):
            raise ValueError("this source is another view")
        engine = self._engine
        engine.drain()
        following = engine.sources[number] if source is None else open_source(source, engine, number)
        engine.replace_source(number, following, changed)
        if source is not None:
            self._origins[number] = source
        return engine.process(None)

    # ---- what is meant ----

    def _view(self, view: Any, *, add: bool) -> int:
        """The number of a view; a new one is added if it may be."""
        if view is None:
            return self._default
        if isinstance(view, OverlayBase):
            for number, origin in self._origins.items():
                if origin is view:
                    return number
            if add:
                return self._add_view(view)
            return -1  # none that is known
        dump = self._engine.sources[self._default].dump
        which = 0 if view is dump else view if isinstance(view, str) else index(view)
        if not isinstance(which, str) and (which in self._origins or not add):
            return which
        try:
            found = dump.views[which] if dump is not None else None
        except KeyError:
            found = None
        if found is None:
            raise ValueError(f"there is no view {view!r}")
        return self._view(found, add=add) if isinstance(which, str) else self._add_view(found, which)

    def _add_view(self, origin: Any, number: int | None = None) -> int:
        if number is None:
            own = getattr(origin, "view", None)
            if own is not None:
                number = index(own)
            elif isinstance(origin, OverlayBase):
                number = max(self._origins, default=0) + 1
            else:
                number = 0
        if number in self._origins:
            raise ValueError(f"view {number} is another one")
        self._engine.sources[number] = open_source(origin, self._engine, number)
        self._origins[number] = origin
        return number

    def _space(
        self, va: SupportsIndex | AccessContext, dtb: SupportsIndex | None, number: int, paging: str | None
    ) -> tuple[int, int, Paging]:
        """Address, root and mode."""
        if isinstance(va, AccessContext):
            if va.physical:
                raise ValueError("a physical address has no page table entries")
            dtb, va = (dtb if va.dtb is None else va.dtb), va.address
        source: Source = self._engine.sources[number]
        return index(va), *source.space(None if dtb is None else index(dtb), paging)

    def _find(
        self, va: SupportsIndex | AccessContext, dtb: SupportsIndex | None, view: Any, paging: str | None
    ) -> Watched | None:
        number = self._view(view, add=False)
        if number not in self._origins:
            return None
        if paging is None:  # whichever it was monitored with, if that is clear
            bare, given = (va.address, va.dtb) if isinstance(va, AccessContext) else (index(va), None)
            root = dtb if given is None else given
            if root is not None:
                keys = [(number, bare, index(root) & mode.root_mask, name) for name, mode in PAGING.items()]
                found = [self._engine.watched[key] for key in keys if key in self._engine.watched]
                if len(found) < 2:
                    return found[0] if found else None
        address, base, mode = self._space(va, dtb, number, paging)
        return self._engine.watched.get((number, address, base, mode.name))
