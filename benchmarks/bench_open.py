"""Opening: time and memory, each sample in a fresh process, and `import kdmp`.

SPDX-License-Identifier: MIT
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import dumps, peers
from benchmarks.harness import OURS, PEER, Claim, Mismatch, Options, Row, interleaved

MIB = 1 << 20


def run(options: Options) -> Iterator[Row]:
    """Yield the rows of this group."""
    small = dumps.bitmap_1g(quick=options.quick)
    big = dumps.bitmap_64g(quick=options.quick)
    for machine in (small, dumps.full_1g(quick=options.quick), dumps.ranges_1g(quick=options.quick)):
        yield from _opening(options, machine, options.rounds, None)
    yield from _opening(options, big, max(3, options.rounds // 2), Claim("ratio", 500))

    imports: list[float] = [_child("import", Path())["ns"] / 1e6 for _ in range(options.rounds)]
    yield Row("open", "import kdmp", "ms", {OURS: imports}, Claim("value", 30))


def _opening(options: Options, machine: dumps.Machine, rounds: int, claim: Claim | None) -> Iterator[Row]:
    path = dumps.ensure(machine, options.directory)
    results: dict[str, list[dict[str, Any]]] = {OURS: [], PEER: []}
    readers = [OURS] if peers.kdmp_parser() is None else [OURS, PEER]
    missing = {} if PEER in readers else {PEER: peers.NOT_INSTALLED}

    def sample(reader: str) -> float:
        results[reader].append(_child(reader, path))
        return float(results[reader][-1]["ns"]) / 1e6

    times = interleaved({r: lambda r=r: sample(r) for r in readers}, rounds)  # type: ignore[misc]
    frames = sum(count for _, count in machine.runs)
    if results[OURS][0]["frames"] != frames:
        raise Mismatch(f"{path.name}: {results[OURS][0]['frames']} frames, {frames} were written")
    yield Row("open", f"open {machine.name}", "ms", times, claim, missing=missing)
    limit = Claim("value", 8) if claim else None
    for key, what in (("peak", "peak memory"), ("rss", "memory kept"), ("anonymous", "memory kept, private")):
        values = {reader: [r[key] / MIB for r in results[reader]] for reader in readers}
        yield Row(
            "open", f"open {machine.name}: {what}", "MiB", values, limit if key != "anonymous" else None
        )


def _child(reader: str, path: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.child", reader, str(path)],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result
