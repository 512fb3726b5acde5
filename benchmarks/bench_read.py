"""Reading from Python: 8 bytes, one page, a string of pages.

The bound of sequential reads is memcpy of the same bytes out of a map of the same file; where kdmp makes a
new object of them, the bound makes one too.

SPDX-License-Identifier: MIT
"""

import mmap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import kdmp
from benchmarks import bounds, claims, dumps, peers
from benchmarks.bench_translate import NOTE, raw_translate
from benchmarks.harness import (
    BOUND,
    OURS,
    RAW,
    Claim,
    Loop,
    Options,
    Row,
    expect_equal,
    for_a_while,
    over,
    over_sized,
    time_loops,
)
from kdmp.many import as_addresses

PAGE = dumps.PAGE
GIB = 1 << 30
_EIGHT_TO_ONE = 1.25  # 80 % of the bound
_FEW = 1000
_PYTHON = "slices of a memoryview"
_CHUNKS = ((4 << 10, "4 KB"), (64 << 10, "64 KB"), (1 << 20, "1 MB"))


def run(options: Options) -> Iterator[Row]:
    """Yield the rows of this group."""
    for make in (dumps.bitmap_1g, dumps.full_1g, dumps.ranges_1g, dumps.bitmap_64g):
        machine = make(quick=options.quick)
        path = dumps.ensure(machine, options.directory)
        sides = peers.opened(path, machine.dtb, options.opening)
        with kdmp.Dump(path) as dump, bounds.Bound(dump, path, options.directory) as bound:
            yield from _small(options, machine, dump, sides, bound)
            if machine.filled:
                yield from _sequential(options, machine, dump, sides, path, bound)


def _small(
    options: Options, machine: dumps.Machine, dump: kdmp.Dump, sides: peers.Sides, bound: bounds.Bound
) -> Iterator[Row]:
    """Random reads.

    Of the sparse dump only few places, again and again: the system reads ahead, and every hole that it
    reads becomes pages of the page cache.
    """
    reader = dump.reader()
    everything = machine.name == "bitmap-1g"
    if machine.filled:
        addresses = machine.random_addresses(options.scaled(100_000))
    else:
        addresses = machine.random_addresses(_FEW) * (options.scaled(100_000) // _FEW)
    for va in addresses[:_FEW]:
        expected = machine.word(machine.physical(va))
        answers = {"the generator": expected, OURS: reader.read_u64(va), "read": _number(reader.read(va, 8))}
        expect_equal(f"8 bytes at {va:#x}", answers)
    sides.check("read8", addresses[:200], lambda va: reader.read_exact(va, 8))
    physical = [machine.physical(va) for va in addresses]
    sides.check("phys8", physical[:200], lambda pa: dump.phys.read_exact(pa, 8))
    pages = [va - va % PAGE for va in addresses]
    sides.check("page", pages[:50], lambda va: reader.read_exact(va, PAGE))
    physical_pages = [pa - pa % PAGE for pa in physical]
    sides.check("phys_page", physical_pages[:50], lambda pa: dump.phys.read_exact(pa, PAGE))

    def row(
        name: str,
        ours: Loop,
        what: str,
        arguments: list[int],
        claim: Claim | tuple[Claim, ...] | None = None,
        more: dict[str, Loop] | None = None,
    ) -> Row:
        theirs = {
            who: for_a_while(function, arguments, options.sample)
            for who, function in sides.calls(what).items()
        }
        more = more or {}
        samples = time_loops({OURS: ours, **theirs, **more}, options.rounds, patience=options.patience)
        copied = "the copy of the page" if what == "page" else "a load"
        note = f"{NOTE}; and {copied}" if BOUND in more else ""
        return Row("read", name, "ns", samples, claim, note, sides.missing(what), machine.name)

    fifty = Claim("ratio", 50)
    scalar = Claim("ratio", claims.SCALAR_RATIO, RAW, claims.SCALAR_READ)
    raw = raw_translate(sides, addresses, machine.dtb)
    if bound.usable:
        raw[BOUND] = bound.one_by_one(machine.dtb, as_addresses(addresses), load=True)
    yield row(
        "read_u64(va), random", over(reader.read_u64, addresses), "read8", addresses, (fifty, scalar), raw
    )
    if everything:
        yield row("read(va, 8), random", over_sized(reader.read, addresses, 8), "read8", addresses, fifty)
    paged = Claim("ratio", 50, line=claims.PAGE_READ)
    copying = {BOUND: bound.page_by_page(machine.dtb, as_addresses(pages))} if bound.usable else {}
    yield row("read(va, 4096), random", over_sized(reader.read, pages, PAGE), "page", pages, paged, copying)
    if not everything:
        return
    few = addresses[:1000] * (len(addresses) // 1000)
    yield row("read_u64(va), 1000 addresses again and again", over(reader.read_u64, few), "read8", few)
    yield row("read_into(va, page), random", _into(reader, pages), "page", pages)
    yield row("phys.read_u64(pa), random", over(dump.phys.read_u64, physical), "phys8", physical)
    frames = [pa // PAGE for pa in physical]
    yield row("pages[pfn] (view), random", over(dump.pages.__getitem__, frames), "phys_page", physical_pages)


def _sequential(
    options: Options,
    machine: dumps.Machine,
    dump: kdmp.Dump,
    sides: peers.Sides,
    path: Path,
    bound: bounds.Bound,
) -> Iterator[Row]:
    """Read a window in chunks, much more of it than the caches hold; times are milliseconds per GiB."""
    reader = dump.reader()
    size = min(machine.mapped * PAGE, 256 << 20)
    everything = machine.name == "bitmap-1g"
    claim = Claim("slowdown", _EIGHT_TO_ONE, line=claims.SEQUENTIAL)

    def timed(ours: Loop, limit: Loop | None, theirs: dict[str, Loop]) -> dict[str, list[float]]:
        loops = {OURS: ours, **({BOUND: limit} if limit else {}), **theirs}
        return time_loops(loops, options.rounds, scale=GIB / 1e6, patience=options.patience)

    for chunk, text in _CHUNKS if everything else _CHUNKS[-1:]:
        copying = _copying(bound, machine, size, chunk)
        for what, window, virtual in (
            ("4 KB pages in order", dumps.LINEAR, True),
            ("2 MB pages", dumps.LARGE_PAGES, True),
            ("physical", machine.data_start, False),
            ("4 KB pages shuffled", dumps.SHUFFLED, True),
        ):
            large = chunk == _CHUNKS[-1][0]
            if what not in ("4 KB pages in order", "physical") and not (everything and large):
                continue
            source = reader if virtual else dump.phys
            call = "read" if virtual else "phys_read"
            sides.check(call, [(window, chunk)], source.read_exact)
            theirs = {
                who: _some(function, window, size, chunk, options.sample)
                for who, function in sides.calls(call).items()
            }
            missing = sides.missing(call)
            if not copying:
                missing = {**missing, BOUND: "no C compiler for the bound"}
            samples = timed(_chunks_into(source, window, size, chunk), copying, theirs)
            # The call alone takes more than a fifth of the time in which 4 KB are copied.
            wanted = claim if window != dumps.SHUFFLED and chunk > PAGE else None
            theirs |= {_PYTHON: _view_copying(path, dump, machine, size)} if chunk == PAGE else {}
            yield Row(
                "read",
                f"sequential read_into, {text}, {what}",
                "ms/GiB",
                samples,
                wanted,
                missing=missing,
                dump=machine.name,
            )
            if window == dumps.LINEAR and everything:
                with _Slicing(path, bounds.offset(dump, machine.data_start), size, chunk) as slices:
                    theirs.pop(_PYTHON, None)
                    samples = timed(_chunks(reader, window, size, chunk), slices.loop, theirs)
                yield Row(
                    "read",
                    f"sequential read, {text}, {what}",
                    "ms/GiB",
                    samples,
                    claim,
                    note="bound: a bytes object of the same slice of a map",
                    missing=sides.missing(call),
                    dump=machine.name,
                )


def _copying(bound: bounds.Bound, machine: dumps.Machine, size: int, chunk: int) -> Loop | None:
    if not bound.usable:
        return None
    copy = bound.copy(machine.data_start, chunk)

    def loop() -> int:
        copy(0, size)
        return size

    return loop


def _view_copying(path: Path, dump: kdmp.Dump, machine: dumps.Machine, size: int) -> Loop:
    """What Python itself does: copy slices of a memoryview of the map, a page at a time."""
    start = bounds.offset(dump, machine.data_start)
    buffer = memoryview(bytearray(PAGE))

    def loop() -> int:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            view = memoryview(mapped)
            for at in range(start, start + size, PAGE):
                buffer[:] = view[at : at + PAGE]
            view.release()
        return size

    return loop


class _Slicing:
    """The loop that makes new objects of slices of a map."""

    def __init__(self, path: Path, start: int, size: int, chunk: int) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        mapped = self._map

        offsets = list(range(start, start + size, chunk))

        def loop() -> int:
            for at in offsets:
                mapped[at : at + chunk]
            return size

        self.loop = loop

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._map.close()


def _number(data: bytes) -> int:
    return int.from_bytes(data, "little")


def _into(reader: kdmp.Reader, addresses: list[int]) -> Loop:
    buffer = bytearray(PAGE)

    def loop() -> int:
        read_into = reader.read_into
        for va in addresses:
            read_into(va, buffer)
        return len(addresses)

    return loop


def _chunks(reader: kdmp.Reader, window: int, size: int, chunk: int) -> Loop:
    # Made before: range() over addresses of the kernel half adds up large ints at each step.
    addresses = list(range(window, window + size, chunk))

    def loop() -> int:
        read = reader.read
        for start in addresses:
            read(start, chunk)
        return size

    return loop


def _chunks_into(reader: Any, window: int, size: int, chunk: int) -> Loop:
    buffer = bytearray(chunk)
    addresses = list(range(window, window + size, chunk))

    def loop() -> int:
        read_into = reader.read_into
        for start in addresses:
            if read_into(start, buffer) != chunk:
                raise AssertionError(f"short read at {start:#x}")
        return size

    return loop


def _some(read: Callable[[int, int], Any], window: int, size: int, chunk: int, seconds: float) -> Loop:
    """Return a peer's loop over as many chunks as it reads in that time."""
    chunks = for_a_while(lambda at: read(at, chunk), list(range(window, window + size, chunk)), seconds)
    return lambda: chunks() * chunk
