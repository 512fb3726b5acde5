"""`kdmp doctor`: what is wrong or odd about a dump, and what still works.

SPDX-License-Identifier: MIT
"""

import argparse
from typing import TYPE_CHECKING

from kdmp.cli.options import _unpacking, add_file
from kdmp.cli.output import Output, printable

if TYPE_CHECKING:
    from kdmp.doctor import Finding, Report

HELP = "say what is wrong or odd about a file, and what still works"

_TITLES = {3: "errors", 2: "warnings", 1: "notes"}


def configure(parser: argparse.ArgumentParser) -> None:
    """FILE, --json, --deep."""
    add_file(parser, raw=False)
    parser.add_argument(
        "--deep",
        action="store_true",
        help="look through all pages for another page-table root if the header's does not work",
    )


def run(args: argparse.Namespace, out: Output) -> int:
    """Print the findings; 1 if any is a warning or an error."""
    from kdmp.doctor import examine

    with _unpacking(out) as progress:
        report = examine(args.file, io=args.io, deep=args.deep, progress=progress)
    if out.json:
        out.document({"file": args.file, **report.to_dict()})
    else:
        _show(report, out)
    return 0 if report.healthy else 1


def _show(report: "Report", out: Output) -> None:
    if not report.dump_opens:
        out.line(f"does not open: {printable(report.error or '')}")
    for severity, title in _TITLES.items():
        group = [finding for finding in report.findings if finding.severity == severity]
        if group:
            out.line(f"{title}:")
        for finding in group:
            _show_finding(finding, out)
    if report.healthy:
        out.line("nothing is wrong" if not report.findings else "nothing is wrong but for the notes")
    out.line("what works:" if report.works else "what works: nothing")
    for text in report.works:
        out.line(f"  {printable(text)}")


def _show_finding(finding: "Finding", out: Output) -> None:
    from kdmp.doctor import shown

    where = "" if finding.offset is None else f" (file offset {finding.offset:#x})"
    out.line(f"  [{finding.code}] {printable(finding.message)}{where}")
    values = [
        f"{word} {printable(shown(value))}"
        for word, value in (("expected", finding.expected), ("found", finding.found))
        if value is not None
    ]
    if values:
        out.line(f"      {', '.join(values)}")
    if finding.advice:
        out.line(f"      advice: {printable(finding.advice)}")
