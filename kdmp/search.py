"""Searching memory: `Reader.search`, and what it gives.

    for match in dump.phys.search([b"MZ\\x90\\0", "lsass.exe", re.compile(rb"https?://[!-~]{4,}")]):
        print(match, match.data)

SPDX-License-Identifier: MIT
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex

from kdmp._kdmp import Matcher
from kdmp.dump import Progress
from kdmp.located import Located
from kdmp.patterns import Pattern, as_patterns, check_alignment
from kdmp.scanning import Engine, Hit, Scan
from kdmp.search_engine import matcher_engine
from kdmp.search_regex import regex_engine

if TYPE_CHECKING:
    from kdmp.reader import Reader

__all__ = ["Match", "Search", "Unread"]

_MOST_RANGES = 64  # of pointers, in one matcher
_SHOWN = 16


class _Match(NamedTuple):
    va: int | None
    pa: int | None
    offset: int | None
    size: int
    pattern: Pattern
    number: int
    encoding: str | None
    reader: "Reader"


class Match(_Match, Located):
    """Memory that a pattern matches.

    `va` is its virtual address (None in physical memory), `pa` the physical one and `offset` the place in the
    file of its first byte (None where there is none), `size` its bytes. `pattern` matched, `number` counts
    the patterns from 0 in the order they were given; `encoding` is that of a text.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        place = f"{self.address:#x}" if self.va is None else f"va {self.va:#x}"
        return f"<Match {place}: {self.size} bytes, {self.pattern!r}>"

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the bytes as plain values, the pattern as text; None is left out."""
        facts = {
            "va": self.va, "pa": self.pa, "offset": self.offset, "size": self.size, "number": self.number,
            "pattern": self.pattern.source, "encoding": self.encoding,
        }  # fmt: skip
        return {name: value for name, value in facts.items() if value is not None}


class Unread(NamedTuple):
    """Mapped memory that was not searched: it cannot be read. `state` is as that of a Mapping."""

    address: int
    size: int
    state: str


class Search(Scan[Match]):
    """A search that is going on: an iterator of Match. Get it from `Reader.search`.

    It works while the next match is waited for. `cancel()` may be called by any thread, everything else by
    one at a time. As a context manager, and when it is used up, cancelled or fails, it leaves no thread.
    """

    def __init__(
        self, reader: "Reader", what: Any, start: SupportsIndex, last: SupportsIndex | None, *,
        alignment: SupportsIndex, order: str, unique: bool, limit: SupportsIndex | None,
        threads: SupportsIndex, progress: Progress | None,
    ) -> None:  # fmt: skip
        super().__init__(
            reader, start, last, order=order, unique=unique, limit=limit, threads=threads, progress=progress
        )
        self.patterns = as_patterns(what)
        self._all = _engines(self.patterns, check_alignment(alignment), reader.pointer_size)
        self._virtual = reader.paging != "physical"

    def _engines(self) -> Sequence[Engine]:
        return self._all

    def _results(self, hits: Sequence[Hit]) -> Iterable[Match]:
        reader, patterns = self.reader, self.patterns
        virtual = self._virtual
        return (
            Match(address if virtual else None, pa, offset, size, patterns[number], number, detail, reader)
            for _, address, number, size, pa, offset, detail in hits
        )

    def unread(self) -> Iterator[Unread]:
        """Yield what is mapped in the part of an address space that is searched, and cannot be read.

        Pages whose frame the dump does not have, paged-out ones, what missing page tables would map. Nothing
        for physical memory and triage dumps, which do not tell what there was.
        """
        from kdmp.search_unread import unread

        return unread(self.reader, self.window.start, self.window.last)


def _engines(patterns: Sequence[Pattern], alignment: int, pointer_size: int) -> list[Engine]:
    """What looks for the patterns: a matcher for those of each alignment, each expression on its own."""
    engines: list[Engine] = []
    sequences: list[Any] = []
    meaning: list[tuple[int, str | None]] = []
    ranges: dict[int, list[tuple[int, tuple[int, int, int]]]] = {}
    for number, pattern in enumerate(patterns):
        if pattern.kind == "regex":
            engines.append(regex_engine(pattern, number, alignment))
        elif pattern.kind == "pointers":
            assert pattern.first is not None
            assert pattern.last is not None
            size = pattern.pointer_size or pointer_size
            top = (1 << 8 * size) - 1
            if pattern.first > top:
                raise ValueError(f"no pointer of {size} bytes is {pattern.first:#x} or more")
            step = max(alignment, pattern.alignment or size)
            values = (pattern.first, min(pattern.last, top), size)
            ranges.setdefault(step, []).append((number, values))
        else:
            for sequence in pattern.sequences:
                sequences.append((sequence.value, sequence.mask))
                meaning.append((number, sequence.encoding))
    if sequences:
        matcher = Matcher(sequences, alignment=alignment)
        engines.append(matcher_engine(matcher, meaning, matcher.longest))
    for step, found in ranges.items():
        for at in range(0, len(found), _MOST_RANGES):
            some = found[at : at + _MOST_RANGES]
            matcher = Matcher(pointers=[values for _, values in some], alignment=step)
            engines.append(matcher_engine(matcher, [(number, None) for number, _ in some], matcher.longest))
    return engines
