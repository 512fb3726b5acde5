"""`kdmp vads`: the address ranges of a process.

SPDX-License-Identifier: MIT
"""

import argparse
from typing import TYPE_CHECKING

from kdmp.cli.options import UsageError, add_file, add_space, add_symbols, open_dump
from kdmp.cli.output import Json, Output, hexa, plural, printable
from kdmp.cli.processes import add_process, chosen, heading, identity, known

if TYPE_CHECKING:
    from kdmp.windows.entity import Listing
    from kdmp.windows.processes import Process
    from kdmp.windows.vads import Vad

HELP = "list the address ranges of a process (VADs): protection, what is behind them, file"

_COLUMNS = ("start", "end", "protection", "kind", "commit", "vad", "file")
_CSV = (
    "pid", "process", "address", "start", "end", "protection_name", "kind", "type", "private", "commit",
    "mem_commit", "tag", "control_area", "file",
)  # fmt: skip


def configure(parser: argparse.ArgumentParser) -> None:
    """FILE, --pid, --name, --csv, --json, --symbols, --dtb, --paging."""
    add_file(parser)
    add_process(parser, required=True)
    parser.add_argument("--csv", action="store_true", help="print comma-separated values instead of a table")
    add_symbols(parser)
    add_space(parser)


def run(args: argparse.Namespace, out: Output) -> int:
    """Print the ranges; exit code 1 if there are none."""
    from kdmp.windows.vads import vads

    if args.csv and args.json:
        raise UsageError("--csv and --json exclude each other")
    with open_dump(args, out, dtb=args.dtb, paging=args.paging) as dump:
        processes = chosen(dump.windows, args)
        listings = [(process, vads(process)) for process in processes]
        if out.json:
            out.document({"file": args.file, "processes": [_document(*one) for one in listings]})
        elif args.csv:
            out.csv(_CSV, [_record(process, vad) for process, found in listings for vad in found])
        else:
            _print(listings, out)
        if not out.json:
            for process, found in listings:
                for problem in found.problems:
                    out.note(f"{args.file}: {heading(process)}: {problem}")
        return 0 if any(found for _, found in listings) else 1


def _print(listings: "list[tuple[Process, Listing[Vad]]]", out: Output) -> None:
    for number, (process, found) in enumerate(listings):
        if number:
            out.line()
        if len(listings) > 1:
            out.lines([printable(heading(process))])
        digits = 2 * process.windows.pointer_size
        out.table(_COLUMNS, [_row(vad, digits) for vad in found], right=("commit",))
        out.line(plural(len(found), "range"))


def _row(vad: "Vad", digits: int) -> list[str]:
    return [
        hexa(vad.start, digits),
        hexa(vad.end, digits),
        vad.protection_name,
        vad.kind or "?",
        vad.show("commit"),
        hexa(vad.address, digits),
        vad.file or "",
    ]


def _record(process: "Process", vad: "Vad") -> list[str]:
    facts = {name: vad.show(name) for name in _CSV[2:]}
    facts |= {"pid": process.show("pid"), "process": process.full_name or process.name or ""}
    return [facts[name] for name in _CSV]


def _document(process: "Process", found: "Listing[Vad]") -> Json:
    document = identity(process) | {"vads": [known(vad) for vad in found]}
    if found.problems:
        document["problems"] = [problem.to_dict() for problem in found.problems]
    return document
