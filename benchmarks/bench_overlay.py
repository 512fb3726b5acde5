"""Overlays: reading through one without changes, going back to a snapshot, and writes that are watched.

SPDX-License-Identifier: MIT
"""

import time
from collections.abc import Iterator

import kdmp
from benchmarks import dumps
from benchmarks.harness import (
    BOUND,
    OURS,
    Claim,
    Loop,
    Mismatch,
    Options,
    Row,
    gc_off,
    interleaved,
    over,
    time_loops,
)

SLOWER = 1.2  # than the dump itself
DIRTY = 100  # frames
RESTORE = 100.0  # microseconds for them
EXTRA = 1000.0  # nanoseconds on top of a write
_NOTE = "bound: the same read of the dump itself"


def run(options: Options) -> Iterator[Row]:
    """Yield the rows of this group."""
    machine = dumps.bitmap_1g(quick=options.quick)
    with kdmp.Dump(dumps.ensure(machine, options.directory)) as dump:
        yield from _reading(options, machine, dump)
        yield _restoring(options, dump)
        yield from _writing(options, machine, dump)


def _reading(options: Options, machine: dumps.Machine, dump: kdmp.Dump) -> Iterator[Row]:
    addresses = machine.random_addresses(options.scaled(200_000), window=dumps.SHUFFLED)
    numbers = [va & ~7 for va in addresses]
    pages = [va & ~0xFFF for va in addresses[: len(addresses) // 4]]
    near = numbers[: len(numbers) // 100] * 100  # that the caches know
    plain = dump.reader()
    with dump.overlay() as clean, dump.overlay() as dirty:
        for pfn in list(dump.pages[: dump.figures["pfn_end"]])[: 50 * DIRTY : 50]:
            dirty.write_u8(pfn << 12, dirty.phys.read_u8(pfn << 12))
        for what, ov, claim in (
            ("clean", clean, Claim("slowdown", SLOWER)),
            (f"{DIRTY} frames written", dirty, None),
        ):
            reader = ov.reader()
            for name, where in (("read_u64", numbers), ("read_u64, again", near)):
                _same(plain.read_u64, reader.read_u64, where)
                loops = {OURS: over(reader.read_u64, where), BOUND: over(plain.read_u64, where)}
                samples = time_loops(loops, options.rounds)
                yield Row("overlay", f"{name}, {what}", "ns", samples, claim, note=_NOTE)
            loops = {OURS: _whole(reader, pages), BOUND: _whole(plain, pages)}
            samples = time_loops(loops, options.rounds)
            yield Row("overlay", f"read a page, {what}", "ns", samples, claim, note=_NOTE)


def _same(first: object, second: object, where: list[int]) -> None:
    if any(first(va) != second(va) for va in where[:500]):  # type: ignore[operator]
        raise Mismatch("an overlay reads something else than its dump")


def _whole(reader: kdmp.Reader, pages: list[int]) -> Loop:
    def loop() -> int:
        read = reader.read_exact
        for va in pages:
            read(va, 0x1000)
        return len(pages)

    return loop


def _restoring(options: Options, dump: kdmp.Dump) -> Row:
    """Going back after `DIRTY` frames were written, and a thousand others before the snapshot."""
    frames = list(dump.pages[: dump.figures["pfn_end"]])
    count = options.scaled(800)
    with dump.overlay() as ov:
        write, restore = ov.phys.write_u64, ov.restore
        for pfn in frames[2000:3000]:
            write(pfn << 12, 1)
        snapshot = ov.snapshot()
        chosen = [pfn << 12 for pfn in frames[: 50 * DIRTY : 50]]

        def sample() -> float:
            spent = 0
            for _ in range(count):
                for pa in chosen:
                    write(pa, 5)
                start = time.perf_counter_ns()
                restored = restore(snapshot)
                spent += time.perf_counter_ns() - start
                if restored != DIRTY:
                    raise Mismatch(f"{restored} frames were restored, not {DIRTY}")
            return spent / count / 1e3

        with gc_off():
            samples = interleaved({OURS: sample}, options.rounds)
    return Row("overlay", f"restore {DIRTY} written frames", "us", samples, Claim("value", RESTORE))


def _writing(options: Options, machine: dumps.Machine, dump: kdmp.Dump) -> Iterator[Row]:
    """Writes of 8 bytes; the rows with a claim are what a watch adds."""
    numbers = [va & ~7 for va in machine.random_addresses(options.scaled(200_000), window=dumps.SHUFFLED)]
    numbers = numbers[: len(numbers) // 100] * 100
    plain, noted, watched, beside = (dump.overlay() for _ in range(4))
    loops: dict[str, Loop] = {}
    for who, ov in (("plain", plain), ("noted", noted), ("watched", watched), ("beside", beside)):
        reader = ov.reader()
        frames = {reader.translate(va).pfn for va in numbers}
        if who == "noted":
            for pfn in frames:
                ov.watch_frame(pfn)
        elif who == "watched":
            ov.watch(0, None, _nothing)
        elif who == "beside":
            ov.watch(0xFFFF_FFFF_F000, 0x1000, _nothing)
        loops[who] = _writer(reader, numbers)
    samples = time_loops(loops, options.rounds)
    yield Row("overlay", "write_u64", "ns", {OURS: samples["plain"]})
    for who, name in (
        ("noted", "... more, in a frame that a monitor watches"),
        ("beside", "... more, with a watch elsewhere"),
        ("watched", "... more, with a watch and its callback"),
    ):
        extra = [a - b for a, b in zip(samples[who], samples["plain"], strict=True)]
        yield Row("overlay", name, "ns", {OURS: extra}, Claim("value", EXTRA))


def _nothing(overlay: object, address: int, size: int) -> None:
    """The quickest callback."""


def _writer(reader: kdmp.Reader, numbers: list[int]) -> Loop:
    def loop() -> int:
        write = reader.write_u64
        for va in numbers:
            write(va, 5)
        return len(numbers)

    return loop
