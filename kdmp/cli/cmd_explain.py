"""`kdmp explain`: why an address can be read, or cannot.

SPDX-License-Identifier: MIT
"""

import argparse

from kdmp.cli.options import add_file, add_space, open_dump, virtual_reader
from kdmp.cli.output import Output
from kdmp.cli.pagefiles import add_pagefiles, pagefiles
from kdmp.cli.values import address

HELP = "say why virtual addresses can be read or cannot, and what Windows would do there"


def configure(parser: argparse.ArgumentParser) -> None:
    """FILE VA..., --json, --dtb, --paging, --pagefile, --physical."""
    add_file(parser)
    parser.add_argument("va", metavar="VA", type=address, nargs="+", help="an address")
    parser.add_argument("--physical", action="store_true", help="the addresses are physical")
    add_space(parser)
    add_pagefiles(parser)


def run(args: argparse.Namespace, out: Output) -> int:
    """Print a sentence for each address; exit code 0 if all are readable, else 1."""
    with open_dump(args, out, pagefiles=pagefiles(args)) as dump:
        reader = dump.phys if args.physical else virtual_reader(dump, args)
        found = [reader.explain(va) for va in args.va]
    if out.json:
        out.document({"file": args.file, "addresses": [one.to_dict() for one in found]})
    else:
        for one in found:
            out.line(str(one))
            if one.suggestion:
                out.line(f"  {one.suggestion}")
    return 0 if all(one.readable for one in found) else 1
