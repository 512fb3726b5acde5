"""What the core looks for in memory: bytes, pointers and texts, piece by piece or in several threads.

SPDX-License-Identifier: MIT
"""

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from kdmp.scanning import Batch, Engine, Flag, Hit, Ledger, Scan
from kdmp.search_jobs import Job, jobs

if TYPE_CHECKING:
    from kdmp._kdmp import Matcher
    from kdmp.reader import Reader

__all__ = ["matcher_engine"]

_SLICE = 16 << 20  # bytes between two looks at whether to stop
_BUNCH = 4096  # matches at a time
_SHARE = 16 << 20  # bytes that a thread takes
_HELD = 1 << 16  # matches that a thread collects before it pauses


class _Part(NamedTuple):
    """What a thread has found of a job, and where the rest of it begins."""

    job: Job
    hits: list[Hit]
    next: int | None
    size: int
    tables: int


def matcher_engine(matcher: "Matcher", meaning: Sequence[tuple[int, Any]], longest: int) -> Engine:
    """Return an engine for the patterns of a matcher: `meaning` has number and detail of each."""

    def look(reader: "Reader", job: Job, at: int, most: int) -> _Part:
        """Search a slice of a job from `at` on."""
        scanned = reader.scan(matcher, at, job.last, limit=most, budget=_SLICE)
        order, reach = job.number, job.reach
        hits = [
            (order, address, meaning[which][0], size, pa, offset, meaning[which][1])
            for address, pa, offset, size, which in scanned.matches
            if reach is None or address + size > reach
        ]
        return _Part(job, hits, scanned.next, scanned.size, scanned.tables)

    def work(reader: "Reader", flag: Flag, job: Job, at: int) -> _Part:
        """Search a job from `at` on until there is much to give."""
        hits: list[Hit] = []
        size = tables = 0
        after: int | None = at
        while after is not None and len(hits) < _HELD and not flag.stop:
            part = look(reader, job, after, _HELD)
            hits += part.hits
            after, size, tables = part.next, size + part.size, tables + part.tables
        return _Part(job, hits, after, size, tables)

    def parts(scan: "Scan[Any]") -> Iterator[_Part]:
        window = scan.window
        most = _BUNCH if scan._left is None else max(1, min(_BUNCH, scan._left))
        share = None if window.threads == 1 else _SHARE
        todo = jobs(
            scan.reader, window.start, window.last, window.order,
            unique=window.unique, longest=longest, share=share,
        )  # fmt: skip
        if window.threads == 1:
            for job in todo:
                at: int | None = job.start
                while at is not None and not scan.flag.stop:
                    part = look(scan.reader, job, at, most)
                    yield part
                    at = part.next
            return
        pool = scan.open_pool()
        shared = scan.reader, scan.flag  # not `scan`: its threads do not keep it alive
        ahead: deque[Future[_Part]] = deque()
        try:
            while not scan.flag.stop:
                for job in islice(todo, 2 * window.threads - len(ahead)):
                    ahead.append(pool.submit(work, *shared, job, job.start))
                if not ahead:
                    return
                part = ahead.popleft().result()
                if part.next is not None:
                    ahead.appendleft(pool.submit(work, *shared, part.job, part.next))
                yield part
        except (CancelledError, RuntimeError):
            if not scan.flag.stop:  # else the pool was closed by `cancel`
                raise
        finally:
            for future in ahead:
                future.cancel()

    def engine(scan: "Scan[Any]", ledger: Ledger) -> Generator[Batch, None, None]:
        for part in parts(scan):
            ledger.count(part.size, part.tables)
            after = part.job.last + 1 if part.next is None else part.next
            part.hits.sort()  # the matcher has encodings of one text as several patterns
            yield Batch((part.job.number, after), part.hits)

    return engine
