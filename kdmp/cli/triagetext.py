"""The text of `kdmp info` about what only triage dumps have, and about secondary data.

SPDX-License-Identifier: MIT
"""

from collections.abc import Iterator

from kdmp.cli.output import Json, bytes_text, hexa, plural

Facts = Iterator[tuple[str, str]]

_COPIES = {
    "debugger_data": "debugger data (KDBG)",
    "prcb": "KPRCB",
    "process": "EPROCESS",
    "thread": "ETHREAD",
}


def triage_text(facts: Json, digits: int) -> Facts:
    """The lines for `triage_facts`; addresses have `digits` digits."""
    if not facts["complete"]:
        yield "cut short", f"no end mark before SizeOfDump ({facts['size_of_dump']:#x})"
    if "options" in facts:
        yield "triage options", hexa(facts["options"])
    if facts["overflowed"]:
        yield "overflowed", "not everything that was wanted fitted in"
    yield from _drivers(facts, digits)
    if "stack" in facts:
        start, size = facts["stack"]["address"], facts["stack"]["size"]
        yield "stack", f"{hexa(start, digits)} to {hexa(start + size - 1, digits)}, {bytes_text(size)}"
    blocks = facts["data_blocks"]
    count = plural(blocks["count"], "block")
    if blocks["count"] != blocks["claimed"]:
        count += f" of {blocks['claimed']} listed"
    yield "data blocks", f"{count}, {bytes_text(blocks['bytes'])}"
    if facts["copies"]:
        yield "copies of", ", ".join(f"{_COPIES[name]} {size}" for name, size in facts["copies"].items())
    yield from _processors(facts["processors"], digits)
    if "mm" in facts:
        yield from _mm(facts["mm"])


def _drivers(facts: Json, digits: int) -> Facts:
    count = str(facts["drivers"])
    if facts["drivers"] != facts["drivers_claimed"]:
        count += f" of {facts['drivers_claimed']} listed"
    unloaded = f", {facts['unloaded_drivers']} unloaded" if "unloaded_drivers" in facts else ""
    yield "drivers", f"{count} loaded{unloaded}"
    if "kernel" in facts:
        kernel = facts["kernel"]
        yield "  the first", f"{kernel.get('name', '(name unreadable)')} at {hexa(kernel['base'], digits)}"
        yield "  image id", kernel["image_id"]
    if facts.get("broken_driver"):
        yield "broken driver", facts["broken_driver"]


def _processors(processors: list[Json], digits: int) -> Facts:
    if not processors:
        return
    yield "control blocks", f"of {plural(len(processors), 'processor')}"
    for processor in processors:
        words = []
        if "prcb" in processor:
            words.append(f"KPRCB {hexa(processor['prcb'], digits)}")
        words.append(f"ip {hexa(processor['ip'], digits)}" if "ip" in processor else "no registers")
        yield f"  processor {processor['number']}", ", ".join(words)


def _mm(mm: Json) -> Facts:
    pages = f"{mm['committed_pages']} of {mm['commit_limit_maximum']}, peak {mm['committed_pages_peak']}"
    yield "committed pages", pages
    yield "nonpaged pool", f"{mm['allocated_nonpaged_pool']} of {mm['maximum_nonpaged_pool']}"
    yield "paged pool", f"{mm['paged_pool_allocated']} of {mm['paged_pool_maximum']}"
    if mm["special_pool_tag"]:
        yield "special pool tag", hexa(mm["special_pool_tag"])
    if mm["verify_driver_level"] or mm["kernel_verifier"]:
        yield "verifier", f"driver level {mm['verify_driver_level']:#x}, kernel {mm['kernel_verifier']:#x}"
    if mm["triage_action_taken"]:
        yield "triage action", hexa(mm["triage_action_taken"])


def secondary_text(facts: Json) -> Facts:
    """The lines about secondary data, if there is any."""
    secondary = facts.get("secondary_data")
    if secondary is None:
        return
    size = f"{plural(secondary['count'], 'blob')}, {bytes_text(secondary['bytes'])}"
    yield "secondary data", f"{size}, at file offset {secondary['offset']:#x}"
    yield "  of build", f"{secondary['build_number'] & 0xFFFFFFF} ({secondary['build_number']:#x})"
    if secondary["truncated"]:
        yield "  cut short", "the last blob goes on beyond the end of the file"
    if "unused_bytes" in secondary:
        yield "  behind it", f"{bytes_text(secondary['unused_bytes'])}, of no known part"
