"""`Reader.mappings` and `mappings_array` over many pages, against the time to read their page tables once.

SPDX-License-Identifier: MIT
"""

import mmap
import random
import statistics
from collections.abc import Iterator
from pathlib import Path

import kdmp
from benchmarks import dumps
from benchmarks.harness import BOUND, OURS, Claim, Loop, Mismatch, Options, Row, time_loops

GIB = 16
SPEED = 20.0  # million pages per second that are to be reached
_CHUNK = 1 << 20


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
    with kdmp.Dump(path) as dump:
        reader = dump.reader()
        for what, window in windows.items():
            _check(reader, spread, window, pieces[window])
            for name, loop in (
                ("mappings", _iterating(reader, spread, window)),
                ("mappings_array", _array(reader, spread, window)),
            ):
                samples = time_loops({OURS: loop, BOUND: _copying(path, spread)}, options.rounds)
                # A range for every page is 40 bytes of results, or an object, for 8 bytes of tables.
                claim = None if window == spread.SINGLE else Claim("value", 1e3 / SPEED)
                yield Row(
                    "mappings",
                    f"{name}, {size} of 4 KB pages, {what}",
                    "ns/page",
                    samples,
                    claim,
                    note=_note(f"{name}, {what}", samples),
                )


def _note(what: str, samples: dict[str, list[float]]) -> str:
    speed, bound = (1e3 / statistics.median(samples[who]) for who in (OURS, BOUND))
    return (
        f"{what}: {speed:,.1f} M pages/s ({speed * 8 / 1e3:.2f} GB/s of page tables); "
        f"bound: copying the tables, {bound:,.0f} M pages/s ({bound * 8 / 1e3:.1f} GB/s)"
    )


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
