"""A search at work: an iterator with progress that can be cancelled.

SPDX-License-Identifier: MIT
"""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from heapq import heappop, heappush
from itertools import islice
from operator import index
from types import GeneratorType, TracebackType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Self, SupportsIndex, TypeAlias, TypeVar, cast

from kdmp._kdmp import KdmpError
from kdmp.dump import Progress
from kdmp.faults import uncollected
from kdmp.mappings import bounds
from kdmp.search_jobs import ORDERS

if TYPE_CHECKING:
    from kdmp.reader import Reader

__all__ = [
    "Batch",
    "Engine",
    "Flag",
    "Hit",
    "Ledger",
    "Scan",
    "Window",
    "merged",
    "place",
    "read",
]

T = TypeVar("T")

_INTERVAL = 1 / 20  # seconds between two calls of `progress`
_COUNTED = 1 << 20  # stretches that are counted for the total
_MOST_THREADS = 256


# A match in the order of results: number of the job, address, number of the pattern, size; physical address
# and place in the file of its first byte; what the engine knows besides. A plain tuple: there may be many.
Hit: TypeAlias = tuple[int, int, int, int, int | None, int | None, Any]


class Batch(NamedTuple):
    """Hits in ascending order; all that lie before `frontier`, (job, address), have been given."""

    frontier: tuple[int, int]
    hits: Sequence[Hit]


class Window(NamedTuple):
    """What is searched: matches that begin in [start, last], in which order, and how."""

    start: int
    last: int
    order: str
    unique: bool
    threads: int


Engine: TypeAlias = Callable[["Scan[Any]", "Ledger"], Generator[Batch, None, None]]


class Flag:
    """Whether a search is to stop; threads look at it."""

    stop = False


_MAX_TABLES = 1 << 23  # as of mappings: each maps 2 MiB and more


class Ledger:
    """What one engine has done: readable bytes searched, page tables visited."""

    def __init__(self, scan: "Scan[Any]") -> None:
        self.done = 0
        self._tables = 0
        overlay = scan.reader.overlay
        frames = scan.reader.owner.figures["pages_available"] + (0 if overlay is None else len(overlay))
        self._most_tables = min(8 * frames + 2048, _MAX_TABLES)
        self._scan = scan

    def count(self, size: int, tables: int = 0) -> None:
        """Add to it. KdmpError for more page tables than there can be."""
        self.done += size
        self._tables += tables
        self._most_tables += 16  # those on the way to where a call begins
        if self._tables > self._most_tables:
            raise KdmpError("the page tables refer to each other without an end")
        self._scan._tell()


class Scan(Generic[T]):
    """A search that is going on: an iterator of what it finds, in order.

    It works while the next result is waited for. `cancel()` may be called by any thread; everything else by
    one at a time. As a context manager, and when it is used up, cancelled or fails, it leaves no thread
    behind; later, when it is collected as garbage, it does so, too.
    """

    def __init__(
        self,
        reader: "Reader",
        start: SupportsIndex,
        last: SupportsIndex | None,
        *,
        order: str,
        unique: bool,
        limit: SupportsIndex | None,
        threads: SupportsIndex,
        progress: Progress | None,
    ) -> None:
        if order not in ORDERS:
            raise ValueError(f'order is "address" or "file", not {order!r}')
        if order == "file" and reader.paging != "physical":
            raise ValueError("only physical memory has an order in the file")
        most = None if limit is None else index(limit)
        workers = index(threads)
        if most is not None and most < 0:
            raise ValueError(f"limit must not be negative, got {most}")
        if not 1 <= workers <= _MOST_THREADS:
            raise ValueError(f"threads must be 1 to {_MOST_THREADS}, not {workers}")
        if reader.owner.io == "file":
            workers = 1  # the file object has one position
        self.reader = reader
        window = bounds(reader.paging, start, last, None)
        low, high = window or (0, 0)
        if not 0 <= low <= high < 1 << 64:
            raise OverflowError(f"{low:#x} to {high:#x} is outside 0 ... 2**64 - 1")
        self.window = Window(low, high, order, unique, workers)
        self._empty = window is None or most == 0
        self._left = most
        self._progress = progress
        self._told = 0.0
        self._ledgers: list[Ledger] = []
        self._total: int | None = None
        self.flag = Flag()
        self._pool: ThreadPoolExecutor | None = None
        self._items: Generator[T, None, None] | None = None
        self._finished = False

    def _engines(self) -> Sequence[Engine]:
        """What searches; all of them at once."""
        raise NotImplementedError

    def _results(self, hits: Sequence[Hit]) -> Iterable[T]:
        """What is given for some hits."""
        raise NotImplementedError

    # ---- the iterator ----

    def __iter__(self) -> Iterator[T]:
        if self._items is None:
            self._items = self._run()
        return self._items

    def __next__(self) -> T:
        return next(iter(self))

    def _run(self) -> Generator[T, None, None]:
        """Give the results; whatever ends it, no thread is left."""
        try:
            if not self._empty:
                yield from self._limited()
            if not self.flag.stop and self._left != 0:
                self._finish()
        finally:
            self._end()

    def _limited(self) -> Generator[T, None, None]:
        engines = self._engines()
        self._ledgers = [Ledger(self) for _ in engines]
        feeds = [engine(self, ledger) for engine, ledger in zip(engines, self._ledgers, strict=True)]
        hits = merged(feeds)
        flag = self.flag
        try:
            for some in hits:
                if self._left is not None:
                    some = some[: self._left]
                    self._left -= len(some)
                for one in self._results(some):
                    if flag.stop:
                        return
                    yield one
                if self._left == 0:
                    return
        finally:
            hits.close()
            for feed in feeds:
                feed.close()

    def _finish(self) -> None:
        """All was searched."""
        self._finished = True
        self._total = self._done()
        if self._progress is not None:
            self._progress(*self.progress)

    # ---- how it goes ----

    @property
    def progress(self) -> tuple[int, int]:
        """(done, total): bytes of readable memory that were searched, and that there are to search.

        The total is exact for physical memory and for triage dumps, as long as that can be counted quickly
        (a million stretches), and an estimate for address spaces: page tables are not walked to their end
        for it. It is never below `done`, and when the search is complete it is `done`.
        """
        done = self._done()
        if self._total is None:
            self._total = self._count_total()
        return done, max(done, self._total)

    @property
    def complete(self) -> bool:
        """Whether everything was searched: False before the end, after `cancel` and at the limit."""
        return self._finished

    @property
    def cancelled(self) -> bool:
        """Whether `cancel`, `close` or an error ended it before it was complete, or at the limit."""
        return self.flag.stop and not self._finished and self._left != 0

    def __repr__(self) -> str:
        state = "complete" if self.complete else "cancelled" if self.cancelled else "at the limit"
        return f"<kdmp.{type(self).__name__} {state if self.flag.stop else 'going on'}>"

    def _done(self) -> int:
        ledgers = self._ledgers
        return sum(ledger.done for ledger in ledgers) // len(ledgers) if ledgers else 0

    def _count_total(self) -> int:
        if self._empty:
            return 0
        extents = self.reader.extents(self.window.start, self.window.last)
        total = 0
        try:
            for extent in islice(extents, _COUNTED):
                total += extent.size
        except KdmpError:  # the search will say it, too
            pass
        return total

    def _tell(self) -> None:
        """Call `progress` if it is time to."""
        if self._progress is not None:
            now = time.monotonic()
            if now - self._told >= _INTERVAL:
                self._told = now
                self._progress(*self.progress)

    # ---- the end ----

    def cancel(self) -> None:
        """End the search soon: after the piece in hand, 16 MiB at most. May be called by any thread."""
        self.flag.stop = True
        pool = self._pool
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """End the search; wait for its threads. Closing again does nothing."""
        self.cancel()
        # While it works, `progress` has called this, and the flag ends it.
        if self._items is not None and not cast("GeneratorType[T, None, None]", self._items).gi_running:
            self._items.close()
            self._end()

    def _end(self) -> None:
        self.flag.stop = True
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)

    def open_pool(self) -> ThreadPoolExecutor:
        """Return the threads of this search."""
        self._pool = pool = ThreadPoolExecutor(self.window.threads, thread_name_prefix="kdmp-search")
        if self.flag.stop:  # `cancel` may not have seen it
            pool.shutdown(wait=False)
        return pool

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_pool"):
            self.cancel()


@uncollected
def read(reader: "Reader", address: int, size: int) -> bytes:
    """Return what `Reader.read` does; where faults are collected, holes are none for a search."""
    return reader.read(address, size)


def place(reader: "Reader", address: int) -> tuple[int | None, int | None]:
    """Return physical address and file offset of an address, None for what it does not have."""
    for extent in reader.extents(address, address):
        return extent.pa, extent.offset
    return None, None


# ---- several engines ----


def merged(feeds: Sequence[Generator[Batch, None, None]]) -> Generator[Sequence[Hit], None, None]:
    """Yield the hits of several engines in one order. They go forward together, by their frontiers."""
    if len(feeds) == 1:
        for batch in feeds[0]:
            if batch.hits:
                yield batch.hits
        return
    waiting: list[Hit] = []
    frontiers = [((-1, 0), number) for number in range(len(feeds))]
    while frontiers:
        _, number = heappop(frontiers)
        for batch in islice(feeds[number], 1):
            for hit in batch.hits:
                heappush(waiting, hit)
            heappush(frontiers, (batch.frontier, number))
        ready = []
        while waiting and (not frontiers or waiting[0][:2] < frontiers[0][0]):
            ready.append(heappop(waiting))
        if ready:
            yield ready
