"""`kdmp convert`: write the pages of a dump as another kind of dump, or as a raw image.

SPDX-License-Identifier: MIT
"""

import argparse
import dataclasses
from typing import TYPE_CHECKING

from kdmp.cli.options import UsageError, add_dtb, add_file, open_dump
from kdmp.cli.outfiles import check_free, refuse_dump
from kdmp.cli.output import Output, bytes_text, plural

if TYPE_CHECKING:
    from kdmp.convert import ConversionReport

HELP = "write a dump as another kind, or as a raw image of physical memory"

# Repeats the names of kdmp.convert.KINDS, with the DumpType of each, so that parsing does not load
# the library; a test compares them.
KINDS = {"full": 1, "bitmap": 5, "kernel": 6, "rdmp8": 8, "rdmp9": 9, "rdmpA": 10, "raw": None}


def configure(parser: argparse.ArgumentParser) -> None:
    """FILE OUT --to KIND, --force, --dtb, --json."""
    add_file(parser)
    add_dtb(parser)
    parser.add_argument("out", metavar="OUT", help="the file to write; it appears when it is complete")
    parser.add_argument(
        "--to",
        required=True,
        metavar="KIND",
        type=kind,
        help="full (1), bitmap (5), kernel (6), rdmp8, rdmp9, rdmpA (8, 9, 0xA), or raw: "
        "the byte at offset n is the byte at physical address n, missing pages are holes",
    )
    parser.add_argument("--force", action="store_true", help="replace OUT if it exists")


def kind(text: str) -> int | str:
    """The DumpType or "raw" that `text` names."""
    for name, number in KINDS.items():
        if text.lower() == name.lower():
            return name if number is None else number
    try:
        number = int(text, 0) if text.lower() != "a" else 10
    except ValueError:
        number = -1
    if number not in KINDS.values():
        raise argparse.ArgumentTypeError(
            f"unknown kind {text[:40]!r}: "
            "choose full (1), bitmap (5), kernel (6), rdmp8, rdmp9, rdmpA (10) or raw"
        )
    return number


def run(args: argparse.Namespace, out: Output) -> int:
    """Convert, with a progress bar on stderr."""
    from kdmp.convert import convert

    refuse_dump(args.out, args.file)
    check_free(args.out, args.force)
    if args.dtb is not None and not args.raw:
        raise UsageError("--dtb goes with --raw: the root in a dump's header is kept as it is")
    with open_dump(args, out, dtb=args.dtb) as dump, out.progress("converting") as progress:
        report = convert(dump, args.out, args.to, progress)
    for left in report.left_out:
        out.note(f"{args.out}: left out {plural(left.pages, 'page')}: {left.reason}")
    _show(args, out, report)
    return 0


def _show(args: argparse.Namespace, out: Output, report: "ConversionReport") -> None:
    if out.json:
        left_out = [dataclasses.asdict(left) for left in report.left_out]
        out.document(
            {
                "file": args.file,
                "out": args.out,
                "kind": report.kind,
                "pages": report.pages,
                "size": report.size,
                "left_out": left_out,
            }
        )
        return
    name = report.kind if isinstance(report.kind, str) else f"kind {int(report.kind)} {report.kind.name}"
    out.facts([(args.out, f"{name}, {plural(report.pages, 'page')}, {bytes_text(report.size)}")])
