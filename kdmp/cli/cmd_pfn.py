"""`kdmp pfn`: entries of the PFN database, or how many frames are in which state.

SPDX-License-Identifier: MIT
"""

import argparse
from typing import TYPE_CHECKING

from kdmp.cli.options import UsageError, add_file, add_space, open_dump
from kdmp.cli.output import Json, Output, bytes_text, hexa
from kdmp.cli.values import address

if TYPE_CHECKING:
    from kdmp import Dump

HELP = "show what Windows knows about frames of RAM: their state, and what they are used for"

_PAGE = 0x1000


def configure(parser: argparse.ArgumentParser) -> None:
    """FILE PFN..., --summary, --json, --dtb, --paging."""
    add_file(parser)
    parser.add_argument("pfn", metavar="PFN", nargs="*", type=address, help="numbers of frames, hexadecimal")
    parser.add_argument("--summary", action="store_true", help="count all frames of RAM by their state")
    add_space(parser)


def run(args: argparse.Namespace, out: Output) -> int:
    """Print the entries or the table; exit code 1 if an entry cannot be had."""
    if bool(args.pfn) == args.summary:
        raise UsageError("give the numbers of frames, or --summary")
    with open_dump(args, out, dtb=args.dtb, paging=args.paging) as dump:
        return _summary(dump, args, out) if args.summary else _entries(dump, args, out)


def _database(dump: "Dump") -> Json:
    pfns = dump.pfns
    facts: Json = {
        "address": pfns.base,
        "source": pfns.source,
        "verified": pfns.verified,
        "layout": pfns.layout.source,
        "layout_certain": pfns.layout.certain,
    }
    if pfns.disagreeing:
        facts["disagreeing"] = [{"source": how, "address": base} for how, base in pfns.disagreeing]
    return facts


def _entries(dump: "Dump", args: argparse.Namespace, out: Output) -> int:
    from kdmp import UnreadableError

    database = _database(dump)
    listed: list[Json] = []
    failed = 0
    for number in args.pfn:
        try:
            entry = dump.pfn(number)
        except UnreadableError as error:
            failed = 1
            listed.append({"pfn": number, "error": {"type": type(error).__name__, "message": str(error)}})
            out.note(f"{args.file}: {error}")
            for hint in getattr(error, "__notes__", ()):
                out.note(hint)
            continue
        listed.append(entry.to_dict())
        if not out.json:
            out.lines(str(entry).splitlines())
    if out.json:
        out.document({"file": args.file, "database": database, "frames": listed})
    elif not database["layout_certain"]:
        out.note(f"the layout of the entries is not certain: {database['layout']}")
    return failed


def _summary(dump: "Dump", args: argparse.Namespace, out: Output) -> int:
    database = _database(dump)
    summary = dump.pfns.summary()
    if out.json:
        out.document({"file": args.file, "database": database, **summary.to_dict()})
        return 0
    shared, modified = summary.by("state", "prototype"), summary.by("state", "modified")
    rows = [
        (
            state,
            str(frames),
            bytes_text(frames * _PAGE),
            str(shared.get((state, True), 0)),
            str(modified.get((state, True), 0)),
        )
        for state, frames in summary.states.items()
        if state != "unknown"
    ]
    if summary.unknown:
        rows.append(("not in the dump", str(summary.unknown), bytes_text(summary.unknown * _PAGE), "", ""))
    rows.append(("all", str(summary.total), bytes_text(summary.total * _PAGE), "", ""))
    out.facts(
        [
            ("database", f"{hexa(database['address'])} ({database['source']})"),
            ("layout", database["layout"]),
            ("RAM", summary.source),
        ]
    )
    out.table(
        ("state", "frames", "bytes", "shared", "modified"),
        rows,
        right=("frames", "bytes", "shared", "modified"),
    )
    return 0
