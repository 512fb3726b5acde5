"""`kdmp strings`: the texts in memory.

SPDX-License-Identifier: MIT
"""

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kdmp.cli import spaces
from kdmp.cli.options import open_dump
from kdmp.cli.output import Json, Output, printable

if TYPE_CHECKING:
    from kdmp.strings import Strings, Text

HELP = "print the texts in memory, ASCII and UTF-16"

_ENCODINGS = {"s": "ascii", "l": "utf-16-le"}
_SHORT = {"ascii": "a", "utf-16-le": "u"}
_RADIX = {"x": "x", "d": "d", "o": "o"}
_CSV = ("address", "offset", "encoding", "owner", "text")


def configure(parser: argparse.ArgumentParser) -> None:
    """FILE, -n, -e, -t, and what kdmp.cli.spaces adds."""
    parser.add_argument(
        "-n",
        "--min-length",
        metavar="N",
        type=int,
        default=4,
        help="at least N characters, 2 or more (default: 4)",
    )
    parser.add_argument(
        "-e",
        "--encoding",
        choices=tuple(_ENCODINGS),
        action="append",
        help="s: ASCII only, l: UTF-16LE only (default: both)",
    )
    parser.add_argument(
        "-t",
        "--radix",
        choices=tuple(_RADIX),
        help="instead of address and encoding, the place in the file: hexadecimal, decimal or octal",
    )
    spaces.add_arguments(parser)


def run(args: argparse.Namespace, out: Output) -> int:
    """Print the texts; exit code 1 if there are none."""
    from kdmp.cli.options import UsageError

    spaces.check(args)
    if not 2 <= args.min_length <= 1 << 16:
        raise UsageError("--min-length: 2 to 65536")
    if args.radix and (args.json or args.csv):
        raise UsageError("--radix is for people: JSON and CSV have address and offset")
    encodings = [_ENCODINGS[name] for name in args.encoding or _ENCODINGS]
    with open_dump(args, out) as dump, spaces.searching(out, "strings") as progress:
        space = spaces.chosen_space(dump, args)
        with space.reader.strings(
            args.min_length, encodings, args.start, args.last, order=args.order, unique=args.unique,
            limit=args.limit, threads=spaces.threads(args), progress=progress,
        ) as found:  # fmt: skip
            counted = _Counted(found)
            if args.json:
                facts = {"file": args.file, **space.facts()}
                out.listing(facts, "strings", (_facts(text, space, args) for text in counted))
            elif args.csv:
                out.csv(_CSV, (_row(text, space) for text in counted))
            else:
                out.lines(_lines(counted, space, args))
        space.remark(out)
    return 0 if counted.count else 1


class _Counted:
    """The texts, counted as they go by."""

    def __init__(self, found: "Strings") -> None:
        self._found = found
        self.count = 0

    def __iter__(self) -> "Iterator[Text]":
        for text in self._found:
            self.count += 1
            yield text


def _lines(found: _Counted, space: spaces.Space, args: argparse.Namespace) -> Iterator[str]:
    wide = spaces.digits(space)
    for text in found:
        if args.radix:
            offset = "-" if text.offset is None else format(text.offset, _RADIX[args.radix])
            head = f"{offset:>7}"
        else:
            head = f"{spaces.place_text(text.address, wide)} {_SHORT[text.encoding]}"
        if args.owner:
            head += f"  {printable(spaces.owner_text(space.owners(text.va, text.pa))):<32} "
        yield f"{head} {_shown(text.text)}"


def _shown(text: str) -> str:
    """A text as it is shown: tabs as they are, as `strings` has them."""
    return "\t".join(map(printable, text.split("\t")))


def _row(text: "Text", space: spaces.Space) -> list[str]:
    owners = space.owners(text.va, text.pa)
    return [
        spaces.place_text(text.address),
        "" if text.offset is None else spaces.place_text(text.offset),
        text.encoding,
        "; ".join(map(str, owners)),
        text.text,
    ]


def _facts(text: "Text", space: spaces.Space, args: argparse.Namespace) -> Json:
    facts = {"address": text.address, **text.to_dict()}
    if args.owner:
        facts["owners"] = spaces.owner_facts(space.owners(text.va, text.pa))
    return facts
