"""`kdmp pte`: the page table entries behind an address, in WinDbg's `!pte` form.

SPDX-License-Identifier: MIT
"""

import argparse

from kdmp.cli.options import add_file, add_space, open_dump, virtual_reader
from kdmp.cli.output import Output
from kdmp.cli.pagefiles import add_pagefiles, pagefiles
from kdmp.cli.values import address

HELP = "show the page table entries behind a virtual address, as WinDbg's !pte does"


def configure(parser: argparse.ArgumentParser) -> None:
    """FILE VA, --json, --dtb, --paging, --pagefile."""
    add_file(parser)
    parser.add_argument("va", metavar="VA", type=address, help="the virtual address")
    add_space(parser)
    add_pagefiles(parser)


def run(args: argparse.Namespace, out: Output) -> int:
    """Print the entries; exit code 1 if they lead to no page."""
    from kdmp import UnsupportedDumpError

    with open_dump(args, out, pagefiles=pagefiles(args)) as dump:
        if dump.layout == "triage":
            refusal = UnsupportedDumpError("a triage dump holds virtual ranges, but no page tables")
            refusal.add_note("kdmp ranges lists what it holds, kdmp explain says where an address is")
            raise refusal
        view = virtual_reader(dump, args).pte(args.va)
    if out.json:
        out.document({"file": args.file, **view.to_dict()})
    else:
        out.lines(str(view).split("\n"))
    return 0 if view.pa is not None else 1
