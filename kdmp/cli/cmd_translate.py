"""`kdmp translate`: the page walk behind a virtual address, entry by entry.

SPDX-License-Identifier: MIT
"""

import argparse
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from kdmp.cli.options import add_file, add_space, open_dump, virtual_reader
from kdmp.cli.output import Json, Output, bytes_text, hexa
from kdmp.cli.values import address

if TYPE_CHECKING:
    from kdmp import Dump, PageTableEntry, Translation, TranslationError

HELP = "translate a virtual address and show every page-table entry on the way"

# Names of the entries by level, and how the virtual address selects them: level -> (name, shift, bits).
_LONG = {
    5: ("PML5E", 48, 9),
    4: ("PML4E", 39, 9),
    3: ("PDPTE", 30, 9),
    2: ("PDE", 21, 9),
    1: ("PTE", 12, 9),
}
_LEVELS = {
    "x64": _LONG,
    "la57": _LONG,
    "pae": {3: ("PDPTE", 30, 2), 2: ("PDE", 21, 9), 1: ("PTE", 12, 9)},
    "x86": {2: ("PDE", 22, 10), 1: ("PTE", 12, 10)},
    "arm64": {4: ("L0", 39, 9), 3: ("L1", 30, 9), 2: ("L2", 21, 9), 1: ("L3", 12, 9)},
}

_RIGHTS = ("writable", "executable", "user", "copy_on_write")
# Paging modes whose entries have 32 bits.
_SHORT = ("x86",)
_BITS = (
    "accessed",
    "dirty",
    "write_through",
    "cache_disable",
    "pat",
    "hardware_writable",
    "nx_ignored",
    "unswizzled",
)


def configure(parser: argparse.ArgumentParser) -> None:
    """FILE VA, --json, --dtb, --paging."""
    add_file(parser)
    parser.add_argument("va", metavar="VA", type=address, help="the virtual address")
    add_space(parser)


def run(args: argparse.Namespace, out: Output) -> int:
    """Print the walk and where it ends; exit code 1 if it finds no page."""
    from kdmp import TranslationError, UnsupportedDumpError

    with open_dump(args, out) as dump:
        if dump.layout == "triage":
            refusal = UnsupportedDumpError("a triage dump holds virtual ranges, but no page tables")
            refusal.add_note("kdmp ranges lists what it holds, kdmp read shows the bytes")
            raise refusal
        reader = virtual_reader(dump, args)
        try:
            walk = reader.translate(args.va)
        except TranslationError as error:
            return _failed(args, out, error)
        facts = _facts(dump, walk)
    if out.json:
        out.document({"file": args.file, **facts})
    else:
        out.facts(_where(facts["va"], facts["dtb"], facts["paging"]))
        _show_entries(out, facts["entries"], facts["paging"])
        out.facts(_result(facts))
    return 0


def _failed(args: argparse.Namespace, out: Output, error: "TranslationError") -> int:
    """Show what was read before the walk failed, and why it did."""
    paging = error.paging or args.paging or ""
    entries = _entries(error.entries, args.va, paging)
    if out.json:
        pa = getattr(error, "pa", None)
        reason = {
            "type": type(error).__name__,
            "message": str(error),
            "state": error.state,
            "level": error.level,
            "pa": pa,
        }
        facts = {
            "file": args.file,
            "va": args.va,
            "dtb": error.dtb,
            "paging": error.paging,
            "entries": entries,
            "error": {name: value for name, value in reason.items() if value is not None},
        }
        out.document({name: value for name, value in facts.items() if value is not None})
    else:
        out.facts(_where(args.va, error.dtb, error.paging))
        _show_entries(out, entries, paging)
    out.note(f"{args.file}: {error}")
    return 1


def _facts(dump: "Dump", walk: "Translation") -> Json:
    facts: Json = {
        "va": walk.va,
        "dtb": walk.dtb,
        "paging": walk.paging,
        "entries": _entries(walk.entries, walk.va, walk.paging),
        "pa": walk.pa,
        "pfn": walk.pfn,
        "offset": walk.offset,
        "page_size": walk.page_size,
        "level": walk.level,
        "state": walk.state,
        "transition": walk.transition,
        "rights": {name: getattr(walk, name) for name in _RIGHTS},
        "global": walk.global_,
        "bits": {name: getattr(walk, name) for name in _BITS},
    }
    if walk.paging == "arm64":
        facts["rights"]["kernel_executable"] = walk.kernel_executable
    if walk.protection is not None:
        facts["protection"] = walk.protection
    # The tables do not promise that the frame itself was captured.
    frame = walk.pa >> 12
    run = next(iter(dump.pages[frame : frame + 1].runs()), None)
    facts["in_dump"] = run is not None
    if run is not None:
        facts["file_offset"] = run.file_offset + (walk.pa & 0xFFF)
    return facts


def _entries(entries: "Iterable[PageTableEntry]", va: int, paging: str) -> list[Json]:
    names = _LEVELS.get(paging, {})
    listed = []
    for entry in entries:
        name, shift, bits = names.get(entry.level, (f"level {entry.level}", 0, 0))
        fact: Json = {"level": entry.level, "name": name}
        if bits:
            fact["index"] = va >> shift & (1 << bits) - 1
        listed.append({**fact, "pa": entry.pa, "value": entry.value})
    return listed


def _where(va: int, dtb: int | None, paging: str | None) -> Iterator[tuple[str, str]]:
    yield "va", hexa(va)
    if dtb is not None:
        yield "dtb", f"{dtb:#x}" + (f" ({paging})" if paging else "")


def _show_entries(out: Output, entries: list[Json], paging: str) -> None:
    if not entries:
        return
    digits = 8 if paging in _SHORT else 16
    rows = [
        (
            entry["name"],
            hexa(entry["index"], 3) if "index" in entry else "",
            hexa(entry["pa"]),
            hexa(entry["value"], digits),
        )
        for entry in entries
    ]
    out.table(("entry", "index", "at", "value"), rows, right=("at",))


def _result(facts: Json) -> Iterator[tuple[str, str]]:
    yield "pa", hexa(facts["pa"])
    yield "frame", hexa(facts["pfn"])
    yield "page size", f"{bytes_text(facts['page_size'])}, offset {facts['offset']:#x}"
    rights = facts["rights"]
    words = [
        "read-write" if rights["writable"] else "read-only",
        "executable" if rights["executable"] else "no execute",
        "user" if rights["user"] else "kernel",
    ]
    if rights.get("kernel_executable", rights["executable"]) != rights["executable"]:
        words.append("kernel may execute" if rights["kernel_executable"] else "kernel may not execute")
    if rights["copy_on_write"]:
        words.append("copy on write")
    if facts["global"]:
        words.append("global")
    yield "rights", ", ".join(words)
    yield "state", facts["state"]
    set_bits = [name.replace("_", " ") for name, value in facts["bits"].items() if value]
    if set_bits:
        yield "bits", ", ".join(set_bits)
    if "protection" in facts:
        yield "protection", hexa(facts["protection"])
    yield (
        "in the dump",
        f"yes, at file offset {facts['file_offset']:#x}"
        if facts["in_dump"]
        else "no, the frame was not captured",
    )
