"""`kdmp pages`: which physical pages a dump holds, and where in the file.

SPDX-License-Identifier: MIT
"""

import argparse
from itertools import islice
from typing import TYPE_CHECKING

from kdmp.cli.facts import page_facts
from kdmp.cli.options import add_file, open_dump
from kdmp.cli.output import Json, Output, bytes_text, hexa, plural

if TYPE_CHECKING:
    from kdmp import Dump

HELP = "list the captured physical pages as runs of frames"

_SHOWN = 32


def configure(parser: argparse.ArgumentParser) -> None:
    """FILE, --json, --runs."""
    add_file(parser)
    parser.add_argument(
        "--runs",
        action="store_true",
        help=f"list every run (text: the first {_SHOWN} otherwise; JSON: none otherwise)",
    )


def run(args: argparse.Namespace, out: Output) -> int:
    """Print the totals and the runs."""
    from kdmp import UnsupportedDumpError

    with open_dump(args, out) as dump:
        facts = page_facts(dump)
        if dump.layout == "triage":
            refusal = UnsupportedDumpError("this dump holds no physical pages, but virtual ranges")
            refusal.add_note("kdmp ranges lists them")
            raise refusal
        if facts is None:
            raise UnsupportedDumpError("this dump holds no physical pages")
        facts["runs_total"] = sum(1 for _ in dump.pages.runs())
        if out.json:
            if args.runs:
                facts["runs"] = [
                    {"pfn": run.pfn, "count": run.count, "file_offset": run.file_offset}
                    for run in dump.pages.runs()
                ]
            out.document({"file": args.file, **facts})
            return 0
        _show_runs(dump, facts, out, None if args.runs else _SHOWN)
    hidden = 0 if args.runs else max(0, facts["runs_total"] - _SHOWN)
    if hidden:
        out.line(f"... and {plural(hidden, 'more run')} (--runs lists all)")
    total = f"{plural(facts['available'], 'page')} in {plural(facts['runs_total'], 'run')}"
    out.line(f"{total}, {bytes_text(facts['bytes'])}")
    if facts["truncated"]:
        out.line(f"{plural(facts['truncated'], 'page')} beyond the end of the file, which is cut short")
    return 0


def _show_runs(dump: "Dump", facts: Json, out: Output, limit: int | None) -> None:
    titles = ("first frame", "last frame", "pages", "file offset")
    rows = (
        (hexa(run.pfn), hexa(run.pfn + run.count - 1), str(run.count), hexa(run.file_offset))
        for run in islice(dump.pages.runs(), limit)
    )
    frame = len(hexa(facts["pfn_end"]))
    widths = (frame, frame, len(str(facts["available"])), len(hexa(facts["data_end_offset"])))
    out.table(titles, rows, right=titles, widths=widths)
