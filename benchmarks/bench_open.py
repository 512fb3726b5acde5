"""Opening: time and memory, each sample in a fresh process; and how long an import takes.

SPDX-License-Identifier: MIT
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import claims, dumps, peers
from benchmarks.harness import (
    MEMPROCFS,
    OURS,
    PEER,
    PEERS,
    VOLATILITY,
    Claim,
    Mismatch,
    Options,
    Row,
    interleaved,
)

MIB = 1 << 20
_STATEMENTS = {
    OURS: "import kdmp",
    PEER: "import kdmp_parser",
    VOLATILITY: "import volatility3.framework.contexts, volatility3.framework.layers.crash, "
    "volatility3.framework.layers.intel, volatility3.framework.layers.physical",
    MEMPROCFS: "import leechcorepyc, memprocfs",
}
_SITE = (
    "time of a process that imports it less that of one that does not, both without the site module "
    "(python -S), which on some systems has imported half the standard library before"
)


def run(options: Options) -> Iterator[Row]:
    """Yield the rows of this group."""
    for make in (dumps.bitmap_1g, dumps.full_1g, dumps.ranges_1g, dumps.bitmap_64g):
        yield from _opening(options, make(quick=options.quick))
    yield from _importing(options)


def _opening(options: Options, machine: dumps.Machine) -> Iterator[Row]:
    path = dumps.ensure(machine, options.directory)
    large = machine.gib > 1
    results: dict[str, list[dict[str, Any]]] = {OURS: []}
    missing: dict[str, str] = {}
    slow: dict[str, list[float]] = {}
    for name in PEERS:
        found = peers.first(name, path, machine.dtb, options.opening)
        if isinstance(found, str):
            missing[name] = found
        elif found["seconds"] * options.rounds > 4 * options.patience:
            results[name], slow[name] = [found], [found["ns"] / 1e6]  # one sample has to do
        else:
            results[name] = []

    def sample(reader: str) -> float:
        found = peers.child(reader, path, machine.dtb, 4 * options.opening)
        if isinstance(found, str):
            raise Mismatch(found)
        results[reader].append(found)
        return float(found["ns"]) / 1e6

    times = interleaved(
        {reader: lambda r=reader: sample(r) for reader in results if reader not in slow},  # type: ignore[misc]
        options.rounds,
        warm=False,
    )
    times |= slow
    frames = sum(count for _, count in machine.runs)
    if results[OURS][0]["frames"] != frames:
        raise Mismatch(f"{path.name}: {results[OURS][0]['frames']} frames, {frames} were written")
    quick = (Claim("value", 10, line=claims.OPEN_TIME), Claim("ratio", 500)) if large else None
    yield Row("open", "open", "ms", times, quick, missing=missing, dump=machine.name)
    small = Claim("value", 5, line=claims.OPEN_MEMORY) if large else None
    for key, what, claim in (
        ("peak", "open: peak memory", small),
        ("rss", "open: memory kept", small),
        ("anonymous", "open: memory kept, private", None),
    ):
        values = {reader: [r[key] / MIB for r in found] for reader, found in results.items()}
        yield Row("open", what, "MiB", values, claim, missing=missing, dump=machine.name)


def _importing(options: Options) -> Iterator[Row]:
    """A process that imports, less one that does not; and what -X importtime says."""
    claim = Claim("value", 30, line=claims.IMPORT)
    missing = {name: reason for name in PEERS if (reason := peers.load(name))}
    sides: dict[str, Callable[[], float]] = {"": lambda: _process("")}
    for name, statement in _STATEMENTS.items():
        if name not in missing:
            sides[name] = lambda s=statement: _process(s)  # type: ignore[misc]
    samples = interleaved(sides, 2 * options.rounds)
    nothing = samples.pop("")
    differences = {
        name: [max(a - b, 0.0) for a, b in zip(values, nothing, strict=True)]
        for name, values in samples.items()
    }
    yield Row("open", "import", "ms", differences, claim, note=_SITE, missing=missing)
    yield Row("open", "an interpreter that imports nothing", "ms", {OURS: nothing})
    told = [_importtime() for _ in range(options.rounds)]
    yield Row("open", "import, as -X importtime adds it up", "ms", {OURS: told})


def _command(statement: str, *options: str) -> list[str]:
    path = [str(Path(__file__).parents[1]), *(p for p in sys.path if p.endswith("site-packages"))]
    code = f"import sys; sys.path[:0] = {path!r}; {statement}"
    return [sys.executable, "-S", "-E", *options, "-c", code]


def _process(statement: str) -> float:
    """Milliseconds of a whole process."""
    command = _command(statement)
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=os.environ)
    return (time.perf_counter() - start) * 1e3


def _importtime() -> float:
    done = subprocess.run(
        _command("import kdmp", "-X", "importtime"), check=True, capture_output=True, text=True
    )
    for line in reversed(done.stderr.splitlines()):
        parts = [part.strip() for part in line.split("|")]
        if len(parts) == 3 and parts[2] == "kdmp":
            return int(parts[1]) / 1e3
    raise Mismatch("-X importtime does not name kdmp")
