"""PE images as they lie in memory, 32 and 64 bit, and memory with holes to read them from.

SPDX-License-Identifier: MIT
"""

import struct
import uuid

import kdmp

PAGE = 0x1000
GUID = uuid.UUID("12345678-9abc-def0-1122-334455667788")
EXPORTS, DEBUG, RESOURCES = 0x2000, 0x5000, 0x6000
SIZE = 0x9000


class FakeReader:
    """Memory made of pages; a page that is not there is a hole."""

    def __init__(self, width=8):
        self.pages = {}
        self.pointer_size = width
        self.reads = 0

    def put(self, va, data):
        while data:
            number, offset = divmod(va, PAGE)
            part = data[: PAGE - offset]
            page = self.pages.setdefault(number, bytearray(PAGE))
            page[offset : offset + len(part)] = part
            va, data = va + len(part), data[len(part) :]

    def drop(self, va):
        del self.pages[va // PAGE]

    def read(self, va, size):
        self.reads += 1
        if va < 0 or va >= 1 << 64:
            raise OverflowError("address")
        parts = []
        while size > 0:
            number, offset = divmod(va, PAGE)
            if number not in self.pages:
                break
            part = bytes(self.pages[number][offset : offset + size])
            parts.append(part)
            va, size = va + len(part), size - len(part)
        return b"".join(parts)

    def read_exact(self, va, size):
        data = self.read(va, size)
        if len(data) < size:
            raise kdmp.UnreadableError(f"nothing at {va + len(data):#x}")
        return data

    def try_read_exact(self, va, size):
        data = self.read(va, size)
        return data if len(data) == size else None

    def read_uint(self, va, size):
        return int.from_bytes(self.read_exact(va, size), "little")

    def read_u16(self, va):
        return self.read_uint(va, 2)

    def read_u32(self, va):
        return self.read_uint(va, 4)

    def read_u64(self, va):
        return self.read_uint(va, 8)


def block(key, value=b"", children=(), *, text=False):
    """A block of a version resource; its length does not count the padding behind it."""
    body = key.encode("utf-16-le") + b"\0\0"
    body += bytes(-(6 + len(body)) % 4) + value
    for child in children:
        body += bytes(-(6 + len(body)) % 4) + child
    size = len(value) // 2 if text else len(value)
    return struct.pack("<HHH", 6 + len(body), size, int(text)) + body


def version_resource(strings, version=(10, 0, 19041, 804), product=(10, 0, 19041, 1)):
    """VS_VERSIONINFO with a string table."""

    def pair(v):
        return v[0] << 16 | v[1], v[2] << 16 | v[3]

    fixed = struct.pack(
        "<13I", 0xFEEF04BD, 0x10000, *pair(version), *pair(product), 0x3F, 0x1, 0x40004, 3, 7, 0, 0
    )
    table = block(
        "040904B0", children=[block(k, (v + "\0").encode("utf-16-le"), text=True) for k, v in strings]
    )
    translation = block("VarFileInfo", children=[block("Translation", struct.pack("<HH", 0x409, 0x4B0))])
    return block("VS_VERSION_INFO", fixed, [translation, block("StringFileInfo", children=[table])])


def resources(version, at=RESOURCES):
    """A resource section: a group of icons, and the version."""

    def directory(*entries):
        return struct.pack("<IIHHHH", 0, 0, 0, 0, 0, len(entries)) + b"".join(
            struct.pack("<II", *entry) for entry in entries
        )

    sub = 1 << 31
    data = bytearray(0xA0)
    data[0:] = directory((14, sub | 0x40), (16, sub | 0x20))
    data = data.ljust(0xA0, b"\0")
    data[0x20:0x38] = directory((1, sub | 0x60))
    data[0x40:0x58] = directory((1, sub | 0x60))
    data[0x60:0x78] = directory((0x409, 0x80))
    data[0x80:0x90] = struct.pack("<IIII", at + 0xA0, len(version), 0, 0)
    return bytes(data) + version


def exports(functions, names, *, base=5, at=EXPORTS, name=b"ntoskrnl.exe", size=0x3000):
    """An export directory: `functions` are RVAs (or forwarder texts), `names` is {name: index}."""
    functions = list(functions)
    table = at + 40
    name_table = table + 4 * len(functions)
    ordinals = name_table + 4 * len(names)
    text_at = ordinals + 2 * len(names)
    texts = bytearray()

    def text(value):
        place = text_at + len(texts)
        texts.extend(value.encode() if isinstance(value, str) else value)
        texts.append(0)
        return place

    own = text(name)
    rvas = [text(f) if isinstance(f, str) else f for f in functions]
    ordered = sorted(names, key=str.encode)
    places = [text(n) for n in ordered]
    data = struct.pack("<IIHH7I", 0, 0, 0, 0, own, base, len(rvas), len(ordered), table, name_table, ordinals)
    data += struct.pack(f"<{len(rvas)}I", *rvas) + struct.pack(f"<{len(places)}I", *places)
    data += struct.pack(f"<{len(places)}H", *(names[n] for n in ordered)) + bytes(texts)
    assert len(data) <= size
    return data


def image(
    *, wide=True, export_data=b"", resource_data=b"", pdb=b"c:\\build\\ntkrnlmp.pdb", reproducible=False,
    nb10=False, stamp=0x5E00E21E, size=SIZE, sections=None,
):  # fmt: skip
    """The memory of an image, `size` bytes."""
    data = bytearray(size)
    nt = 0xE8
    data[0:2] = b"MZ"
    struct.pack_into("<I", data, 0x3C, nt)
    if sections is None:
        sections = [(b".text", 0x1000, 0x1000, 0x68000020), (b"INITDATA", 0x800, 0x8000, 0xC2000040)]
    optional = 0xF0 if wide else 0xE0
    struct.pack_into(
        "<4sHHIIIHH",
        data,
        nt,
        b"PE\0\0",
        0x8664 if wide else 0x14C,
        len(sections),
        stamp,
        0,
        0,
        optional,
        0x2022,
    )
    at = nt + 0x18
    struct.pack_into("<HBBIIII", data, at, 0x20B if wide else 0x10B, 14, 20, 0, 0, 0, 0x1010)
    if wide:
        struct.pack_into("<Q", data, at + 0x18, 0x140000000)
    else:
        struct.pack_into("<I", data, at + 0x1C, 0x400000)
    struct.pack_into(
        "<II6HIIIIHH", data, at + 0x20, 0x1000, 0x200, 10, 1, 10, 2, 6, 3, 0, size, 0x400, 0xABCDE, 1, 0x4160
    )
    table = at + (0x70 if wide else 0x60)
    struct.pack_into("<I", data, table - 4, 16)
    entries = [(16, 0, 0)] if reproducible else []
    record = struct.pack("<4s16sI", b"RSDS", GUID.bytes_le, 0x1F)
    if nb10:
        record = struct.pack("<4sIII", b"NB10", 0, 0x3B7D8410, 2)
    record += pdb + b"\0"
    entries.append((2, len(record), DEBUG + 0x100))
    for number, (kind, length, rva) in enumerate(entries):
        struct.pack_into("<IIHHIIII", data, DEBUG + 28 * number, 0, 0, 0, 0, kind, length, rva, 0)
    data[DEBUG + 0x100 : DEBUG + 0x100 + len(record)] = record
    struct.pack_into("<II", data, table + 6 * 8, DEBUG, 28 * len(entries))
    if export_data:
        struct.pack_into("<II", data, table, EXPORTS, len(export_data))
        data[EXPORTS : EXPORTS + len(export_data)] = export_data
    if resource_data:
        struct.pack_into("<II", data, table + 2 * 8, RESOURCES, len(resource_data))
        data[RESOURCES : RESOURCES + len(resource_data)] = resource_data
    for number, (name, length, rva, flags) in enumerate(sections):
        struct.pack_into("<8sIIII", data, at + optional + 40 * number, name, length, rva, length, 0x400)
        struct.pack_into("<I", data, at + optional + 40 * number + 36, flags)
    assert len(data) == size
    return bytes(data)
