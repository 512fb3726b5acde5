"""The command: `python -m benchmarks [--quick] [--only GROUP] [--write] [--check]`.

SPDX-License-Identifier: MIT
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import report
from benchmarks.harness import Options, Row

ROOT = Path(__file__).parents[1]
# bench_<name>.py
GROUPS = ("open", "translate", "read", "pages", "mappings", "core", "windows", "overlay", "monitor", "series")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the groups; return 1 if --check was given and a claim is not met."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure kdmp against its peers."
    )
    parser.add_argument("--quick", action="store_true", help="smoke run: small dumps, few calls")
    parser.add_argument("--only", action="append", choices=GROUPS, metavar="GROUP", help=", ".join(GROUPS))
    parser.add_argument("--rounds", type=int, help="samples of each contender (default 7, quick 3)")
    parser.add_argument("--write", action="store_true", help="renew benchmarks/RESULTS.md")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a claim is not met")
    arguments = parser.parse_args(argv)
    if arguments.rounds is not None and arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    if arguments.write and (arguments.quick or arguments.only):
        parser.error("--write is for a complete run, without --quick and --only")

    directory = Path(os.environ.get("KDMP_BENCH_DIR") or ROOT / "build" / "bench")
    options = Options(directory, arguments.quick, arguments.rounds or (3 if arguments.quick else 7))
    rows: list[Row] = []
    for group in arguments.only or GROUPS:
        module = importlib.import_module(f"benchmarks.bench_{group}")
        for row in module.run(options):
            print(f"  {row.name}", file=sys.stderr, flush=True)
            rows.append(row)

    facts = report.machine()
    print(report.table(rows))
    print(report.notes(rows))
    report.write_json(ROOT / "build" / "bench.json", rows, facts)
    if arguments.write:
        (ROOT / "benchmarks" / "RESULTS.md").write_text(report.as_markdown(rows, facts))
    failed = [row for row in rows if row.met() is False]
    for row in failed:
        print(f"claim not met: {row.name}: {row.claim}", file=sys.stderr)
    return 1 if failed and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
