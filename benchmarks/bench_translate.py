"""Translations from Python: one address per call, and many at once.

The bound of many at once is a plain C walk through the same tables in a map of the same file.

SPDX-License-Identifier: MIT
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import kdmp
from benchmarks import bounds, claims, dumps, peers
from benchmarks.harness import (
    BOUND,
    BOUND_ONE,
    ONE,
    OURS,
    RAW,
    Claim,
    Loop,
    Mismatch,
    Options,
    Row,
    expect_equal,
    for_a_while,
    over,
    time_loops,
)
from kdmp.many import as_addresses

NOTE = "bound: a plain C walk through the tables in the mapped file, each waiting for the one before"
_WINDOWS = (
    ("random 4 KB page", dumps.SHUFFLED, None),
    ("same 4 KB page", dumps.SHUFFLED, 1),
    ("random 2 MB page", dumps.LARGE_PAGES, None),
)


def run(options: Options) -> Iterator[Row]:
    """Yield the rows of this group."""
    for number, make in enumerate((dumps.bitmap_1g, dumps.full_1g, dumps.ranges_1g, dumps.bitmap_64g)):
        machine = make(quick=options.quick)
        path = dumps.ensure(machine, options.directory)
        sides = peers.opened(path, machine.dtb, options.opening)
        with kdmp.Dump(path) as dump, bounds.Bound(dump, path, options.directory) as bound:
            yield from _one_by_one(options, machine, dump.reader(), sides, bound, all_windows=number == 0)
            yield from _many(options, machine, dump.reader(), sides, bound)


def _one_by_one(
    options: Options,
    machine: dumps.Machine,
    reader: kdmp.Reader,
    sides: peers.Sides,
    bound: bounds.Bound,
    *,
    all_windows: bool,
) -> Iterator[Row]:
    count = options.scaled(200_000)
    for what, window, span in _WINDOWS if all_windows else _WINDOWS[:1]:
        addresses = machine.random_addresses(count, window=window)
        if span:
            addresses = [addresses[0]] * count
        for va in addresses[:2000]:
            expect_equal(
                f"translate({va:#x})",
                {"the generator": machine.physical(va), OURS: reader.translate(va).pa},
            )
        sides.check("translate", addresses[:200], machine.physical)
        loops: dict[str, Loop] = {OURS: over(reader.translate, addresses)}
        for name, function in sides.calls("translate").items():
            loops[name] = for_a_while(function, addresses, options.sample)
        loops |= raw_translate(sides, addresses, machine.dtb)
        if bound.usable:
            loops[BOUND] = bound.one_by_one(machine.dtb, as_addresses(addresses), load=False)
        random_pages = window == dumps.SHUFFLED and not span
        claim = Claim("ratio", claims.SCALAR_RATIO, RAW, claims.SCALAR_TRANSLATE) if random_pages else None
        samples = time_loops(loops, options.rounds, patience=options.patience)
        missing = sides.missing("translate")
        yield Row("translate", f"translate, {what}", "ns", samples, claim, NOTE, missing, machine.name)
        if random_pages and all_windows:
            loops = {OURS: _pa(reader, addresses), **{k: v for k, v in loops.items() if k != OURS}}
            samples = time_loops(loops, options.rounds, patience=options.patience)
            yield Row(
                "translate",
                f"translate(va).pa, {what}",
                "ns",
                samples,
                missing=missing,
                dump=machine.name,
            )


def raw_translate(sides: peers.Sides, addresses: list[int], dtb: int) -> dict[str, Loop]:
    """Return the loop over the translation of kdmp_parser's C++ object, the yardstick of scalar calls."""

    def loop_over(function: Callable[[int, int], object]) -> Loop:
        def loop() -> int:
            for va in addresses:
                function(va, dtb)
            return len(addresses)

        return loop

    functions = list(sides.calls("raw_translate").values())
    return {RAW: loop_over(functions[0])} if functions else {}


def _pa(reader: kdmp.Reader, addresses: list[int]) -> Loop:
    def loop() -> int:
        translate = reader.translate
        for va in addresses:
            translate(va).pa  # noqa: B018
        return len(addresses)

    return loop


def _many(
    options: Options, machine: dumps.Machine, reader: kdmp.Reader, sides: peers.Sides, bound: bounds.Bound
) -> Iterator[Row]:
    """The same addresses in one call, in one thread and in two."""
    addresses = machine.random_addresses(options.scaled(1 << 20))
    vas = as_addresses(addresses)
    expected = [machine.physical(va) for va in addresses]
    if [int(pa) for pa in reader.translate_many(vas).pa] != expected:
        raise Mismatch("translate_many answers something else than the generator")
    out = bounds.as_numbers(bytes(len(vas)))
    theirs: dict[str, Loop] = {}
    for name, function in sides.calls("translate").items():
        theirs[name] = for_a_while(function, addresses, options.sample)
    theirs |= raw_translate(sides, addresses[: options.scaled(200_000)], machine.dtb)
    missing = sides.missing("translate")
    walks: dict[str, Any] = {}
    if bound.usable:
        walks = {name: bound.walk(name, machine.dtb, vas, out) for name in ("translate", "read_u64")}
        walks["translate"](0, len(vas))
        if [int(pa) for pa in out] != expected:
            raise Mismatch("the plain C walk answers something else than the generator")
    else:
        missing = {**missing, BOUND: "no C compiler for the bound"}

    batch = _Batch(options, machine, vas, walks)
    ten = Claim("ratio", 10, RAW, claims.BATCH_RATIO)
    rate = Claim("reach", 40, line=claims.BATCH_RATE)
    yield batch.row("translate", reader.translate_many, (ten, rate), theirs, missing)
    if machine.filled:  # else holes would fill the page cache
        yield batch.row("read_u64", reader.read_u64_many, None, {}, {})
    if machine.name == "bitmap-1g":
        yield batch.two_threads("translate", reader.translate_many, 4)
        yield batch.two_threads("read_u64", reader.read_u64_many, 1)


@dataclass
class _Batch:
    """What is asked of one dump at once."""

    options: Options
    machine: dumps.Machine
    vas: Any
    walks: dict[str, Any]

    def row(
        self,
        name: str,
        call: Callable[..., object],
        claim: tuple[Claim, ...] | None,
        theirs: dict[str, Loop],
        missing: dict[str, str],
    ) -> Row:
        """One thread."""
        loops = {OURS: _calling(call, self.vas, 1), **theirs}
        if name in self.walks:
            loops[BOUND] = _sharing(self.walks[name], len(self.vas), 1)
        return self._timed(f"{name}_many, random 4 KB page", name, loops, claim, missing)

    def two_threads(self, name: str, call: Callable[..., object], times: int) -> Row:
        """Two threads, beside one; `times` as many addresses, so that starting a thread is a small part."""
        count = len(self.vas)
        loops = {OURS: _calling(call, self.vas, 2, times), ONE: _calling(call, self.vas, 1, times)}
        if name in self.walks:
            walk = self.walks[name]
            loops |= {BOUND: _sharing(walk, count, 2, times), BOUND_ONE: _sharing(walk, count, 1, times)}
        claim = Claim("ratio", 1.8, ONE, claims.TWO_THREADS_BATCH)
        return self._timed(f"{name}_many, random 4 KB page, 2 threads", name, loops, (claim,), {})

    def _timed(
        self,
        title: str,
        name: str,
        loops: dict[str, Loop],
        claim: tuple[Claim, ...] | None,
        missing: dict[str, str],
    ) -> Row:
        samples = time_loops(loops, self.options.rounds, patience=self.options.patience)
        note = "bound: a plain C walk through the tables in the mapped file"
        note += " and a load" if name == "read_u64" else ""
        return Row("translate", title, "ns", samples, claim, note, missing, self.machine.name)


def _calling(call: Callable[..., object], vas: Any, threads: int, times: int = 1) -> Loop:
    many = as_addresses(list(vas) * times) if times > 1 else vas

    def loop() -> int:
        call(many, threads=threads)
        return len(many)

    return loop


def _sharing(work: Callable[[int, int], object], count: int, threads: int, times: int = 1) -> Loop:
    def repeated(start: int, stop: int) -> None:
        for _ in range(times):
            work(start, stop)

    def loop() -> int:
        bounds.shared(repeated, count, threads)
        return count * times

    return loop
