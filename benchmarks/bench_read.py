"""Reading from Python: 8 bytes, one page, a string of pages.

kdmp_parser reads whole pages only; reading 8 bytes its way is reading the page and slicing.
The bound of sequential reads is a plain copy of the same bytes out of a map of the same file.

SPDX-License-Identifier: MIT
"""

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kdmp
from benchmarks import dumps, peers
from benchmarks.harness import BOUND, OURS, PEER, Claim, Loop, Options, Row, expect_equal, over, time_loops

PAGE = dumps.PAGE
CHUNK = 1 << 20
GIB = 1 << 30


def run(options: Options) -> Iterator[Row]:
    """Yield the rows of this group."""
    machine = dumps.bitmap_1g(quick=options.quick)
    path = dumps.ensure(machine, options.directory)
    parser = peers.open_kdmp_parser(path)
    with kdmp.Dump(path) as dump:
        yield from _small(options, machine, dump, parser)
        yield from _sequential(options, machine, dump, parser, path)


def _small(options: Options, machine: dumps.Machine, dump: kdmp.Dump, parser: Any) -> Iterator[Row]:
    reader = dump.reader()
    missing = {} if parser else {PEER: peers.NOT_INSTALLED}
    addresses = machine.random_addresses(options.scaled(100_000))
    fewer = addresses[: options.scaled(20_000)]
    for va in addresses[:2000]:
        expected = machine.physical(va)
        answers = {"the generator": expected, OURS: reader.read_u64(va), "read": _number(reader.read(va, 8))}
        if parser:
            offset = va % PAGE
            answers[PEER] = _number(parser.read_virtual_page(va)[offset : offset + 8])
        expect_equal(f"8 bytes at {va:#x}", answers)

    theirs: dict[str, Loop] = {PEER: _slices(parser.read_virtual_page, fewer)} if parser else {}
    numbers: dict[str, Loop] = {PEER: _numbers(parser.read_virtual_page, fewer)} if parser else {}
    samples = time_loops({OURS: _sized(reader.read, addresses, 8), **theirs}, options.rounds)
    yield Row("read", "read(va, 8), random", "ns", samples, Claim("ratio", 50), missing=missing)
    samples = time_loops({OURS: over(reader.read_u64, addresses), **numbers}, options.rounds)
    yield Row("read", "read_u64(va), random", "ns", samples, Claim("ratio", 50), missing=missing)

    physical = [machine.physical(va) for va in addresses]
    loops: dict[str, Loop] = {OURS: over(dump.phys.read_u64, physical)}
    if parser:
        loops[PEER] = _physical_numbers(parser.read_physical_page, physical[: len(fewer)])
    yield Row("read", "phys.read_u64(pa), random", "ns", time_loops(loops, options.rounds), missing=missing)

    pages = [va - va % PAGE for va in addresses]
    buffer = bytearray(PAGE)
    page_loops: dict[str, Loop] = (
        {PEER: over(parser.read_virtual_page, pages[: len(fewer)])} if parser else {}
    )
    if parser:
        for va in pages[:100]:
            expect_equal(
                f"page {va:#x}", {OURS: reader.read(va, PAGE), PEER: bytes(parser.read_virtual_page(va))}
            )
    samples = time_loops({OURS: _sized(reader.read, pages, PAGE), **page_loops}, options.rounds)
    yield Row("read", "read(va, 4096), random", "ns", samples, missing=missing)
    samples = time_loops({OURS: _into(reader, pages, buffer), **page_loops}, options.rounds)
    yield Row("read", "read_into(va, page), random", "ns", samples, missing=missing)

    pfns = [pa // PAGE for pa in physical]
    views: dict[str, Loop] = {OURS: over(dump.pages.__getitem__, pfns)}
    if parser:
        views[PEER] = over(parser.read_physical_page, [pfn * PAGE for pfn in pfns[: len(fewer)]])
    yield Row("read", "pages[pfn] (view), random", "ns", time_loops(views, options.rounds), missing=missing)


def _sequential(
    options: Options, machine: dumps.Machine, dump: kdmp.Dump, parser: Any, path: Path
) -> Iterator[Row]:
    """Read a whole window in chunks of 1 MiB; times are milliseconds per GiB."""
    reader = dump.reader()
    missing = {} if parser else {PEER: peers.NOT_INSTALLED}
    size = machine.mapped * PAGE
    run_of_data = next(run for run in dump.pages.runs() if run.pfn == machine.runs[1][0])
    buffer = bytearray(CHUNK)
    target = memoryview(buffer)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        source = memoryview(mapped)[run_of_data.file_offset : run_of_data.file_offset + size]

        def copy() -> int:
            for start in range(0, size, CHUNK):
                target[:] = source[start : start + CHUNK]
            return size

        def copy_new() -> int:
            for start in range(0, size, CHUNK):
                bytes(source[start : start + CHUNK])
            return size

        expect_equal(
            "first MiB of the data",
            {OURS: reader.read_exact(dumps.LINEAR, CHUNK), BOUND: bytes(source[:CHUNK])},
        )
        theirs = {PEER: _whole_pages(parser, dumps.LINEAR, min(size, 16 << 20))} if parser else {}
        for what, window, claim in (
            ("4 KB pages in order", dumps.LINEAR, Claim("slowdown", 2)),
            ("2 MB pages", dumps.LARGE_PAGES, Claim("slowdown", 2)),
            ("4 KB pages shuffled", dumps.SHUFFLED, None),
        ):
            loops: dict[str, Loop] = {OURS: _chunks_into(reader, window, size, buffer), BOUND: copy, **theirs}
            samples = time_loops(loops, options.rounds, scale=GIB / 1e6)
            yield Row("read", f"sequential read_into, {what}", "ms/GiB", samples, claim, missing=missing)
            if window == dumps.LINEAR:
                loops = {OURS: _chunks(reader, window, size), BOUND: copy_new, **theirs}
                samples = time_loops(loops, options.rounds, scale=GIB / 1e6)
                yield Row("read", f"sequential read, {what}", "ms/GiB", samples, claim, missing=missing)
        physical = run_of_data.pfn * PAGE
        loops = {OURS: _chunks_into(dump.phys, physical, size, buffer), BOUND: copy}
        samples = time_loops(loops, options.rounds, scale=GIB / 1e6)
        yield Row("read", "sequential phys.read_into", "ms/GiB", samples, Claim("slowdown", 2))
        source.release()


def _number(data: bytes) -> int:
    return int.from_bytes(data, "little")


def _sized(function: Any, addresses: list[int], size: int) -> Loop:
    def loop() -> int:
        for va in addresses:
            function(va, size)
        return len(addresses)

    return loop


def _into(reader: kdmp.Reader, addresses: list[int], buffer: bytearray) -> Loop:
    def loop() -> int:
        read_into = reader.read_into
        for va in addresses:
            read_into(va, buffer)
        return len(addresses)

    return loop


def _slices(read_page: Any, addresses: list[int]) -> Loop:
    def loop() -> int:
        for va in addresses:
            offset = va & 0xFFF
            read_page(va)[offset : offset + 8]
        return len(addresses)

    return loop


def _numbers(read_page: Any, addresses: list[int]) -> Loop:
    def loop() -> int:
        from_bytes = int.from_bytes
        for va in addresses:
            offset = va & 0xFFF
            from_bytes(read_page(va)[offset : offset + 8], "little")
        return len(addresses)

    return loop


def _physical_numbers(read_page: Any, addresses: list[int]) -> Loop:
    """As `_numbers`; the peer finds physical pages by their first address only."""

    def loop() -> int:
        from_bytes = int.from_bytes
        for pa in addresses:
            offset = pa & 0xFFF
            from_bytes(read_page(pa - offset)[offset : offset + 8], "little")
        return len(addresses)

    return loop


def _chunks(reader: kdmp.Reader, window: int, size: int) -> Loop:
    def loop() -> int:
        for start in range(window, window + size, CHUNK):
            reader.read(start, CHUNK)
        return size

    return loop


def _chunks_into(reader: kdmp.Reader, window: int, size: int, buffer: bytearray) -> Loop:
    def loop() -> int:
        for start in range(window, window + size, CHUNK):
            if reader.read_into(start, buffer) != CHUNK:
                raise AssertionError(f"short read at {start:#x}")
        return size

    return loop


def _whole_pages(parser: Any, window: int, size: int) -> Loop:
    """Return the peer's way to read in sequence: chunks of pages, joined."""

    def loop() -> int:
        read_page = parser.read_virtual_page
        for start in range(window, window + size, CHUNK):
            b"".join([read_page(va) for va in range(start, start + CHUNK, PAGE)])
        return size

    return loop
