"""`kdmp read`: show memory, with ?? for the bytes that are missing and the reasons on stderr.

SPDX-License-Identifier: MIT
"""

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kdmp.cli.holes import Hole, Holes, hole_facts
from kdmp.cli.options import UsageError, add_file, add_space, open_dump, virtual_reader
from kdmp.cli.output import Json, Output
from kdmp.cli.values import address, byte, length

if TYPE_CHECKING:
    from kdmp import Dump, Reader

HELP = "show memory at a virtual or physical address, ?? for what is missing"

# A multiple of every line length, so that lines do not show where one piece ends.
_PIECE = 1 << 20
_WIDTHS = {"hex": 1, "u32": 4, "u64": 8}


def configure(parser: argparse.ArgumentParser) -> None:
    """FILE ADDR LEN, --phys or --dtb and --paging, --format, --fill, --json."""
    add_file(parser)
    parser.add_argument(
        "address", metavar="ADDR", type=address, help="the first byte: virtual, or with --phys physical"
    )
    parser.add_argument("length", metavar="LEN", type=length, help="how many bytes")
    parser.add_argument("--phys", action="store_true", help="ADDR is a physical address")
    add_space(parser)
    parser.add_argument(
        "--format",
        choices=("hex", "u32", "u64", "raw"),
        default="hex",
        help="bytes with text (default), little-endian numbers, or the bytes themselves",
    )
    parser.add_argument(
        "--fill",
        metavar="BYTE",
        type=byte,
        help="with raw: write this byte for each that is missing (without: refuse if any is)",
    )


def run(args: argparse.Namespace, out: Output) -> int:
    """Print the bytes; exit code 1 if none could be read."""
    if args.phys and (args.dtb is not None or args.paging is not None):
        raise UsageError("--phys reads without page tables: --dtb and --paging make no sense with it")
    if args.format == "raw" and args.json:
        raise UsageError("--format raw writes bytes, --json text: choose one")
    if args.fill is not None and args.format != "raw":
        raise UsageError("--fill goes with --format raw; elsewhere missing bytes are ??")
    if args.address + args.length > 1 << 64:
        raise UsageError(f"{args.length} bytes at {args.address:#x} end beyond the last address")
    with open_dump(args, out) as dump:
        reader = _reader(dump, args)
        holes = Holes(limit=None if args.json else 1000)
        if args.format == "raw":
            _raw(reader, args, out, holes)
        elif args.json:
            out.document(_facts(reader, args, holes))
        else:
            _lines(reader, args, out, holes)
        holes.report(out, args.length)
    return 0 if holes.missing < args.length else 1


def _reader(dump: "Dump", args: argparse.Namespace) -> "Reader":
    return dump.phys if args.phys else virtual_reader(dump, args)


def _pieces(
    reader: "Reader", args: argparse.Namespace, holes: Holes, fill: int = 0
) -> Iterator[tuple[int, bytes, list[Hole]]]:
    """Yield (address, bytes, holes in them) piece by piece, and collect the holes."""
    for start in range(args.address, args.address + args.length, _PIECE):
        size = min(_PIECE, args.address + args.length - start)
        data, gaps = reader.read_gaps(start, size, fill)
        found = [Hole(gap.address, gap.size, gap.reason) for gap in gaps]
        for hole in found:
            holes.add(hole)
        yield start, data, found


def _lines(reader: "Reader", args: argparse.Namespace, out: Output, holes: Holes) -> None:
    from kdmp.hexdump import hexdump_lines

    last = args.address + args.length - 1
    digits = 8 if last < 1 << 32 and (args.phys or reader.pointer_size == 4) else 16
    for start, data, found in _pieces(reader, args, holes):
        pairs = [(hole.address, hole.size) for hole in found]
        width = _WIDTHS[args.format]
        out.lines(hexdump_lines(data, start, holes=pairs, width=width, address_digits=digits))


def _raw(reader: "Reader", args: argparse.Namespace, out: Output, holes: Holes) -> None:
    if args.fill is None:
        _refuse_holes(reader, args)
    for _, data, _ in _pieces(reader, args, holes, args.fill or 0):
        out.data(data)


def _refuse_holes(reader: "Reader", args: argparse.Namespace) -> None:
    """Raise the reason of the first missing byte before anything is written."""
    for start in range(args.address, args.address + args.length, _PIECE):
        size = min(_PIECE, args.address + args.length - start)
        if not reader.is_readable(start, size):
            _, gaps = reader.read_gaps(start, size)
            if gaps:
                gaps[0].reason.add_note("--fill BYTE writes a byte for each that is missing")
                raise gaps[0].reason


def _facts(reader: "Reader", args: argparse.Namespace, holes: Holes) -> Json:
    width = _WIDTHS[args.format]
    segments: list[Json] = []
    values: list[int | None] = []
    for start, data, found in _pieces(reader, args, holes):
        if width == 1:
            _add_segments(segments, start, data, found)
        else:
            values += _values(start, data, found, width)
    facts: Json = {"file": args.file, "address": args.address, "size": args.length}
    facts["space"] = "physical" if args.phys else "virtual"
    if not args.phys:
        facts["paging"] = reader.paging
        if reader.dtb is not None:
            facts["dtb"] = reader.dtb
    facts["read"] = args.length - holes.missing
    facts["format"] = args.format
    facts |= {"segments": segments} if width == 1 else {"values": values}
    facts["holes"] = [hole_facts(hole) for hole in holes.kept]
    return facts


def _add_segments(segments: list[Json], start: int, data: bytes, found: list[Hole]) -> None:
    """Append the stretches of `data` between the holes, or to the last one if that ended here."""
    at = start
    ends = [(hole.address, hole.address + hole.size) for hole in found] + [(start + len(data), 0)]
    for stop, after in ends:
        if at < stop:
            text = data[at - start : stop - start].hex()
            if segments and segments[-1]["address"] + segments[-1]["size"] == at:
                segments[-1]["size"] += stop - at
                segments[-1]["hex"] += text
            else:
                segments.append({"address": at, "size": stop - at, "hex": text})
        at = after


def _values(start: int, data: bytes, found: list[Hole], width: int) -> list[int | None]:
    """The little-endian numbers in `data`; None for those that miss a byte, or are cut off by the end."""
    whole = len(data) // width
    values: list[int | None] = [
        int.from_bytes(data[k * width : (k + 1) * width], "little") for k in range(whole)
    ]
    if len(data) % width:
        values.append(None)
    for hole in found:
        first = (hole.address - start) // width
        stop = -(-(hole.address + hole.size - start) // width)
        values[first:stop] = [None] * (min(stop, len(values)) - first)
    return values
