"""Arguments that several commands share, and opening what they name.

SPDX-License-Identifier: MIT
"""

import argparse
import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from kdmp.cli.output import Output, Progress
from kdmp.cli.values import address, piece

if TYPE_CHECKING:
    from kdmp import Dump, Reader
    from kdmp.packed import Unpacked

PAGINGS = ("x64", "la57", "x86", "pae", "arm64")
ARCHES = ("x64", "x86", "arm64")


class UsageError(Exception):
    """Arguments that do not go together: exit code 2."""


def add_file(parser: argparse.ArgumentParser, *, raw: bool = True) -> None:
    """Add FILE, --json, --io and, with `raw`, what memory images need: --raw, --arch and --run."""
    parser.add_argument("file", metavar="FILE", help="the dump; packed ones (.gz, .zip, .cab ...) open, too")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.add_argument(
        "--io",
        choices=("map", "read"),
        default="map",
        help="map the file (default), or read it piece by piece: for files that may change or go away",
    )
    if raw:
        _add_raw(parser)


def _add_raw(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("memory without a dump header")
    group.add_argument(
        "--raw",
        action="store_true",
        help="FILE is an image of physical memory, or the ELF core of a virtual machine",
    )
    group.add_argument("--arch", choices=ARCHES, help="the machine (default: what an ELF says, else x64)")
    group.add_argument(
        "--run",
        metavar="PFN:COUNT:OFFSET",
        type=piece,
        action="append",
        help="COUNT frames from frame PFN on are at file offset OFFSET; may be repeated "
        "(default: the whole file from frame 0 on, or what an ELF core lists)",
    )


def add_space(parser: argparse.ArgumentParser) -> None:
    """Add --dtb and --paging: which address space."""
    add_dtb(parser)
    parser.add_argument(
        "--paging", choices=PAGINGS, help="how to walk the page tables (default: what the dump says)"
    )


def add_dtb(parser: argparse.ArgumentParser) -> None:
    """Add --dtb alone."""
    parser.add_argument(
        "--dtb",
        metavar="DTB",
        type=address,
        help="page-table root to translate by (default: the header's; with --raw: found by trial)",
    )


def add_symbols(parser: argparse.ArgumentParser) -> None:
    """Add --symbols."""
    parser.add_argument(
        "--symbols",
        metavar="PATH",
        action="append",
        help="a symbol table (Volatility's ISF) or a folder of them; may be repeated "
        "(default: what KDMP_SYMBOLS lists)",
    )


def open_dump(args: argparse.Namespace, out: Output | None = None, **space: Any) -> "Dump":
    """The dump, or with --raw the memory image, that FILE names.

    Unpacking is shown as a progress bar when there is an `out` and stderr is a terminal. `space` is `dtb`
    and `paging` of `kdmp.open`.
    """
    import kdmp

    if not args.raw and (args.run or args.arch):
        raise UsageError("--arch and --run describe a memory image: they go with --raw")
    space["symbols"] = getattr(args, "symbols", None)
    with _unpacking(out) as progress:
        if args.raw:
            return _open_raw(args, progress, space)
        try:
            return kdmp.open(args.file, io=args.io, progress=progress, **space)
        except kdmp.WrongFileError as error:
            if "ELF" in str(error):
                error.add_note("--raw opens ELF cores of virtual machines, and images of physical memory")
            raise


def _open_raw(args: argparse.Namespace, progress: Progress | None, space: dict[str, Any]) -> "Dump":
    import kdmp
    from kdmp.packed import unpack

    with open(args.file, "rb") as file:
        head = file.read(8)
    if head in (b"PAGEDU64", b"PAGEDUMP") and not args.run:
        raise UsageError(f"{args.file}: is a crash dump, no memory image: leave out --raw")
    unpacked = unpack(args.file, progress=progress, any_content=True)
    source = args.file if unpacked is None else unpacked.source
    try:
        dump = kdmp.open_raw(source, args.run, arch=args.arch, io=args.io, **space)
    except BaseException as error:
        if unpacked is not None:
            unpacked.close()
        if isinstance(error, ValueError | OverflowError) and not isinstance(error, kdmp.KdmpError):
            raise UsageError(f"--run: {error}") from error
        raise
    dump._unpacked = unpacked  # closed with the dump
    return dump


def unpacked(dump: "Dump") -> "Unpacked | None":
    """What `dump` was unpacked from; None if it was no packed file."""
    return dump._unpacked


@contextlib.contextmanager
def _unpacking(out: Output | None) -> Iterator[Progress | None]:
    """A progress bar that appears with its first news: a file that is not packed has none."""
    if out is None or not sys.stderr.isatty():
        yield None
        return
    with contextlib.ExitStack() as stack:
        bar: Progress | None = None

        def update(done: int, total: int) -> None:
            nonlocal bar
            if bar is None:
                bar = stack.enter_context(out.progress("unpacking"))
            if bar is not None:
                bar(done, total)

        yield update


def virtual_reader(dump: "Dump", args: argparse.Namespace) -> "Reader":
    """The address space that --dtb and --paging choose."""
    from kdmp import RootNotPresentError, UnsupportedDumpError

    if dump.layout == "triage" and args.dtb is not None:
        raise UnsupportedDumpError("a triage dump holds no page tables: --dtb makes no sense with it")
    try:
        return dump.reader(dtb=args.dtb, paging=args.paging)
    except RootNotPresentError as error:
        error.add_note("--dtb DTB names the root")
        raise
