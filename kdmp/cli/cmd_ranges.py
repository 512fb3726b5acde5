"""`kdmp ranges`: the virtual ranges that a triage dump holds.

SPDX-License-Identifier: MIT
"""

import argparse

from kdmp.cli.options import add_file, open_dump
from kdmp.cli.output import Output, bytes_text, hexa, plural

HELP = "list the virtual ranges of a triage dump and where they are in the file"


def configure(parser: argparse.ArgumentParser) -> None:
    """FILE, --sort, --json."""
    add_file(parser)
    parser.add_argument(
        "--sort", action="store_true", help="by address (default: as in the file, copies of structures last)"
    )


def run(args: argparse.Namespace, out: Output) -> int:
    """Print the ranges."""
    from kdmp import UnsupportedDumpError

    with open_dump(args, out) as dump:
        if dump.layout != "triage":
            raise UnsupportedDumpError("only triage dumps hold virtual ranges; see kdmp pages")
        ranges, digits = dump.ranges, 2 * dump.pointer_size
    if args.sort:
        ranges.sort(key=lambda entry: (entry.address, entry.size))
    total = sum(entry.size for entry in ranges)
    if out.json:
        names = ("address", "size", "file_offset", "origin")
        listed = [{name: getattr(entry, name) for name in names} for entry in ranges]
        out.document({"file": args.file, "count": len(ranges), "bytes": total, "ranges": listed})
        return 0
    rows = [(hexa(r.address, digits), hexa(r.size), hexa(r.file_offset), r.origin) for r in ranges]
    out.table(("address", "size", "file offset", "origin"), rows, right=("size", "file offset"))
    out.line(f"{plural(len(ranges), 'range')}, {bytes_text(total)}")
    return 0
