"""Comparing the frames of two dumps, against the C library's memcmp over the same mappings.

SPDX-License-Identifier: MIT
"""

import ctypes
import shutil
from collections.abc import Iterator
from pathlib import Path

import kdmp
from benchmarks import dumps
from benchmarks.harness import BOUND, OURS, Claim, Loop, Mismatch, Options, Row, time_loops
from kdmp.series_frames import compare_frames

_EVERY = 1000  # one frame of so many is changed


def run(options: Options) -> Iterator[Row]:
    """Yield the rows of this group."""
    machine = dumps.bitmap_1g(quick=options.quick)
    path = dumps.ensure(machine, options.directory)
    later = _ensure_later(path)
    with kdmp.Dump(path) as first, kdmp.Dump(later) as second:
        diff = compare_frames(first, second)
        changed = list(first.pages)[::_EVERY]
        if list(diff.changed) != changed or diff.changed_bytes != len(changed):
            raise Mismatch(f"{len(diff.changed)} frames differ, not {len(changed)}")
        size = f"{len(first.pages) >> 8} MiB each"
        for threads, claim in ((1, Claim("slowdown", 1.5)), (None, None)):
            loops = {OURS: _comparing(first, second, threads), BOUND: _memcmp(path, first, second, changed)}
            samples = time_loops(loops, options.rounds)
            what = "1 thread" if threads else "all processors"
            yield Row(
                "series",
                f"compare frames, {size}, {what}",
                "ns/page",
                samples,
                claim,
                note="bound: memcmp in one thread",
            )


def _ensure_later(path: Path) -> Path:
    """A copy of the dump with a byte changed in every `_EVERY`-th frame."""

    def write(scratch: Path) -> None:
        shutil.copyfile(path, scratch)
        with kdmp.Dump(path) as dump, open(scratch, "r+b") as file:
            places = {
                run.pfn + k: run.file_offset + k * dumps.PAGE
                for run in dump.pages.runs()
                for k in range(run.count)
            }
            for pfn in list(dump.pages)[::_EVERY]:
                file.seek(places[pfn] + 77)
                file.write(bytes([dump.pages[pfn][77] ^ 1]))

    return dumps._ensure(path.with_name(f"{path.stem}-later.dmp"), write)


def _comparing(first: kdmp.Dump, second: kdmp.Dump, threads: int | None) -> Loop:
    def loop() -> int:
        compare_frames(first, second, threads=threads)
        return len(first.pages)

    return loop


def _memcmp(path: Path, first: kdmp.Dump, second: kdmp.Dump, changed: list[int]) -> Loop:
    """All that is the same, in as long stretches as there are."""
    memcmp = ctypes.CDLL(None).memcmp
    memcmp.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    start = first.figures["first_page"]
    count = len(first.pages)
    bases = [_address(dump) + start for dump in (first, second)]
    stretches = [
        ((at + 1) * dumps.PAGE, (min(at + _EVERY, count) - at - 1) * dumps.PAGE)
        for at in range(0, count, _EVERY)
    ]

    def loop() -> int:
        for offset, size in stretches:
            if memcmp(bases[0] + offset, bases[1] + offset, size):
                raise Mismatch(f"{path}: frames differ that should not")
        return count

    return loop


def _address(dump: kdmp.Dump) -> int:
    """Where the file is mapped."""
    import numpy as np

    return int(np.frombuffer(memoryview(dump), dtype=np.uint8).ctypes.data)
