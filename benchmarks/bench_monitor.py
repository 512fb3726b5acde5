"""The page-table monitor: what writing a monitored page table costs, and what finding out costs.

The writes are 8 bytes through `Reader.write_u64` by physical address, into frames that the overlay has copied
already. "On top" is the difference of two loops that took turns, in each round.

SPDX-License-Identifier: MIT
"""

from collections.abc import Iterator

import kdmp
from benchmarks import dumps
from benchmarks.harness import OURS, Claim, Loop, Mismatch, Options, Row, time_loops
from kdmp.monitor import PageTableMonitor

_TABLES = 16


def run(options: Options) -> Iterator[Row]:
    """Yield the rows of this group."""
    machine = dumps.bitmap_1g(quick=options.quick)
    with kdmp.Dump(dumps.ensure(machine, options.directory)) as dump:
        yield _writing(options, machine, dump)
        yield from _processing(options, machine, dump)
        yield _monitoring(options, machine, dump)


def _entries(dump: kdmp.Dump, addresses: list[int]) -> list[tuple[int, int]]:
    """Where the last entry of each address is, and its value."""
    reader = dump.reader()
    found = (reader.translate(va).entries[-1] for va in addresses)
    return [(entry.pa, entry.value) for entry in found]


def _spread(tables: int, pages: int) -> list[int]:
    """The first addresses of `tables` page tables of a window."""
    return [dumps.SHUFFLED + 0x20_0000 * k + 0x1000 * n for k in range(tables) for n in range(pages)]


def _writing(options: Options, machine: dumps.Machine, dump: kdmp.Dump) -> Row:
    overlay = dump.overlay()
    monitor = PageTableMonitor(overlay)
    addresses = _spread(_TABLES, 64)
    entries = _entries(dump, addresses)
    others = _entries(dump, [va + 0x20_0000 * _TABLES for va in addresses])
    for va in addresses:
        monitor.monitor(va)
    count = options.scaled(200_000)
    loops = {
        "monitored": _storing(overlay, entries, count),
        "not monitored": _storing(overlay, others, count),
    }
    samples = time_loops(loops, options.rounds)
    if monitor.state()["marked"] != {0: len(entries)} or monitor.process():
        raise Mismatch("not every entry that was written was marked, or one changed")
    on_top = [a - b for a, b in zip(samples["monitored"], samples["not monitored"], strict=True)]
    return Row(
        "monitor",
        f"a monitored write, on top of the write, {machine.name}",
        "ns",
        {OURS: [max(value, 0.0) for value in on_top], **samples},
        Claim("value", 1000),
    )


def _storing(overlay: kdmp.Overlay, entries: list[tuple[int, int]], count: int) -> Loop:
    work = entries * (count // len(entries) + 1)

    def loop() -> int:
        write = overlay.phys.write_u64
        for pa, value in work:
            write(pa, value)
        return len(work)

    return loop


def _processing(options: Options, machine: dumps.Machine, dump: kdmp.Dump) -> Iterator[Row]:
    """A page out and a page in of one entry, with few and with many other addresses."""
    samples: dict[str, list[float]] = {}
    for tables in (1, _TABLES):
        overlay = dump.overlay()
        monitor = PageTableMonitor(overlay)
        addresses = _spread(tables, 512)
        for va in addresses:
            monitor.monitor(va)
        loop = _out_and_in(overlay, monitor, *_entries(dump, addresses)[0], options.scaled(10_000))
        who = OURS if tables == 1 else f"{len(addresses)} addresses"
        samples[who] = time_loops({who: loop}, options.rounds, scale=1e-3)[who]
    yield Row("monitor", f"write and process() of one event, 512 addresses, {machine.name}", "us", samples)


def _out_and_in(overlay: kdmp.Overlay, monitor: PageTableMonitor, pa: int, value: int, count: int) -> Loop:
    def loop() -> int:
        write, process = overlay.phys.write_u64, monitor.process
        seen = 0
        for _ in range(count):
            write(pa, 0)
            seen += len(process())
            write(pa, value)
            seen += len(process())
        if seen != 2 * count:
            raise Mismatch("a page went and came without events")
        return seen

    return loop


def _monitoring(options: Options, machine: dumps.Machine, dump: kdmp.Dump) -> Row:
    monitor = PageTableMonitor(dump.overlay())
    addresses = _spread(_TABLES, options.scaled(512))

    def loop() -> int:
        for va in addresses:
            monitor.monitor(va)
        if monitor.paged_in != len(addresses):
            raise Mismatch("an address that is mapped has no page")
        monitor.unmonitor_all()
        return len(addresses)

    samples = time_loops({OURS: loop}, options.rounds, scale=1e-3)
    return Row("monitor", f"monitor and unmonitor an address, {machine.name}", "us", samples)
