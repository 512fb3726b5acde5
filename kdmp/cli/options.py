"""Arguments that several commands share, and opening what they name.

SPDX-License-Identifier: MIT
"""

import argparse
from typing import TYPE_CHECKING

from kdmp.cli.values import address

if TYPE_CHECKING:
    from kdmp import Dump, Reader

PAGINGS = ("x64", "la57", "x86", "pae", "arm64")


class UsageError(Exception):
    """Arguments that do not go together: exit code 2."""


def add_file(parser: argparse.ArgumentParser) -> None:
    """Add FILE, --json and --io."""
    parser.add_argument("file", metavar="FILE", help="the dump")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.add_argument(
        "--io",
        choices=("map", "read"),
        default="map",
        help="map the file (default), or read it piece by piece: for files that may change or go away",
    )


def add_space(parser: argparse.ArgumentParser) -> None:
    """Add --dtb and --paging: which address space."""
    parser.add_argument(
        "--dtb", metavar="DTB", type=address, help="page-table root to translate by (default: the header's)"
    )
    parser.add_argument(
        "--paging", choices=PAGINGS, help="how to walk the page tables (default: what the dump says)"
    )


def open_dump(args: argparse.Namespace) -> "Dump":
    """The dump that FILE names."""
    import kdmp

    return kdmp.open(args.file, io=args.io)


def virtual_reader(dump: "Dump", args: argparse.Namespace) -> "Reader":
    """The address space that --dtb and --paging choose."""
    return dump.reader(dtb=args.dtb, paging=args.paging)
