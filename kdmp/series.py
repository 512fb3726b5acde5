"""A series of dumps of one machine, taken one after the other during one boot: what changed between them.

    with kdmp.SnapshotSeries(["monday.dmp", "tuesday.dmp"]) as series:
        diff = series.diff(0, 1)
        print(diff.frames.changed.runs)
        for process in diff.processes.came:
            print(process)

SPDX-License-Identifier: MIT
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import combinations
from operator import index
from typing import TYPE_CHECKING, Any, Self, SupportsIndex, overload

from kdmp._kdmp import KdmpError, UnreadableError
from kdmp.dump import Dump, Symbols
from kdmp.series_frames import FrameChange, FrameDiff, compare_frames, frame_change
from kdmp.series_identity import (
    Identity,
    Mismatch,
    SeriesError,
    bare_root,
    comparable,
    identify,
    mismatches,
)
from kdmp.series_windows import Changes, module_changes, process_changes, thread_changes

if TYPE_CHECKING:
    from kdmp.windows.modules import Module
    from kdmp.windows.processes import Process
    from kdmp.windows.threads import Thread

__all__ = ["SeriesCursor", "SeriesError", "SnapshotDiff", "SnapshotSeries"]


class SnapshotSeries(Sequence[Dump]):
    """Dumps of one machine and one boot, in the order of time.

    `dumps` are open dumps, or paths, which are opened (with `symbols`, as of `kdmp.open`) and closed with
    the series. Kinds may be mixed: a frame that one dump does not have is just that. What the dumps say
    about machine, boot and time must agree as far as it is known, see `mismatches`; with `check=False` it
    need not. `remarks` (text) names neighbours of which nothing is known that could be compared. `threads`
    is how many compare frames (default: one a processor).

    `series[i]` and iteration give the dumps. The series is also a source for a PageTableMonitor: it reads
    from the dump at `position`, and `events` goes on from dump to dump.

    Raises SeriesError (a ValueError) if the dumps are not of one machine and boot or not in the order of
    time, UnsupportedDumpError for dumps without frames (triage) or with encrypted ones, ValueError without
    any dump; for paths what `kdmp.open` raises.
    """

    def __init__(
        self,
        dumps: Iterable[Dump | str | os.PathLike[str]],
        *,
        check: bool = True,
        threads: SupportsIndex | None = None,
        symbols: Symbols | None = None,
    ) -> None:
        self._dumps: list[Dump] = []
        self._own: list[Dump] = []
        self._threads = threads
        self._checked = check
        try:
            for one in dumps:
                self._dumps.append(one if isinstance(one, Dump) else self._open(one, symbols))
            self._examine(check)
        except BaseException:
            self.close()
            raise
        self._cursor = SeriesCursor(self)

    def _open(self, path: str | os.PathLike[str], symbols: Symbols | None) -> Dump:
        dump = Dump(path, symbols=symbols)
        self._own.append(dump)
        return dump

    def _examine(self, check: bool) -> None:
        if not self._dumps:
            raise ValueError("a series needs at least one dump")
        for dump in self._dumps:
            _ = dump.phys  # raises for dumps without frames
        self.identities: tuple[Identity, ...] = tuple(identify(dump) for dump in self._dumps)
        found = [
            Mismatch(what, old, new, i, j)
            for i, j in combinations(range(len(self._dumps)), 2)
            for what, old, new in mismatches(self.identities[i], self.identities[j])
        ]
        self.mismatches: tuple[Mismatch, ...] = tuple(found)
        self.remarks: list[str] = [
            f"nothing tells whether these are of one machine: dumps {k} and {k + 1} have no fact in common"
            for k in range(len(self._dumps) - 1)
            if not comparable(self.identities[k], self.identities[k + 1])
        ]
        if check and found:
            more = f" (and {len(found) - 4} more)" if len(found) > 4 else ""
            error = SeriesError(
                "these dumps are no series of one machine and boot: " + "; ".join(map(str, found[:4])) + more
            )
            error.mismatches = self.mismatches
            raise error

    def close(self) -> None:
        """Close the dumps that the series opened itself."""
        for dump in self._own:
            dump.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<kdmp.SnapshotSeries of {len(self)} dumps>"

    # ---- the dumps ----

    def __len__(self) -> int:
        return len(self._dumps)

    @overload
    def __getitem__(self, at: int) -> Dump: ...
    @overload
    def __getitem__(self, at: slice) -> list[Dump]: ...
    def __getitem__(self, at: int | slice) -> Dump | list[Dump]:
        return self._dumps[at]

    def __iter__(self) -> Iterator[Dump]:
        return iter(self._dumps)

    # ---- what changed ----

    def diff(self, first: SupportsIndex = 0, second: SupportsIndex = -1) -> "SnapshotDiff":
        """Return what changed between two dumps of the series, by their positions; nothing is compared
        before it is asked for. IndexError if there is no such dump."""
        places = [range(len(self))[index(at)] for at in (first, second)]
        return SnapshotDiff(self, *places)

    def pairs(self) -> Iterator["SnapshotDiff"]:
        """Yield what changed from each dump to the next."""
        return (SnapshotDiff(self, at, at + 1) for at in range(len(self) - 1))

    # ---- for a page-table monitor ----

    @property
    def position(self) -> int:
        """Which dump `read_u64` reads: 0 at first, then as far as `events` came."""
        return self._cursor.position

    @property
    def dump(self) -> Dump:
        """The dump at `position`."""
        return self._cursor.dump

    def read_u64(self, pa: SupportsIndex) -> int | None:
        """Return the number of 8 bytes at a physical address of the dump at `position`, None if it is not
        there."""
        return self._cursor.read_u64(pa)

    def events(self, monitor: Any) -> Iterator[tuple[int, list[Any]]]:
        """Go on from dump to dump; yield the position of each and the events up to it, see SeriesCursor."""
        return self._cursor.events(monitor)

    def monitor_source(self) -> "SeriesCursor":
        """Return a place in the series of its own, at the first dump: for another monitor."""
        return SeriesCursor(self)


class SeriesCursor:
    """A place in a series, and a source of page tables for a PageTableMonitor.

    series = kdmp.SnapshotSeries([a, b, c])
    source = series.monitor_source()
    monitor = kdmp.PageTableMonitor(source)
    monitor.monitor(va, dtb)
    for position, events in source.events(monitor): ...
    """

    def __init__(self, series: SnapshotSeries) -> None:
        self.series = series
        self.position = 0
        self._owners: dict[int, dict[int, tuple[Any, ...]] | None] = {}

    def __repr__(self) -> str:
        return f"<kdmp.SeriesCursor at dump {self.position} of {len(self.series)}>"

    @property
    def dump(self) -> Dump:
        """The dump at `position`."""
        return self.series[self.position]

    def read_u64(self, pa: SupportsIndex) -> int | None:
        """Return the number of 8 bytes at a physical address of this dump, None if it is not there."""
        try:
            return self.dump.phys.read_u64(pa)
        except UnreadableError:
            return None

    def next(self) -> bool:
        """Go on to the next dump; return whether there is one. A monitor has to be told: `advance()`."""
        if self.position + 1 >= len(self.series):
            return False
        self.position += 1
        return True

    def events(self, monitor: Any) -> Iterator[tuple[int, list[Any]]]:
        """Go on from dump to dump; yield the position of each and the monitor's events up to it.

        The monitor must have been made for this source. Each monitored page-table root must belong to the
        same process in the next dump, if that can be told: else the events would be about another one.
        Raises SeriesError for the first that does not, without going on; unmonitor its addresses
        (they are in `monitor.state()`) and go on. A series made with `check=False` does not look.
        """
        while self.position + 1 < len(self.series):
            if self.series._checked:
                self._check_roots({one["root"] for one in monitor.state()["addresses"]})
            self.position += 1
            yield self.position, monitor.advance()

    def _check_roots(self, roots: set[int]) -> None:
        here, there = (self._owners_at(at) for at in (self.position, self.position + 1))
        if here is None or there is None:
            return
        for root in sorted(roots):
            bare = bare_root(self.dump, root)
            old, new = here.get(bare), there.get(bare)
            if old is not None and old != new:
                error = SeriesError(
                    f"the page-table root {root:#x} belongs to process {_owner_text(old)} in dump "
                    f"{self.position} and to {_owner_text(new)} in dump {self.position + 1}"
                )
                what = f"owner of root {root:#x}"
                texts = _owner_text(old), _owner_text(new)
                error.mismatches = (Mismatch(what, *texts, self.position, self.position + 1),)
                raise error

    def _owners_at(self, position: int) -> dict[int, tuple[Any, ...]] | None:
        """By root: EPROCESS, id and creation time of the process in that dump; None: cannot be told."""
        if position not in self._owners:
            self._owners[position] = _owners(self.series[position])
        return self._owners[position]


def _owners(dump: Dump) -> dict[int, tuple[Any, ...]] | None:
    try:
        processes = dump.windows.processes()
    except (KdmpError, OverflowError):
        return None
    found: dict[int, tuple[Any, ...]] = {}
    for process in processes:
        if process.exited:
            continue
        for root in (process.dtb, process.user_dtb):
            if root:
                found.setdefault(bare_root(dump, root), (process.address, process.pid, process.create_time))
    return found or None


def _owner_text(owner: tuple[Any, ...] | None) -> str:
    return "none" if owner is None else f"{owner[1]} ({owner[0]:#x}, created {owner[2] or '?'})"


class SnapshotDiff:
    """What changed between two dumps of a series. Get it from `SnapshotSeries.diff` or `pairs`.

    `first` and `second` are the dumps, `positions` their places in the series. Each part is compared when
    it is asked for, and once.
    """

    def __init__(self, series: SnapshotSeries, first: int, second: int) -> None:
        self.series = series
        self.positions = (first, second)
        self.first, self.second = series[first], series[second]

    def __repr__(self) -> str:
        return f"<kdmp.SnapshotDiff of dumps {self.positions[0]} and {self.positions[1]}>"

    @property
    def seconds(self) -> float | None:
        """Time between the dumps, by uptime or else by system time; None if it is not known."""
        old, new = (self.series.identities[at] for at in self.positions)
        if old.uptime is not None and new.uptime is not None:
            return (new.uptime - old.uptime).total_seconds()
        if old.system_time is not None and new.system_time is not None:
            return (new.system_time - old.system_time).total_seconds()
        return None

    @property
    def mismatches(self) -> tuple[Mismatch, ...]:
        """What speaks against one machine and boot for these two."""
        return tuple(one for one in self.series.mismatches if {one.first, one.second} == set(self.positions))

    @cached_property
    def frames(self) -> FrameDiff:
        """The frames whose content changed, and those that one dump does not have. OSError if a file cannot
        be read."""
        return compare_frames(self.first, self.second, threads=self.series._threads)

    def frame(self, pfn: SupportsIndex) -> FrameChange:
        """Return what became of one frame: which bytes changed, and what the PFN databases say of it."""
        return frame_change(self.first, self.second, pfn)

    @cached_property
    def processes(self) -> "Changes[Process]":
        """The processes that came, went or changed."""
        return process_changes(self.first, self.second)

    @cached_property
    def threads(self) -> "Changes[Thread]":
        """The threads that came, went or changed."""
        return thread_changes(self.first, self.second)

    @cached_property
    def modules(self) -> "Changes[Module]":
        """The kernel's modules that came, went or changed."""
        return module_changes(self.first, self.second)
