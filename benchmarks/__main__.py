"""The command: `python -m benchmarks [--quick] [--only GROUP] [--write] [--check]`.

SPDX-License-Identifier: MIT
"""

import argparse
import importlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import chart, claims, limits, peers, report
from benchmarks.harness import Options, Row

ROOT = Path(__file__).parents[1]
HERE = ROOT / "benchmarks"
# bench_<name>.py
GROUPS = (
    *("open", "translate", "read", "scan", "memory", "pages", "mappings", "core"),
    *("windows", "overlay", "monitor", "series"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the groups; return 1 if --check was given and a claim is not met."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure kdmp against its peers."
    )
    parser.add_argument("--quick", action="store_true", help="smoke run: small dumps, few calls")
    parser.add_argument("--only", action="append", choices=GROUPS, metavar="GROUP", help=", ".join(GROUPS))
    parser.add_argument("--rounds", type=int, help="samples of each contender (default 7, quick 3)")
    parser.add_argument("--write", action="store_true", help="renew RESULTS.md, results.json and results.svg")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a claim is not met")
    arguments = parser.parse_args(argv)
    if arguments.rounds is not None and arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    if arguments.write and (arguments.quick or arguments.only):
        parser.error("--write is for a complete run, without --quick and --only")

    limits.apply()
    directory = Path(os.environ.get("KDMP_BENCH_DIR") or ROOT / "build" / "bench")
    options = Options(directory, arguments.quick, arguments.rounds or (3 if arguments.quick else 7))
    start = time.monotonic()
    rows = _measure(options, arguments.only or GROUPS, start)
    seconds = time.monotonic() - start

    facts = report.machine()
    remarks = report.Remarks()
    print(report.table(rows, remarks))
    print(report.notes(remarks))
    print(claims.as_table([one for one in claims.verdicts(rows) if one.measured]))
    report.write_json(ROOT / "build" / "bench.json", report.as_data(rows, facts, samples=True))
    if arguments.write:
        command = " ".join(["python -m benchmarks", *(sys.argv[1:] if argv is None else argv)])
        (HERE / "RESULTS.md").write_text(report.as_markdown(rows, facts, command, seconds))
        report.write_json(HERE / "results.json", report.as_data(rows, facts, samples=False))
    chart.draw(rows, (HERE if arguments.write else ROOT / "build") / "results.svg")
    failed = [row for row in rows if row.met() is False]
    for row in failed:
        print(f"not met: {row.name} {row.dump}: {', '.join(map(str, row.claims))}", file=sys.stderr)
    return 1 if failed and arguments.check else 0


def _measure(options: Options, groups: Sequence[str], start: float) -> list[Row]:
    rows: list[Row] = []
    try:
        for group in groups:
            module = importlib.import_module(f"benchmarks.bench_{group}")
            for row in module.run(options):
                print(
                    f"{time.monotonic() - start:6.0f} s  {row.name}  {row.dump}", file=sys.stderr, flush=True
                )
                rows.append(row)
    finally:
        peers.close_all()
    return rows


if __name__ == "__main__":
    sys.exit(main())
