"""The slow and obvious way to search memory: all that is readable, byte by byte.

SPDX-License-Identifier: MIT
"""

import re

import kdmp
from kdmp.patterns import as_patterns

PAGE = 0x1000


def pages(reader, start=0, last=(1 << 64) - 1):
    """Addresses and bytes of the readable pages, ascending. (Pages: parts of ranges in a triage dump.)"""
    if reader.paging == "triage":
        found = {}
        for part in reader.dump.va_ranges():
            for address in range(part.address, part.address + part.size):
                found[address] = reader.read(address, 1)
        yield from sorted((address, data) for address, data in found.items() if data)
        return
    if reader.paging == "physical":
        frames = set(reader.dump.pages)
        if reader.overlay is not None:
            frames |= {pfn for pfn, _, _ in reader.overlay.frames()}
        addresses = (pfn << 12 for pfn in sorted(frames))
    else:
        addresses = (va for one in reader.mappings() for va in range(one.start, one.start + one.size, PAGE))
    for address in addresses:
        if start - PAGE < address <= last:
            data = reader.read(address, PAGE)
            if data:
                assert len(data) == PAGE
                yield address, data


def runs(reader, start=0, last=(1 << 64) - 1):
    """Address and bytes of the stretches that are contiguous."""
    address, parts, end = 0, [], None
    for at, data in pages(reader, start, last):
        if at != end and parts:
            yield address, b"".join(parts)
            parts = []
        if not parts:
            address = at
        parts.append(data)
        end = at + len(data)
    if parts:
        yield address, b"".join(parts)


def spans(pattern, data, pointer_size, step=1, base=0):
    """Start and end of what matches in one run, and what is known besides."""
    if pattern.kind == "regex":
        for match in pattern.expression.finditer(data):
            if match.end() > match.start():
                yield *match.span(), None
    elif pattern.kind == "pointers":
        size = pattern.pointer_size or pointer_size
        step = max(step, pattern.alignment or size)
        for at in range(-base % step, len(data) - size + 1, step):
            if pattern.first <= int.from_bytes(data[at : at + size], "little") <= pattern.last:
                yield at, at + size, None
    else:
        for value, mask, encoding in pattern.sequences:
            mask = mask or b"\xff" * len(value)
            needed = [(k, bits, value[k] & bits) for k, bits in enumerate(mask) if bits]
            first, mask, byte = needed.pop(0)
            for at in range(len(data) - len(value) + 1):
                if data[at + first] & mask == byte and all(
                    data[at + k] & bits == other for k, bits, other in needed
                ):
                    yield at, at + len(value), encoding


def search(reader, what, start=0, last=(1 << 64) - 1, alignment=1):
    """(address, number, size, encoding) of all matches that begin in [start, last], ascending."""
    found = []
    for number, pattern in enumerate(as_patterns(what)):
        for address, data in runs(reader):
            if pattern.kind == "regex" and address < start < address + len(data):
                address, data = start, data[start - address :]
            for at, end, detail in spans(pattern, data, reader.pointer_size, alignment, address):
                if start <= address + at <= last and (address + at) % alignment == 0:
                    found.append((address + at, number, end - at, detail))
    return sorted(found, key=lambda hit: hit[:3])


def hits(found):
    """What `Reader.search` found, in the form of `search` here."""
    return [(match.address, match.number, match.size, match.encoding) for match in found]


_ASCII = re.compile(rb"[\t -~]+")
_WIDE = re.compile(rb"(?:[\t -~\xa0-\xff]\0)+")


def strings(reader, least=4, encodings=("ascii", "utf-16-le")):
    """(address, encoding, text) of all texts, for runs of less than 64 KiB."""
    found = []
    for address, data in runs(reader):
        if "ascii" in encodings:
            for match in _ASCII.finditer(data):
                if len(match[0]) >= least:
                    found.append((address + match.start(), "ascii", match[0].decode("ascii")))
        if "utf-16-le" in encodings:
            for odd in (0, 1):
                # Units lie at addresses of one parity: each parity has its own runs.
                for at, units in _units(data, odd - address & 1):
                    if len(units) >= least:
                        found.append((address + at, "utf-16-le", units))
    return sorted(found)


def _units(data, first):
    """(place, text) of the runs of characters in the units from `first` on."""
    text, begin = "", first
    for at in range(first, len(data) + 1, 2):
        unit = data[at : at + 2]
        if len(unit) == 2 and _WIDE.fullmatch(unit):
            begin = begin if text else at
            text += chr(unit[0])
        elif text:
            yield begin, text
            text = ""
    if text:
        yield begin, text


def place(reader, address):
    """Physical address and file offset of an address, (None, None) if it has none."""
    if reader.paging == "triage":
        for part in reader.dump.va_ranges():
            if part.address <= address < part.address + part.size:
                return None, part.file_offset + address - part.address
        return None, None
    pa = address if reader.paging == "physical" else reader.translate(address).pa
    for run in reader.dump.pages.runs():
        if run.pfn <= pa >> 12 < run.pfn + run.count:
            return pa, run.file_offset + pa - (run.pfn << 12)
    return pa, None


assert kdmp
