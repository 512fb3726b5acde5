"""`Reader.translate` from Python, one address per call.

SPDX-License-Identifier: MIT
"""

from collections.abc import Iterator

import kdmp
from benchmarks import dumps, peers
from benchmarks.harness import OURS, PEER, Claim, Loop, Options, Row, expect_equal, over, time_loops
from kdmp.many import as_addresses

RAW = "kdmp_parser (raw)"


def run(options: Options) -> Iterator[Row]:
    """Yield the rows of this group."""
    quick = options.quick
    yield from _translating(options, dumps.bitmap_1g(quick=quick), Claim("ratio", 1.5))
    yield from _translating(options, dumps.full_1g(quick=quick), None)
    yield from _translating(options, dumps.bitmap_64g(quick=quick), None)


def _translating(options: Options, machine: dumps.Machine, claim: Claim | None) -> Iterator[Row]:
    path = dumps.ensure(machine, options.directory)
    parser = peers.open_kdmp_parser(path)
    missing = {} if parser else {PEER: peers.NOT_INSTALLED}
    with kdmp.Dump(path) as dump:
        reader = dump.reader()
        count = options.scaled(200_000)
        for what, window, span in (
            ("random 4 KB page", dumps.SHUFFLED, None),
            ("same 4 KB page", dumps.SHUFFLED, 1),
            ("random 2 MB page", dumps.LARGE_PAGES, None),
        ):
            addresses = machine.random_addresses(count, window=window)
            if span:
                addresses = [addresses[0]] * count
            _check(machine, reader, parser, addresses[:2000])
            loops: dict[str, Loop] = {OURS: over(reader.translate, addresses)}
            if parser:
                loops[PEER] = over(parser.translate_virtual, addresses)
                raw = peers.raw_kdmp_parser(parser)
                if raw is not None:
                    loops[RAW] = _raw(raw.VirtTranslate, addresses, machine.dtb)
            first = what.startswith("random 4 KB")
            samples = time_loops(loops, options.rounds)
            yield Row(
                "translate",
                f"translate, {what}, {machine.name}",
                "ns",
                samples,
                claim if first else None,
                missing=missing,
            )
            if first:
                loops[OURS] = _pa(reader, addresses)
                samples = time_loops(loops, options.rounds)
                yield Row(
                    "translate", f"translate(va).pa, {what}, {machine.name}", "ns", samples, missing=missing
                )
                if "64g" not in machine.name:  # whose data does not fit in memory
                    yield from _many(options, machine, reader, loops, addresses, missing)


def _many(
    options: Options,
    machine: dumps.Machine,
    reader: kdmp.Reader,
    loops: dict[str, Loop],
    addresses: list[int],
    missing: dict[str, str],
) -> Iterator[Row]:
    """The same addresses in one call: 10 times the peer's rate, and 25 million a second."""
    vas = as_addresses(addresses)
    many_at_once = [int(pa) for pa in reader.translate_many(vas[:2000]).pa]
    expect_equal(
        "translate_many", {"many": many_at_once, "one": [reader.translate(va).pa for va in addresses[:2000]]}
    )

    def many() -> int:
        reader.translate_many(vas)
        return len(addresses)

    def read() -> int:
        reader.read_u64_many(vas)
        return len(addresses)

    peer = {name: loop for name, loop in loops.items() if name != OURS}
    name = f"random 4 KB page, {machine.name}"
    samples = time_loops({OURS: many, **peer}, options.rounds)
    yield Row("translate", f"translate_many, {name}", "ns", samples, Claim("ratio", 10), missing=missing)
    yield Row("translate", f"translate_many, {name}, rate", "ns", {OURS: samples[OURS]}, Claim("value", 40))
    yield Row(
        "translate", f"read_u64_many, {name}", "ns", time_loops({OURS: read}, options.rounds), missing=missing
    )


def _pa(reader: kdmp.Reader, addresses: list[int]) -> Loop:
    def loop() -> int:
        translate = reader.translate
        for va in addresses:
            translate(va).pa  # noqa: B018
        return len(addresses)

    return loop


def _raw(function: object, addresses: list[int], dtb: int) -> Loop:
    def loop() -> int:
        for va in addresses:
            function(va, dtb)  # type: ignore[operator]
        return len(addresses)

    return loop


def _check(machine: dumps.Machine, reader: kdmp.Reader, parser: object, addresses: list[int]) -> None:
    for va in addresses:
        answers: dict[str, object] = {"the generator": machine.physical(va), OURS: reader.translate(va).pa}
        if parser:
            answers[PEER] = parser.translate_virtual(va)  # type: ignore[attr-defined]
        expect_equal(f"translate({va:#x})", answers)
