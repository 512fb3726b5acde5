"""The facts of a triage dump, of secondary data and of packed files as plain data, for `kdmp info`.

SPDX-License-Identifier: MIT
"""

import os
from collections import Counter
from typing import TYPE_CHECKING

from kdmp.cli.options import unpacked
from kdmp.cli.output import Json

if TYPE_CHECKING:
    from kdmp import Dump
    from kdmp.triage import Triage, TriageDriver, TriageProcessor

# TriageOptions is all ones where the writer did not set it.
_UNSET = 0xFFFFFFFF
# Blobs are padded to 8 bytes: fewer behind the last one mean nothing.
_PADDING = 8


def triage_facts(dump: "Dump") -> Json | None:
    """What a triage dump has; None for other kinds. What it does not have is left out."""
    triage = dump.triage
    if triage is None:
        return None
    header = triage.header
    facts: Json = {
        "complete": triage.valid,
        "size_of_dump": header["size_of_dump"],
        "service_pack_build": header["service_pack_build"] or None,
        "options": None if header["triage_options"] == _UNSET else header["triage_options"],
        "overflowed": triage.overflowed,
        "drivers": len(triage.drivers),
        "drivers_claimed": header["driver_count"],
        "kernel": driver_facts(triage.drivers[0]) if triage.drivers else None,
        "unloaded_drivers": len(triage.unloaded_drivers) if header["unloaded_drivers_offset"] else None,
        "broken_driver": triage.broken_driver,
        **_memory(dump, triage),
        "processors": [processor_facts(processor) for processor in triage.processors()],
        "mm": _mm(triage),
    }
    return {name: value for name, value in facts.items() if value is not None}


def driver_facts(driver: "TriageDriver") -> Json:
    """A loaded driver: as stored, and `end` and `image_id`."""
    facts = {**driver.to_dict(), "end": driver.base + driver.size, "image_id": driver.image_id}
    return {name: value for name, value in facts.items() if value is not None}


def processor_facts(processor: "TriageProcessor") -> Json:
    """A processor: its number, where its KPRCB is, and where it was if its registers are there."""
    facts: Json = {"number": processor.number}
    if processor.prcb is not None:
        facts["prcb"] = processor.prcb
    if processor.context is not None:
        facts |= {"ip": processor.context.ip, "sp": processor.context.sp}
    return facts


def _memory(dump: "Dump", triage: "Triage") -> Json:
    """The stack, the data blocks, and the copies of structures."""
    ranges = triage.ranges
    blocks = [entry.size for entry in ranges if entry.origin == "data block"]
    address, stack = triage.stack
    copies = {
        "debugger_data": len(triage.debugger_data),
        "prcb": len(triage.prcb),
        "process": len(triage.process),
        "thread": len(triage.thread),
    }
    return {
        "stack": {"address": address, "size": len(stack)} if stack else None,
        "data_blocks": {
            "count": len(blocks),
            "claimed": triage.header["data_blocks_count"],
            "bytes": sum(blocks),
        },
        "copies": {name: size for name, size in copies.items() if size},
        "ranges": dict(Counter(entry.origin for entry in ranges)),
        "range_bytes": sum(entry.size for entry in ranges),
    }


def _mm(triage: "Triage") -> Json | None:
    """The memory manager's figures; None where the writer stored zeros only, as for carved dumps."""
    figures = None if triage.mm is None else triage.mm.to_dict()
    if figures is None:
        return None
    counts = set(figures) - {"version", "size"}
    return figures if any(figures[name] for name in counts) else None


def secondary_facts(dump: "Dump") -> Json | None:
    """How much secondary data there is; None if there is none."""
    from kdmp.secondary import build_number

    blobs = list(dump.blobs())
    build = build_number(dump, dump.figures["data_end"])
    if build is None:
        return None
    facts: Json = {"count": len(blobs), "bytes": sum(blob.size for blob in blobs), "build_number": build}
    facts["offset"] = dump.figures["data_end"]
    facts["truncated"] = any(blob.truncated for blob in blobs)
    # What a kernel reserved and did not use still holds what the disk held before.
    unused = dump.file_size - (blobs[-1].offset + blobs[-1].size) if blobs else 0
    if unused >= _PADDING:
        facts["unused_bytes"] = unused
    return facts


def packed_facts(dump: "Dump", file: str) -> Json | None:
    """What the dump was unpacked from; None if it was no packed file."""
    source = unpacked(dump)
    if source is None:
        return None
    facts: Json = {"containers": list(source.containers), "size": os.path.getsize(file)}
    if source.name is not None:
        facts["name"] = source.name
    if source.problem is not None:
        facts["problem"] = source.problem
    return facts


def raw_facts(dump: "Dump", *, pieces: bool) -> Json | None:
    """What kind of memory image it is, and how many runs of frames it has; None for a dump with a header."""
    if dump.layout != "raw":
        return None
    elf = not pieces and dump.file_size >= 4 and dump.read_file(0, 4) == b"\x7fELF"
    form = "elf" if elf else "pieces" if pieces else "flat"
    return {"format": form, "runs": sum(1 for _ in dump.pages.runs())}
