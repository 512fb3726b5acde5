"""The C core without Python: builds bench_core.c with csrc/*.c and runs it.

The peer's C++ library is compiled in the same way when KDMP_PARSER_INCLUDE names the folder with
its headers. The package on the index has no sources, so without that folder its C++ time is
estimated from its Python binding: calls for one and the same address that need 2 and 4 table
lookups (1 GB and 4 KB page) tell what a lookup costs and, by extension to 0 lookups, what the
call itself costs; that is taken off the time of a random translation.

SPDX-License-Identifier: MIT
"""

import os
import shlex
import statistics
import subprocess
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import dumps, peers
from benchmarks.compiler import compiler
from benchmarks.harness import BOUND, OURS, PEER, Claim, Mismatch, Options, Row, gc_off, interleaved

HERE = Path(__file__).parent
ROOT = HERE.parent
INCLUDE_VARIABLE = "KDMP_PARSER_INCLUDE"


def run(options: Options) -> Iterator[Row]:
    """Yield the rows of this group."""
    options.directory.mkdir(parents=True, exist_ok=True)
    ours = _compile_core(options.directory)
    theirs = _compile_peer(options.directory)
    quick = options.quick
    for machine, claim in (
        (dumps.bitmap_1g(quick=quick), Claim("ratio", 3)),
        (dumps.full_1g(quick=quick), None),
        (dumps.ranges_1g(quick=quick), None),
        (dumps.bitmap_64g(quick=quick), None),
    ):
        yield from _measure(options, machine, ours, theirs, claim)


def _compile_core(directory: Path) -> Path:
    program = directory / "bench_core"
    sources = [str(path) for path in sorted((ROOT / "csrc").glob("*.c"))]
    command = [*compiler(), "-std=c11", "-O2", "-DNDEBUG", f"-I{ROOT / 'csrc'}"]
    subprocess.run([*command, str(HERE / "bench_core.c"), *sources, "-o", str(program)], check=True)
    return program


def _compile_peer(directory: Path) -> Path | None:
    include = os.environ.get(INCLUDE_VARIABLE)
    if not include:
        return None
    program = directory / "bench_peer"
    command = [*shlex.split(os.environ.get("CXX") or "c++"), "-std=c++20", "-O2", "-DNDEBUG", f"-I{include}"]
    subprocess.run([*command, str(HERE / "bench_peer.cc"), "-o", str(program)], check=True)
    return program


def _measure(
    options: Options, machine: dumps.Machine, ours: Path, theirs: Path | None, claim: Claim | None
) -> Iterator[Row]:
    path = dumps.ensure(machine, options.directory)
    addresses = machine.random_addresses(options.scaled(1 << 20))
    expected = sum(map(machine.physical, addresses)) % 2**64
    numbers = options.directory / "addresses.bin"
    numbers.write_bytes(array("Q", [machine.dtb, *addresses]).tobytes())
    what = "all" if machine.name == "bitmap-1g" else "translate"
    found: dict[str, dict[str, list[float]]] = {}

    def run_program(who: str, program: Path) -> float:
        for name, (ns, checksum) in _run(program, path, numbers, what).items():
            found.setdefault(name, {}).setdefault(who, []).append(ns)
            if name == "translate" and checksum != expected:
                raise Mismatch(
                    f"{who} (C), {machine.name}: sum of physical addresses {checksum:#x}, not {expected:#x}"
                )
        return 0.0

    sides: dict[str, Callable[[], float]] = {OURS: lambda: run_program(OURS, ours)}
    parser = None if theirs else peers.plain_kdmp_parser(path)
    estimate = _Estimate(options, machine, parser) if parser else None
    if theirs:
        sides[PEER] = lambda: run_program(PEER, theirs)
    elif estimate:
        sides[PEER] = estimate.sample
    with gc_off():
        interleaved(sides, options.rounds, warm=False)
    numbers.unlink()

    if "load-8" in found:
        found["read-8"][BOUND] = found["load-8"][OURS]
    if estimate:
        result = estimate.result()
        if statistics.median(result) > 0:  # else the machine was too busy for the difference to mean anything
            found["translate"][PEER] = result
    note = (
        "kdmp_parser: its Python call less what the call alone costs, for lack of headers" if estimate else ""
    )
    missing = {} if PEER in sides else {PEER: str(peers.load(PEER))}
    for name, title in (
        ("translate", "translate, random 4 KB page"),
        ("translate-same", "translate, same 4 KB page"),
        ("read-8", "read 8 bytes, random"),
        ("read-page", "read 4096 bytes, random"),
        ("frame-status", "frame status, random"),
    ):
        if name not in found:
            continue
        first = name == "translate"
        yield Row(
            "core",
            f"C: {title}",
            "ns",
            found[name],
            claim if first else None,
            note if first else "",
            missing if first else {},
            machine.name,
        )


class _Estimate:
    """Collects samples for the peer's time of a random translation without the Python call."""

    def __init__(self, options: Options, machine: dumps.Machine, parser: Any) -> None:
        raw = peers.raw_kdmp_parser(parser)
        self._translate = raw.VirtTranslate if raw is not None else parser.translate_virtual
        self._dtb = machine.dtb
        count = options.scaled(200_000)
        self._addresses = {
            "random": machine.random_addresses(count),
            "four": [dumps.SHUFFLED + 0x1238] * count,  # lookups that a translation takes
            "two": [dumps.HUGE_PAGE + 0x1238] * count,
        }
        self._samples: dict[str, list[float]] = {name: [] for name in self._addresses}

    def sample(self) -> float:
        """Time each kind of call once."""
        translate, dtb = self._translate, self._dtb
        for name, addresses in self._addresses.items():
            start = time.perf_counter_ns()
            for va in addresses:
                translate(va, dtb)
            self._samples[name].append((time.perf_counter_ns() - start) / len(addresses))
        return 0.0

    def result(self) -> list[float]:
        """Return the random samples less the cost of a call, which is that of one with 0 lookups."""
        two, four = (statistics.median(self._samples[name]) for name in ("two", "four"))
        call = two - max(four - two, 0.0)
        return [random - call for random in self._samples["random"]]


def _run(program: Path, dump: Path, numbers: Path, what: str) -> dict[str, tuple[float, int]]:
    done = subprocess.run(
        [str(program), str(dump), str(numbers), what], check=True, capture_output=True, text=True
    )
    lines = (line.split() for line in done.stdout.splitlines())
    return {name: (float(ns), int(checksum)) for name, ns, checksum in lines}
