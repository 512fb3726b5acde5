"""Regular expressions over memory, in pieces that do not show in what is found.

SPDX-License-Identifier: MIT
"""

import re
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

from kdmp.patterns import Pattern
from kdmp.scanning import Batch, Engine, Hit, Ledger, Scan, place, read
from kdmp.search_jobs import jobs

if TYPE_CHECKING:
    from kdmp.reader import Reader

__all__ = ["regex_engine"]

_WINDOW = 16 << 10  # bytes at a time; an expression that goes far is bounded by it


def regex_engine(pattern: Pattern, number: int, alignment: int) -> Engine:
    """Return an engine for a regular expression."""
    expression, most = pattern.expression, pattern.max_match
    assert expression is not None
    assert most is not None

    def engine(scan: Scan[Any], ledger: Ledger) -> Generator[Batch, None, None]:
        reader, window = scan.reader, scan.window
        run = _Run(reader, expression, most)
        for job in jobs(
            reader, window.start, window.last, window.order, unique=window.unique, longest=most, share=None
        ):
            for extent in reader.extents(job.start, job.last):
                run.goes_on(extent.address)
                end = extent.address + extent.size
                counted = extent.address
                while run.next < end and not scan.flag.stop:
                    found = run.window(min(job.last + 1, 1 << 64))
                    hits: list[Hit] = [
                        (job.number, address, number, size, *place(reader, address), None)
                        for address, size in found
                        if address % alignment == 0 and (job.reach is None or address + size > job.reach)
                    ]
                    yield Batch((job.number, run.next), hits)
                    after = max(counted, min(run.next, end))
                    ledger.count(after - counted)
                    counted = after
                if scan.flag.stop:
                    return
                ledger.count(end - counted)
                run.end = end

    return engine


class _Run:
    """Memory of contiguous addresses, looked at window by window.

    A match is what `re.finditer` finds, the memory taken to end `max_match` bytes behind its start. So each
    window has that many bytes more than are searched in it, and as many before, for what looks behind.
    """

    def __init__(self, reader: "Reader", expression: "re.Pattern[bytes]", most: int) -> None:
        self._reader = reader
        self._expression = expression
        self._most = most
        self._size = max(_WINDOW, 4 * most)
        self._begin = 0
        self.end: int | None = None  # contiguous up to here, as far as known
        self.next = 0  # matches that begin before it have been found

    def goes_on(self, address: int) -> None:
        """Begin anew at an address, unless it continues what there was."""
        if address != self.end:
            self._begin = self.next = address

    def window(self, stop: int) -> list[tuple[int, int]]:
        """Return (address, size) of the matches of the next window that begin before `stop`."""
        base = max(self._begin, self.next - self._most)
        limit = self.next + self._size
        data = read(self._reader, base, limit + self._most + 1 - base)
        stop = min(stop, limit, base + len(data))
        found = []
        at = self.next - base
        for start, end in self._spans(data, at, stop - base):
            found.append((base + start, end - start))
            at = end
        self.next = max(stop, base + at, self.next + 1)
        return found

    def _spans(self, data: bytes, at: int, stop: int) -> Iterator[tuple[int, int]]:
        """Matches in `data` that begin from `at` on and before `stop`, none of them empty or too long."""
        again: int | None = at
        while again is not None:
            at, again = again, None
            for match in self._expression.finditer(data, at):
                start, end = match.span()
                if start >= stop:
                    return
                if end - start > self._most:
                    cut = self._expression.match(data, start, start + self._most)
                    if cut is None or cut.end() == start:
                        again = start + 1
                        break
                    end = again = cut.end()
                if end > start:
                    yield start, end
                if again is not None:
                    break
