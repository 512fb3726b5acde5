"""`kdmp drivers`: the drivers that a triage dump lists, loaded and unloaded.

SPDX-License-Identifier: MIT
"""

import argparse
from typing import TYPE_CHECKING

from kdmp.cli.options import add_file, open_dump
from kdmp.cli.output import Json, Output, hexa, plural
from kdmp.cli.triagefacts import driver_facts

if TYPE_CHECKING:
    from kdmp import Dump
    from kdmp.triage import TriageUnloadedDriver

HELP = "list the loaded drivers of a triage dump, or those that were unloaded"


def configure(parser: argparse.ArgumentParser) -> None:
    """FILE, --unloaded, --json."""
    add_file(parser)
    parser.add_argument(
        "--unloaded", action="store_true", help="list the drivers that were unloaded (JSON has both lists)"
    )


def run(args: argparse.Namespace, out: Output) -> int:
    """Print one of the two lists."""
    with open_dump(args, out) as dump:
        facts, digits = _facts(dump), 2 * dump.pointer_size
    if out.json:
        out.document({"file": args.file, **facts})
        return 0
    if args.unloaded:
        listed = facts["unloaded"]
        rows = [(hexa(d["start"], digits), hexa(d["end"], digits), d["name"]) for d in listed]
        out.table(("start", "end", "name"), rows)
    else:
        listed = facts["drivers"]
        titles = ("base", "end", "size", "time stamp", "checksum", "image id", "name")
        out.table(titles, [_row(driver, digits) for driver in listed], right=("size", "checksum"))
    out.line(plural(len(listed), "unloaded driver" if args.unloaded else "driver"))
    if not args.unloaded and facts.get("broken_driver"):
        out.facts([("broken driver", facts["broken_driver"])])
    return 0


def _facts(dump: "Dump") -> Json:
    from kdmp import UnsupportedDumpError

    triage = dump.triage
    if triage is None:
        raise UnsupportedDumpError("only triage dumps have a list of drivers of their own")
    facts: Json = {
        "drivers": [driver_facts(driver) for driver in triage.drivers],
        "unloaded": [_unloaded(driver) for driver in triage.unloaded_drivers],
    }
    if triage.broken_driver:
        facts["broken_driver"] = triage.broken_driver
    return facts


def _unloaded(driver: "TriageUnloadedDriver") -> Json:
    return {**driver.to_dict(), "size": max(0, driver.end - driver.start)}


def _row(driver: Json, digits: int) -> tuple[str, ...]:
    return (
        hexa(driver["base"], digits),
        hexa(driver["end"], digits),
        hexa(driver["size"]),
        hexa(driver["timestamp"], 8),
        hexa(driver["checksum"]),
        driver["image_id"],
        driver.get("name", "(name unreadable)"),
    )
