"""`--pagefile N=PATH`: the machine's page files, for the commands that can use them.

SPDX-License-Identifier: MIT
"""

import argparse

from kdmp.cli.options import UsageError


def add_pagefiles(parser: argparse.ArgumentParser) -> None:
    """Add --pagefile."""
    parser.add_argument(
        "--pagefile",
        metavar="N=PATH",
        type=_pagefile,
        action="append",
        default=[],
        help="page file number N (pagefile.sys is 0, usually); may be repeated",
    )


def pagefiles(args: argparse.Namespace) -> dict[int, str] | None:
    """The page files by number, None if there are none; UsageError for a number given twice."""
    files: dict[int, str] = {}
    for number, path in args.pagefile:
        if number in files:
            raise UsageError(f"--pagefile {number} is given twice")
        files[number] = path
    return files or None


def _pagefile(text: str) -> tuple[int, str]:
    number, equals, path = text.partition("=")
    if not (
        equals and path and number.isascii() and number.isdigit() and len(number) <= 2 and int(number) < 16
    ):
        raise argparse.ArgumentTypeError(f"not N=PATH with N from 0 to 15: {text[:80]!r}")
    return int(number), path
