"""`kdmp maps`: what is mapped in an address space.

SPDX-License-Identifier: MIT
"""

import argparse
import itertools
from typing import TYPE_CHECKING

from kdmp.cli.options import add_file, add_space, open_dump, virtual_reader
from kdmp.cli.output import Json, Output, hexa
from kdmp.cli.values import address

if TYPE_CHECKING:
    from kdmp._kdmp import Mapping

HELP = "list the mapped ranges of an address space: size of the pages, rights, state"

STATES = (
    "valid", "transition", "prototype", "demand_zero", "pagefile", "vad", "subsection", "table", "bad",
)  # fmt: skip


def configure(parser: argparse.ArgumentParser) -> None:
    """FILE, --json, --dtb, --paging, --user, --kernel, --state, --from, --to."""
    add_file(parser)
    add_space(parser)
    half = parser.add_mutually_exclusive_group()
    half.add_argument("--user", dest="half", action="store_const", const="user", help="user addresses only")
    half.add_argument(
        "--kernel", dest="half", action="store_const", const="kernel", help="kernel addresses only"
    )
    parser.add_argument(
        "--state", choices=STATES, action="append", help="only ranges in this state; may be repeated"
    )
    parser.add_argument("--from", dest="start", metavar="VA", type=address, default=0, help="first address")
    parser.add_argument("--to", dest="last", metavar="VA", type=address, help="last address")


def run(args: argparse.Namespace, out: Output) -> int:
    """Print the ranges; exit code 1 if there are none."""
    from kdmp import UnsupportedDumpError

    with open_dump(args, out) as dump:
        if dump.layout == "triage":
            refusal = UnsupportedDumpError("a triage dump holds virtual ranges, but no page tables")
            refusal.add_note("kdmp ranges lists what it holds")
            raise refusal
        reader = virtual_reader(dump, args)
        ranges = reader.mappings(args.start, args.last, half=args.half, states=args.state)
        first = next(ranges, None)
        if first is None:
            out.note(f"{args.file}: nothing is mapped there")
            if out.json:
                out.document({"file": args.file, "dtb": reader.dtb, "paging": reader.paging, "mappings": []})
            return 1
        if out.json:
            rows = [_fact(first), *(_fact(one) for one in ranges)]
            out.document({"file": args.file, "dtb": reader.dtb, "paging": reader.paging, "mappings": rows})
            return 0
        digits = 8 if reader.pointer_size == 4 else 16
        out.table(
            ("start", "last", "size", "pages", "rights", "state"),
            (_row(one, digits) for one in itertools.chain([first], ranges)),
            right=("size", "pages"),
            widths=(digits + 2, digits + 2, 12, 6, 6, 11),
        )
    return 0


_UNITS = ((1 << 30, "1G"), (1 << 22, "4M"), (1 << 21, "2M"), (1 << 12, "4K"))


def _row(one: "Mapping", digits: int) -> tuple[str, ...]:
    """A line of the table; the size of the pages as 4K, 2M ..., rights as r w x u (user) or k (kernel)."""
    page = next((text for size, text in _UNITS if size == one.page_size), hexa(one.page_size))
    rights = "-"
    if one.state in ("valid", "transition", "prototype"):
        rights = f"r{'w' if one.writable else '-'}{'x' if one.executable else '-'}{'u' if one.user else 'k'}"
    last = one.start + one.size - 1
    return hexa(one.start, digits), hexa(last, digits), hexa(one.size), page, rights, one.state


def _fact(one: "Mapping") -> Json:
    fact: Json = {
        "start": one.start,
        "size": one.size,
        "page_size": one.page_size,
        "pa": one.pa,
        "state": one.state,
        "writable": one.writable,
        "executable": one.executable,
        "user": one.user,
    }
    return {name: value for name, value in fact.items() if value is not None}
