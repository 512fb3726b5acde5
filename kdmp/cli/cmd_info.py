"""`kdmp info`: what a dump is and what its header says.

SPDX-License-Identifier: MIT
"""

import argparse
from collections.abc import Iterator
from datetime import datetime, timedelta

from kdmp.cli.facts import KIND_TEXT, PAGING_SOURCES, dump_facts
from kdmp.cli.options import add_file, add_space, open_dump
from kdmp.cli.output import Json, Output, bytes_text, hexa, plural
from kdmp.cli.triagetext import secondary_text, triage_text

HELP = "say what a dump is: kind, machine, time, bug check, pages"

Facts = Iterator[tuple[str, str]]

RAW_TEXT = {
    "elf": "memory image: ELF core of a virtual machine",
    "flat": "memory image: physical memory from address 0 on",
    "pieces": "memory image in pieces",
}

_ON_OFF = {0: "off", 1: "on"}
_DTB_SOURCES = {"trial": "found by trial", "argument": "as asked for"}


def configure(parser: argparse.ArgumentParser) -> None:
    """FILE, --json, --dtb, --paging."""
    add_file(parser)
    add_space(parser)


def run(args: argparse.Namespace, out: Output) -> int:
    """Print the facts."""
    with open_dump(args, out, dtb=args.dtb, paging=args.paging) as dump:
        facts = dump_facts(dump, args.file, pieces=bool(args.run))
    if out.json:
        out.document(facts)
    else:
        out.facts(_text(facts))
    return 0


def _text(facts: Json) -> Facts:
    digits = 2 * facts["pointer_size"]
    yield from _file(facts)
    yield from _system(facts)
    yield from _crash(facts, digits)
    yield from _addresses(facts, digits)
    yield from _pages(facts)
    if "triage" in facts:
        yield from triage_text(facts["triage"], digits)
    yield from secondary_text(facts)
    yield from _rest(facts)


def _file(facts: Json) -> Facts:
    yield "file", facts["file"]
    size = bytes_text(facts["file_size"])
    required = facts.get("required_dump_space")
    yield "file size", size if required is None else f"{size}, header asks for {required}"
    if "packed" in facts:
        packed = facts["packed"]
        inside = f", holds {packed['name']}" if "name" in packed else ""
        yield "packed", f"{' in '.join(reversed(packed['containers']))}, {bytes_text(packed['size'])}{inside}"
        if "problem" in packed:
            yield "  damaged", packed["problem"]
    if "kind" in facts:
        kind = facts["kind"]
        text = KIND_TEXT.get(kind["number"], "unknown to kdmp")
        yield "kind", f"{kind['number']} {kind['name']}: {text}"
    if "raw" in facts:
        yield "kind", f"{RAW_TEXT[facts['raw']['format']]}, {plural(facts['raw']['runs'], 'run')} of frames"
    yield "layout", facts["layout"]


def _system(facts: Json) -> Facts:
    machine = facts.get("machine")
    if machine is not None:
        yield "machine", f"{facts['arch']} ({machine['value']:#x})"
    if "build" in facts:
        checked = facts.get("checked_build")
        flavour = "" if checked is None else (" checked" if checked else " free")
        yield "build", f"{facts['build']}{flavour}"
    if "product_type" in facts:
        yield "product", _named(facts["product_type"])
    if "suite_mask" in facts:
        yield "suite", _flags(facts["suite_mask"])
    if "processors" in facts:
        yield "processors", str(facts["processors"])
    if "system_time" in facts:
        yield "crash time", f"{datetime.fromisoformat(facts['system_time']):%Y-%m-%d %H:%M:%S.%f} UTC"
    if "uptime_seconds" in facts:
        yield "uptime", str(timedelta(seconds=facts["uptime_seconds"]))
    if "boot_id" in facts:
        yield "boot id", str(facts["boot_id"])


def _crash(facts: Json, digits: int) -> Facts:
    bugcheck = facts.get("bugcheck")
    if bugcheck is not None:
        yield "bug check", f"{bugcheck['code']:#x} {bugcheck.get('name', '')}".rstrip()
        for number, parameter in enumerate(bugcheck["parameters"], 1):
            words = [hexa(parameter["value"], digits), parameter.get("name"), parameter.get("text")]
            yield f"  parameter {number}", "  ".join(word for word in words if word)
    exception = facts.get("exception")
    if exception is not None:
        yield "exception", f"{exception['code']:#x} {exception.get('code_name', '')}".rstrip()
        yield "  address", hexa(exception["address"], digits)
        for number, value in enumerate(exception["parameters"]):
            yield f"  information {number}", hexa(value, digits)


def _addresses(facts: Json, digits: int) -> Facts:
    if "dtb" in facts:
        source = _DTB_SOURCES.get(facts.get("dtb_source", ""))
        yield "dtb", f"{facts['dtb']:#x} ({source})" if source else hexa(facts["dtb"])
    elif "raw" in facts:
        yield "dtb", "none found by trial (--dtb names one)"
    if "paging" in facts:
        source = facts.get("paging_source")
        reason = PAGING_SOURCES.get(source, source) if source else None
        if "raw" in facts and source == "trial":
            reason = "with it the root was found"
        yield "paging", f"{facts['paging']} ({reason})" if reason else facts["paging"]
    if "pae_enabled" in facts:
        enabled = facts["pae_enabled"]
        yield "PAE", f"{_ON_OFF.get(enabled, hexa(enabled))}, says the header"
    for label, name in (
        ("KDBG", "kd_debugger_data_block"),
        ("module list", "ps_loaded_module_list"),
        ("process list", "ps_active_process_head"),
        ("PFN database", "pfn_database"),
    ):
        if name in facts:
            yield label, hexa(facts[name], digits)


def _pages(facts: Json) -> Facts:
    pages = facts.get("pages")
    if pages is None:
        held = "virtual ranges instead" if "triage" in facts else "no physical memory in this dump"
        yield "pages", f"none ({held})"
        return
    yield "pages", f"{pages['available']} of {pages['described']} described, {bytes_text(pages['bytes'])}"
    if pages["truncated"]:
        yield "truncated", f"{plural(pages['truncated'], 'page')} beyond the end of the file"
    if pages["claimed"] != pages["described"] and "raw" not in facts:
        yield "claimed", f"{plural(pages['claimed'], 'page')}, by the dump's own counter"
    if pages["overlapped"]:
        yield "overlapping", f"{plural(pages['overlapped'], 'page')} described more than once, the first wins"
    if pages["described"]:
        yield "highest frame", hexa(pages["pfn_end"] - 1)
    yield "first page at", f"file offset {pages['first_page_offset']:#x}"


def _rest(facts: Json) -> Facts:
    if "attributes" in facts:
        yield "attributes", _flags(facts["attributes"])
    if facts["live"]:
        yield "live", "the system ran on while this was written: lists may be torn"
    if facts["encrypted"]:
        yield "encrypted", "the page data cannot be read"
    if "mini_dump_fields" in facts:
        yield "triage parts", _flags(facts["mini_dump_fields"])
    if "writer_status" in facts:
        yield "writer status", _named(facts["writer_status"])
    if "secondary_data_state" in facts:
        yield "secondary state", hexa(facts["secondary_data_state"])
    if "kd_secondary_version" in facts:
        yield "KD secondary", f"version {facts['kd_secondary_version']}"
    if facts.get("version_user"):
        yield "version", facts["version_user"]
    if facts.get("comment"):
        yield "comment", facts["comment"]


def _named(value: Json) -> str:
    return f"{value['value']} {value['name']}" if "name" in value else f"{value['value']:#x}"


def _flags(value: Json) -> str:
    return f"{value['value']:#x} {', '.join(value['names'])}".rstrip()
