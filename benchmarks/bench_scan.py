"""Looking for something in all of memory: physical, and through page tables.

The bound is the C library's memmem over the same bytes in a map of the same file, in as many threads. Peers
are given a part of the memory that they search in a moment; what they find there is compared first.

SPDX-License-Identifier: MIT
"""

import mmap
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kdmp
from benchmarks import bounds, claims, contents, dumps, peers
from benchmarks.harness import (
    BOUND,
    BOUND_ONE,
    ONE,
    OURS,
    Claim,
    Loop,
    Mismatch,
    Options,
    Row,
    expect_equal,
    time_loops,
)

GIB = 1 << 30
PAGE = dumps.PAGE
CHUNK = 1 << 20
_MOST = 256 << 20  # much more than the caches hold
_PART = 64 << 20  # of memory, for peers
_SMALL_PART = 4 << 20  # for what they do slowly
_SHORTEST = 6
_TEXTS = re.compile(rb"[\t\x20-\x7e]{%d,}" % _SHORTEST)
_ONE_PATTERN = "one pattern"
_NO_COMPILER = "no C compiler for the bound"


def run(options: Options) -> Iterator[Row]:
    """Yield the rows of this group."""
    if not hasattr(kdmp.Reader, "search"):
        yield Row("scan", _ONE_PATTERN, "ms/GiB", {}, missing={OURS: "this kdmp has no Reader.search"})
        return
    for make in (dumps.bitmap_1g, dumps.full_1g, dumps.ranges_1g):
        machine = make(quick=options.quick)
        path = dumps.ensure(machine, options.directory)
        sides = peers.opened(path, machine.dtb, options.opening)
        with kdmp.Dump(path) as dump, bounds.Bound(dump, path, options.directory) as bound:
            scans = _Scans(options, machine, dump, sides, bound)
            yield from scans.one_pattern()
            if machine.name == "bitmap-1g":
                yield from scans.other_patterns(path)


@dataclass
class _Place:
    """What is searched: physical memory or an address space, from an address on."""

    name: str
    reader: Any
    start: int
    call: str  # what peers call it
    bounded: bool  # as the file has it in one piece, so that memmem is the same work


class _Scans:
    """The scans of one dump."""

    def __init__(
        self,
        options: Options,
        machine: dumps.Machine,
        dump: kdmp.Dump,
        sides: peers.Sides,
        bound: bounds.Bound,
    ) -> None:
        self.options, self.machine, self.dump, self.sides, self.bound = options, machine, dump, sides, bound
        self.size = min(machine.mapped * PAGE, _MOST)
        self.part = min(_PART, self.size)
        reader = dump.reader()
        self.physical = _Place("physical", dump.phys, machine.data_start, "phys_scan", True)
        self.linear = _Place("virtual", reader, dumps.LINEAR, "scan", True)
        self.shuffled = _Place("virtual, shuffled frames", reader, dumps.SHUFFLED, "scan", False)

    def one_pattern(self) -> Iterator[Row]:
        """The needle, in one thread and in two."""
        needle = contents.NEEDLE
        places = [self.physical, self.linear]
        if self.machine.name == "bitmap-1g":
            places.append(self.shuffled)
        for place in places:
            self._check_needle(place, needle)
            claim = Claim("slowdown", 1.25, line=claims.SCANS) if place.bounded else None
            others = self._rivals() if place is self.physical else {}
            theirs = self._theirs(place.call, place.start, needle)
            yield self._row(_ONE_PATTERN, place, needle, [needle], claim, theirs, others)
            if self.machine.name != "bitmap-1g":
                continue
            loops = {OURS: self._ours(place, needle, 2), ONE: self._ours(place, needle, 1)}
            if self.bound.usable and place.bounded:
                loops |= {BOUND: self._memmem([needle], 2), BOUND_ONE: self._memmem([needle], 1)}
            twice = Claim("ratio", 1.8, ONE, claims.TWO_THREADS_SCAN)
            name = f"{_ONE_PATTERN}, {place.name}, 2 threads"
            yield Row("scan", name, "ms/GiB", self._timed(loops), twice, dump=self.machine.name)

    def other_patterns(self, path: Path) -> Iterator[Row]:
        """Several patterns at once, masks, text, pointers, regular expressions, strings; physical memory."""
        place, pattern = self.physical, kdmp.Pattern
        ten = list(contents.many_patterns(100)[::10])
        thousand = list(contents.many_patterns(1000))
        self._check_count(place, ten, self._counted(ten))
        one_by_one = {"memmem, one after the other": self._memmem(ten, 1)} if self.bound.usable else {}
        yield self._row(
            "10 patterns", place, ten, ten[:1], None, self._patterns(ten), one_by_one, "phys_patterns"
        )
        self._check_count(place, thousand, self._counted(ten))
        yield self._row(
            "1000 patterns", place, thousand, ten[:1], None, self._patterns(thousand), {}, "phys_patterns"
        )
        turns = self.size // (contents.POOL_PAGES * PAGE)
        fixed = bytes.fromhex(contents.MASKED.split(" ??")[0])
        for name, what, memmem, found in (
            ("a pattern with a mask", pattern.hex(contents.MASKED), fixed, 2 * turns),
            ("UTF-16 text", pattern.text(contents.TEXT), contents.TEXT.encode("utf-16-le"), turns),
            ("text, any case", pattern.text(contents.TEXT, ignore_case=True), None, turns),
        ):
            self._check_count(place, what, found)
            yield self._row(name, place, what, [memmem] if memmem else [], None, {}, {}, "")
        first, last = 0xFFFF_FFFF_0000_0000, 0xFFFF_FFFF_FFFF_0000
        yield self._row("pointers into a range", place, pattern.pointers(first, last), [], None, {}, {}, "")
        yield from self._expressions(path)

    def _expressions(self, path: Path) -> Iterator[Row]:
        """Regular expressions and strings, against Python's re over a map of the file."""
        place, name = self.physical, self.machine.name
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            offset = bounds.offset(self.dump, self.machine.data_start)

            def matching(expression: "re.Pattern[bytes]", size: int) -> Loop:
                def loop() -> int:
                    for _ in expression.finditer(mapped, offset, offset + size):
                        pass
                    return size

                return loop

            note = "bound: re.finditer over a map of the same file"
            url = re.compile(contents.URL)
            count = sum(1 for _ in url.finditer(mapped, offset, offset + self.size))
            self._check_count(place, url, count)
            theirs = self._theirs("phys_regex", place.start, contents.URL)
            loops = {OURS: self._ours(place, url, 1), BOUND: matching(url, self.size), **theirs}
            missing = self.sides.missing("phys_regex")
            title = "a regular expression, physical"
            yield Row("scan", title, "ms/GiB", self._timed(loops), None, note, missing, name)

            part = min(self.part, self.size)

            def strings() -> int:
                reader, start = place.reader, place.start
                for _ in reader.strings(_SHORTEST, "ascii", start, start + part - 1):
                    pass
                return part

            loops = {OURS: strings, BOUND: matching(_TEXTS, part)}
            missing = self.sides.missing("phys_strings")
            title = f"strings of {_SHORTEST} characters and more, physical"
            yield Row("scan", title, "ms/GiB", self._timed(loops), None, note, missing, name)

    def _row(
        self,
        name: str,
        place: _Place,
        what: Any,
        memmem: Sequence[bytes],
        claim: Claim | None,
        theirs: dict[str, Loop],
        others: dict[str, Loop],
        call: str | None = None,
    ) -> Row:
        """Time a scan; the bound is memmem for one pattern."""
        loops: dict[str, Loop] = {OURS: self._ours(place, what, 1)}
        missing = self.sides.missing(place.call if call is None else call)
        note = ""
        if memmem and place.bounded and self.bound.usable:
            loops[BOUND] = self._memmem(memmem, 1)
            note = "bound: memmem, for one pattern" if name != _ONE_PATTERN else ""
        elif memmem and place.bounded:
            missing = {**missing, BOUND: _NO_COMPILER}
        samples = self._timed({**loops, **theirs, **others})
        return Row(
            "scan", f"{name}, {place.name}", "ms/GiB", samples, claim, note, missing, self.machine.name
        )

    def _timed(self, loops: dict[str, Loop]) -> dict[str, list[float]]:
        options = self.options
        return time_loops(loops, options.rounds, scale=GIB / 1e6, patience=options.patience)

    def _ours(self, place: _Place, what: Any, threads: int) -> Loop:
        search, start, last = place.reader.search, place.start, place.start + self.size - 1

        def loop() -> int:
            for _ in search(what, start, last, threads=threads):
                pass
            return self.size

        return loop

    def _memmem(self, needles: Sequence[bytes], threads: int) -> Loop:
        work = self.bound.find(self.machine.data_start, needles)

        def loop() -> int:
            bounds.shared(work, self.size, threads)
            return self.size

        return loop

    def _rivals(self) -> dict[str, Loop]:
        """memchr for a byte that is rare in this memory, and memcpy."""
        if not self.bound.usable:
            return {}
        rare = min(range(256), key=contents.pool().count)
        find = self.bound.find_byte(self.machine.data_start, rare)
        copy = self.bound.copy(self.machine.data_start, CHUNK)

        def over_all(work: Callable[[int, int], object]) -> Loop:
            def loop() -> int:
                work(0, self.size)
                return self.size

            return loop

        return {"memchr of a rare byte": over_all(find), "memcpy": over_all(copy)}

    def _theirs(self, call: str, start: int, needle: bytes) -> dict[str, Loop]:
        """The peers' scans of a part, if they find in it what kdmp finds."""
        place = self.physical if call.startswith("phys") else self.linear
        what = re.compile(needle) if call == "phys_regex" else needle

        def expected(first: int, size: int, _: bytes) -> list[int]:
            return [match.address for match in place.reader.search(what, first, first + size - 1)]

        self.sides.check(call, [(start, self.part, needle)], expected)
        return {
            name: self._part_of(lambda f=function: f(start, self.part, needle), self.part)  # type: ignore[misc]
            for name, function in self.sides.calls(call).items()
        }

    def _patterns(self, patterns: Sequence[bytes]) -> dict[str, Loop]:
        """The same for several patterns."""
        start, size = self.machine.data_start, min(_SMALL_PART, self.size)
        return {
            name: self._part_of(lambda f=function: f(start, size, patterns), size)  # type: ignore[misc]
            for name, function in self.sides.calls("phys_patterns").items()
        }

    @staticmethod
    def _part_of(call: Callable[[], object], size: int) -> Loop:
        def loop() -> int:
            call()
            return size

        return loop

    def _check_needle(self, place: _Place, needle: bytes) -> None:
        """Every planted needle is found, and nothing else; across pages only where they follow each other."""
        last = place.start + self.size - 1
        found = [match.address - place.start for match in place.reader.search(needle, place.start, last)]
        turn = contents.POOL_PAGES * PAGE
        planted = [match.start() for match in re.finditer(re.escape(needle), contents.pool())]
        expected = [k * turn + at for k in range(self.size // turn) for at in planted]
        if place.bounded:
            expect_equal(f"scan, {place.name}", {"the generator": expected, OURS: found})
        elif len(found) < len(expected) // 2:
            raise Mismatch(f"scan, {place.name}: {len(found)} needles")

    def _check_count(self, place: _Place, what: Any, expected: int) -> None:
        last = place.start + self.size - 1
        found = sum(1 for _ in place.reader.search(what, place.start, last))
        expect_equal(f"matches of {what!r:.60}", {"the generator": expected, OURS: found})

    def _counted(self, patterns: Sequence[bytes]) -> int:
        """How many there are in the data."""
        turns = self.size // (contents.POOL_PAGES * PAGE)
        return turns * sum(contents.pool().count(pattern) for pattern in patterns)
