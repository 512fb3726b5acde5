"""Which memory `kdmp search` and `kdmp strings` go through, and whose it is.

SPDX-License-Identifier: MIT
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from kdmp.cli.options import UsageError, add_file, add_space, add_symbols, virtual_reader
from kdmp.cli.output import Json, Output, Progress
from kdmp.cli.processes import add_process, chosen, heading
from kdmp.cli.values import address, length

if TYPE_CHECKING:
    from kdmp import Dump, Reader
    from kdmp.ownership import Belonging, Ownership
    from kdmp.windows.processes import Process


class Space(NamedTuple):
    """The address space that is searched, and whose memory it is if that was asked for."""

    reader: "Reader"
    process: "Process | None"
    ownership: "Ownership | None"

    def owners(self, va: int | None, pa: int | None) -> "list[Belonging]":
        """Whose memory a find is."""
        return [] if self.ownership is None else self.ownership.of(va, pa)

    def remark(self, out: Output) -> None:
        """Say on stderr if not all owners can be known."""
        if self.ownership is not None and not self.ownership.complete:
            out.note("not all page tables were looked at: there may be owners that are not shown")

    def facts(self) -> Json:
        """Which space it is, for JSON."""
        facts: Json = {"space": "physical" if self.reader.paging == "physical" else "virtual"}
        if self.reader.paging != "physical":
            facts |= {"paging": self.reader.paging, "dtb": self.reader.dtb, "pid": None}
            if self.process is not None:
                facts["pid"] = self.process.pid
        return {name: value for name, value in facts.items() if value is not None}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add FILE, the choice of memory, --limit, --threads, --owner, --csv and --symbols."""
    add_file(parser)
    group = parser.add_argument_group("what memory (default: physical; of a triage dump, what it holds)")
    group.add_argument("--physical", action="store_true", help="physical memory")
    group.add_argument(
        "--virtual", action="store_true", help="the address space of the header's page-table root"
    )
    add_process(parser)
    add_space(parser)
    parser.add_argument("--start", metavar="ADDR", type=address, default=0, help="where to begin")
    parser.add_argument(
        "--last", metavar="ADDR", type=address, help="the last address where a find may begin"
    )
    parser.add_argument(
        "--order",
        choices=("address", "file"),
        default="address",
        help="of the results: by address (default), or physical memory by its place in the file",
    )
    parser.add_argument(
        "--unique", action="store_true", help="an address space: each frame only where it is first"
    )
    parser.add_argument("--limit", metavar="N", type=length, help="stop after N finds")
    parser.add_argument(
        "--threads", metavar="N", type=int, help="how many threads search (default: all processors)"
    )
    parser.add_argument("--owner", action="store_true", help="tell whose memory it is: process or module")
    parser.add_argument("--csv", action="store_true", help="print comma-separated values instead of text")
    add_symbols(parser)


def check(args: argparse.Namespace) -> None:
    """Raise UsageError for arguments that do not go together."""
    if args.csv and args.json:
        raise UsageError("--csv and --json exclude each other")
    virtual = [args.virtual, args.dtb is not None, args.pid is not None, args.name is not None]
    if args.physical and any([*virtual, args.paging is not None]):
        raise UsageError("--physical is without page tables: no --virtual, --dtb, --paging, --pid or --name")
    if sum(virtual[2:]) and any(virtual[:2]):
        raise UsageError("--pid and --name say which space it is: no --virtual or --dtb with them")
    if args.threads is not None and not 1 <= args.threads <= 256:
        raise UsageError("--threads: 1 to 256")
    if args.last is not None and args.last < args.start:
        raise UsageError(f"--last {args.last:#x} lies before --start {args.start:#x}")


def threads(args: argparse.Namespace) -> int:
    """How many threads to search with."""
    return args.threads or min(os.cpu_count() or 1, 256)


def chosen_space(dump: "Dump", args: argparse.Namespace) -> Space:
    """The space that the arguments name; KdmpError if there is none, or more than one process."""
    reader, process = _reader(dump, args)
    if args.order == "file" and reader.paging != "physical":
        raise UsageError("--order file: only physical memory has an order in the file")
    if not args.owner:
        return Space(reader, process, None)
    from kdmp.ownership import Ownership

    return Space(reader, process, Ownership(dump, reader, process))


def _reader(dump: "Dump", args: argparse.Namespace) -> "tuple[Reader, Process | None]":
    from kdmp import KdmpError, UnsupportedDumpError

    if args.pid is not None or args.name is not None:
        if dump.layout == "triage":
            raise UnsupportedDumpError("a triage dump has no address spaces of processes")
        found = chosen(dump.windows, args)
        if len(found) > 1:
            error = KdmpError(f"there are {len(found)} processes {args.name!r}")
            error.add_note("--pid N names one: " + ", ".join(heading(process) for process in found[:8]))
            raise error
        reader = found[0].reader
        return (reader if args.paging is None else dump.reader(reader.dtb, args.paging)), found[0]
    virtual = args.virtual or args.dtb is not None or args.paging is not None
    if (dump.layout == "triage" and not args.physical) or virtual:
        return virtual_reader(dump, args), None
    return dump.phys, None


@contextlib.contextmanager
def searching(out: Output, title: str) -> Iterator[Progress | None]:
    """A progress bar, unless results are written to the same terminal."""
    if sys.stdout.isatty():
        yield None
        return
    with out.progress(title) as progress:
        yield progress


def owner_text(owners: "list[Belonging]") -> str:
    """Owners as a cell of a table: the first, and how many more there are."""
    if not owners:
        return "-"
    return str(owners[0]) + (f" +{len(owners) - 1}" if len(owners) > 1 else "")


def place_text(value: int | None, digits: int = 0) -> str:
    """An address or offset as a cell of a table; "-" for none."""
    return "-" if value is None else f"{value:#0{digits + 2}x}"


def digits(space: Space) -> int:
    """How many hexadecimal digits an address has."""
    if space.reader.paging == "physical" or space.reader.pointer_size == 4:
        return 8
    return 16


def owner_facts(owners: "list[Belonging]") -> Any:
    """Owners as JSON."""
    return [owner.to_dict() for owner in owners]
