"""`Dump.pages`: whether a frame is there, and how many there are, must not depend on the dump's size.

The large dump is a contender of its own, so that it takes turns with the small one.

SPDX-License-Identifier: MIT
"""

import random
from collections.abc import Iterator
from typing import Any

import kdmp
from benchmarks import dumps, peers
from benchmarks.harness import LARGE, OURS, PEER, Claim, Loop, Mismatch, Options, Row, time_loops


def run(options: Options) -> Iterator[Row]:
    """Yield the rows of this group."""
    small, large = dumps.bitmap_1g(quick=options.quick), dumps.bitmap_64g(quick=options.quick)
    path = dumps.ensure(small, options.directory)
    # The peer walks all pages for every answer: it is only asked about the small dump.
    parser = peers.plain_kdmp_parser(path)
    missing = {} if parser else {PEER: str(peers.load(PEER))}
    count = options.scaled(200_000)
    with kdmp.Dump(path) as dump, kdmp.Dump(dumps.ensure(large, options.directory)) as large_dump:
        # In the highest GiB of both dumps, the same amount of bitmap is touched: only the dump's
        # size differs. Anywhere in it, the processor's caches have a say.
        for where, claim in (("in the highest GiB", Claim("same", 2)), ("anywhere", None)):
            near = claim is not None
            frames = _check(small, dump.pages, count, near=near)
            loops: dict[str, Loop] = {
                OURS: _contains(dump.pages, frames),
                LARGE: _contains(large_dump.pages, _check(large, large_dump.pages, count, near=near)),
            }
            if parser and not near:
                loops[PEER] = _contains(parser.pages, [pfn * dumps.PAGE for pfn in frames[:10]])
            samples = time_loops(loops, options.rounds)
            name = f"pfn in pages, {where}"
            yield Row("pages", name, "ns", samples, claim, missing=missing, dump=small.name)

        claim = Claim("same", 2)
        loops = {OURS: _length(dump.pages, count), LARGE: _length(large_dump.pages, count)}
        if parser:
            if len(parser.pages) != len(dump.pages):
                raise Mismatch(
                    f"{small.name}: {PEER} counts {len(parser.pages)} pages, not {len(dump.pages)}"
                )
            loops[PEER] = _length(parser.pages, 3)
        samples = time_loops(loops, options.rounds)
        yield Row("pages", "len(pages)", "ns", samples, claim, missing=missing, dump=small.name)


def _check(machine: dumps.Machine, pages: Any, count: int, *, near: bool) -> list[int]:
    """Return `count` frame numbers, some of them absent, after comparing answers with the generator."""
    rng = random.Random(1)
    end = machine.runs[-1][0] + machine.runs[-1][1]
    start = end - (1 << 18) if near else 0
    frames = [rng.randrange(start, end) for _ in range(count)]
    for pfn in frames[:2000]:
        if (pfn in pages) != any(first <= pfn < first + n for first, n in machine.runs):
            raise Mismatch(f"{machine.name}: {pfn:#x} in pages is {pfn in pages}")
    total = sum(n for _, n in machine.runs)
    if len(pages) != total:
        raise Mismatch(f"{machine.name}: {len(pages)} pages, {total} were written")
    return frames


def _contains(pages: Any, frames: list[int]) -> Loop:
    def loop() -> int:
        for frame in frames:
            frame in pages  # noqa: B015
        return len(frames)

    return loop


def _length(pages: Any, times: int) -> Loop:
    def loop() -> int:
        for _ in range(times):
            len(pages)
        return times

    return loop
