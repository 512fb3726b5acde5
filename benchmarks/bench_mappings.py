"""`Reader.mappings` and `mappings_array` over many pages, against the time to read their page tables once.

Volatility lists only what the dump holds, so it is asked about a dump with data. MemProcFS gives its list of
everything at once and keeps it: each sample opens the dump anew, and the time of opening is not counted.

SPDX-License-Identifier: MIT
"""

import mmap
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import kdmp
from benchmarks import dumps, peers
from benchmarks.harness import (
    BOUND,
    MEMPROCFS,
    OURS,
    PEER,
    VOLATILITY,
    Claim,
    Loop,
    Mismatch,
    Options,
    Row,
    gc_off,
    interleaved,
    time_loops,
)

GIB = 16
SPEED = 20.0  # million pages per second that are to be reached
_CHUNK = 1 << 20
_NOTE = "bound: copying as many bytes as the lowest tables have"
_NO_LIST = "kdmp_parser has no list of what is mapped"
_ONLY_DATA = "volatility3 lists only pages whose frames the dump holds"


def run(options: Options) -> Iterator[Row]:
    """Yield the rows of this group."""
    spread = dumps.Spread((1 if options.quick else GIB) << 18)
    path = dumps.ensure_spread(spread, options.directory)
    size = f"{spread.pages >> 18} GiB"
    windows = {
        "one range": spread.MERGED,
        "runs of 1 to 15 pages": spread.RUNS,
        "single pages": spread.SINGLE,
    }
    pieces = spread.pieces
    memprocfs, reason = _memprocfs(options, path, spread.dtb)
    yield from _with_data(options)
    with kdmp.Dump(path) as dump:
        reader = dump.reader()
        for what, window in windows.items():
            _check(reader, spread, window, pieces[window])
            for name, loop in (
                ("mappings", _iterating(reader, spread, window)),
                ("mappings_array", _array(reader, spread, window)),
            ):
                loops = {OURS: loop, BOUND: _copying(path, spread)}
                samples = time_loops(loops, options.rounds, patience=options.patience)
                missing = {PEER: _NO_LIST, VOLATILITY: _ONLY_DATA}
                if memprocfs:
                    samples[MEMPROCFS] = memprocfs
                elif reason:
                    missing[MEMPROCFS] = reason
                # A range for every page is 40 bytes of results, or an object, for 8 bytes of tables.
                claim = None if window == spread.SINGLE else Claim("value", 1e3 / SPEED)
                yield Row(
                    "mappings",
                    f"{name}, {size} of 4 KB pages, {what}",
                    "ns/page",
                    samples,
                    claim,
                    note=_NOTE,
                    missing=missing,
                    dump="page tables",
                )


def _with_data(options: Options) -> Iterator[Row]:
    """A window of 4 KB pages, consecutive frames that the dump holds."""
    machine = dumps.full_1g(quick=options.quick)
    path = dumps.ensure(machine, options.directory)
    sides = peers.opened(path, machine.dtb, options.opening)
    size = machine.mapped * dumps.PAGE
    part = min(16 << 20, size)
    sides.check("mappings", [(dumps.LINEAR, part)], lambda first, size: size)
    with kdmp.Dump(path) as dump:
        reader = dump.reader()
        if [one.size for one in reader.mappings(dumps.LINEAR, dumps.LINEAR + size - 1)] != [size]:
            raise Mismatch("mappings: not one range")

        def ours() -> int:
            for _ in reader.mappings(dumps.LINEAR, dumps.LINEAR + size - 1):
                pass
            return machine.mapped

        loops = {OURS: ours}
        for name, function in sides.calls("mappings").items():
            loops[name] = _part(function, part)
        samples = time_loops(loops, options.rounds, patience=options.patience)
    missing = sides.missing("mappings")
    samples[MEMPROCFS], missing[MEMPROCFS] = _memprocfs(options, path, machine.dtb)
    name = f"mappings, {size >> 20} MiB of 4 KB pages, one range"
    yield Row("mappings", name, "ns/page", samples, missing=missing, dump=machine.name)


def _part(function: Callable[[int, int], int], size: int) -> Loop:
    def loop() -> int:
        function(dumps.LINEAR, size)
        return size // dumps.PAGE

    return loop


def _memprocfs(options: Options, path: Path, dtb: int) -> tuple[list[float], str]:
    """Samples of its list of all that is mapped, per page in the list; or why there are none."""
    reason = peers.trial(MEMPROCFS, path, dtb, options.opening)
    if reason:
        return [], reason

    def sample() -> float:
        peer = peers.open_dump(MEMPROCFS, path, dtb)
        try:
            start = time.perf_counter_ns()
            found = peer.calls["all_mappings"]()
            ns = float(time.perf_counter_ns() - start)
        finally:
            peer.close()
        # Its list holds windows of large pages too, whose few entries cost next to nothing.
        pages: int = sum(one["pages"] for one in found if one["va"] < dumps.LARGE_PAGES)
        if not pages:
            raise Mismatch("it lists nothing")
        return ns / pages

    try:
        with gc_off():
            return interleaved({MEMPROCFS: sample}, options.rounds, patience=options.patience)[MEMPROCFS], ""
    except (Mismatch, RuntimeError) as error:
        return [], f"memprocfs, mappings: {error}"


def _bounds(spread: dumps.Spread, window: int) -> tuple[int, int]:
    return window, window + spread.pages * dumps.PAGE - 1


def _iterating(reader: kdmp.Reader, spread: dumps.Spread, window: int) -> Loop:
    first, last = _bounds(spread, window)

    def loop() -> int:
        for _ in reader.mappings(first, last):
            pass
        return spread.pages

    return loop


def _array(reader: kdmp.Reader, spread: dumps.Spread, window: int) -> Loop:
    first, last = _bounds(spread, window)

    def loop() -> int:
        reader.mappings_array(first, last)
        return spread.pages

    return loop


def _copying(path: Path, spread: dumps.Spread) -> Loop:
    """As many bytes as one window's lowest tables have, from the file in the page cache."""
    target = bytearray(_CHUNK)

    def loop() -> int:
        done, size = 0, 8 * spread.pages
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            view = memoryview(data)
            while done < size:
                count = min(_CHUNK, size - done)
                target[:count] = view[done : done + count]
                done += count
            view.release()
        return spread.pages

    return loop


def _check(reader: kdmp.Reader, spread: dumps.Spread, window: int, pieces: int) -> None:
    """The ranges are as many as were made, without a gap, and say what single translations say."""
    found = reader.mappings_array(*_bounds(spread, window))
    ends = found["start"] + found["size"]
    if len(found) != pieces or (ends[:-1] != found["start"][1:]).any():
        raise Mismatch(f"mappings: {len(found)} ranges, not the {pieces} there are")
    if int(found["size"].sum()) != spread.pages * dumps.PAGE:
        raise Mismatch("mappings: not all pages")
    rng = random.Random(window)
    for _ in range(2000):
        va = window + rng.randrange(spread.pages) * dumps.PAGE
        one, page = found[int(found["start"].searchsorted(va, side="right")) - 1], reader.translate(va)
        rights = page.writable * 1 | page.executable * 2 | page.user * 4
        if (rights, page.pa) != (int(one["flags"]), int(one["pa"]) + va - int(one["start"])):
            raise Mismatch(f"mappings: {va:#x} is not as translate says")
