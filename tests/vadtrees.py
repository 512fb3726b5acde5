"""VAD trees made by hand for every release, by tables of their own: nothing here asks a layout.

The tables are those of the public type information, written down a second time: node, page numbers and flags
by build number.

SPDX-License-Identifier: MIT
"""

from dataclasses import dataclass, field

VADS = 0xFFFF_8A00_0000_1000
STEP = 0x100


@dataclass
class Made:
    """What a VAD says."""

    start: int
    end: int
    type: int = 0
    protection: int = 4
    private: bool = True
    commit: int = 0
    mem_commit: bool = False
    tag: bytes = b"VadS"
    more: dict = field(default_factory=dict)  # offset -> u64, behind the short part


def shape(build, arch):
    """Offsets of a release: (root is right child at, node, page numbers, flags word, second word)."""
    if arch == "x86" and build == 2600:
        return {"root": 0, "left": 0xC, "right": 0x10, "parent": 8, "start": 0, "end": 4, "u": 0x14, "p": 4}
    if arch == "x86" and build < 9200:
        return {"root": 8, "left": 4, "right": 8, "parent": 0, "start": 0xC, "end": 0x10, "u": 0x14, "p": 4}
    if arch == "x86" and build < 9600:
        return {"root": 8, "left": 4, "right": 8, "parent": 0, "start": 0xC, "end": 0x10, "u": 0x18,
                "u1": 0x1C, "p": 4}  # fmt: skip
    if arch == "x86":
        return {"root": 0, "left": 0, "right": 4, "parent": 8, "start": 0xC, "end": 0x10, "u": 0x1C,
                "u1": 0x20, "p": 4}  # fmt: skip
    if build < 9200:
        return {"root": 0x10, "left": 8, "right": 0x10, "parent": 0, "start": 0x18, "end": 0x20, "wide": True,
                "u": 0x28, "p": 8}  # fmt: skip
    if build < 9600:
        return {"root": 0x10, "left": 8, "right": 0x10, "parent": 0, "start": 0x18, "end": 0x1C, "u": 0x28,
                "u1": 0x2C, "p": 8}  # fmt: skip
    return {"root": 0, "left": 0, "right": 8, "parent": 0x10, "start": 0x18, "end": 0x1C, "high": 0x20,
            "u": 0x30, "u1": 0x34, "p": 8}  # fmt: skip


def words(made, build, arch):
    """The two words of flags."""
    if arch == "x86" and build == 2600:
        bit = {0: 0, 1: 1 << 19, 2: 1 << 20, 3: 1 << 21, 4: 1 << 23, 5: 1 << 29}[made.type]
        return made.commit | bit | made.protection << 24 | made.mem_commit << 30 | made.private << 31, 0
    if arch == "x86" and build < 9200:
        word = made.commit | made.type << 20 | made.mem_commit << 23 | made.protection << 24
        return word | made.private << 31, 0
    if build < 9200:
        word = made.commit | made.type << 52 | made.mem_commit << 55 | made.protection << 56
        return word | made.private << 63, 0
    second = (made.commit & (1 << 31) - 1) | made.mem_commit << 31
    if build < 18362:
        private = 14 if build >= 17134 else 15
        return made.type | made.protection << 3 | made.private << private, second
    private = 21 if build >= 20348 else 20
    word = made.type << 4 | made.protection << 7 | made.private << private
    if build >= 26100:
        return word | (made.mem_commit << 25 if made.private else 0), made.commit & 0xFFFF_FFFF
    return word, second


def put(space, made, address, build, arch, *, left=0, right=0, parent=0, flags=None):
    """Write one VAD."""
    at = shape(build, arch)
    width = at["p"]
    space.put(address - 0x10, bytes(0x10) + bytes(0x90))
    space.put(address - (12 if width == 8 else 4), made.tag)
    space.put_uint(address + at["left"], left, width)
    space.put_uint(address + at["right"], right, width)
    space.put_uint(address + at["parent"], parent, width)
    first, last = made.start >> 12, made.end >> 12
    size = 8 if at.get("wide") else 4
    space.put_uint(address + at["start"], first & (1 << 8 * size) - 1, size)
    space.put_uint(address + at["end"], last & (1 << 8 * size) - 1, size)
    if "high" in at:
        space.put(address + at["high"], bytes([first >> 32, last >> 32]))
        charge = made.commit >> (32 if build >= 26100 else 31)
        space.put(address + at["high"] + 2, bytes([charge]))
    word, second = words(made, flags or build, arch)
    space.put_uint(address + at["u"], word, 8 if at.get("wide") else 4)
    if "u1" in at:
        space.put_uint(address + at["u1"], second, 4)
    for offset, value in made.more.items():
        space.put_uint(address + offset, value, width)


def address_of(number, arch="x64"):
    return (VADS if arch != "x86" else 0x8A00_1000) + 0x40 + number * STEP


def tree(space, mades, root_field, build, arch, *, flags=None):
    """Write a balanced tree; returns {address: Made}. `root_field` is the address of EPROCESS.VadRoot."""
    order = sorted(range(len(mades)), key=lambda n: mades[n].start)
    links = {}
    root = _balance(order, 0, links)
    at = shape(build, arch)
    for number, (left, right, parent) in links.items():
        put(space, mades[number], address_of(number, arch), build, arch,
            left=_at(left, arch), right=_at(right, arch), parent=_at(parent, arch), flags=flags)  # fmt: skip
    space.put_uint(root_field + at["root"], _at(root, arch), at["p"])
    return {address_of(n, arch): made for n, made in enumerate(mades)}


def _at(number, arch):
    return 0 if number is None else address_of(number, arch)


def _balance(order, depth, links, parent=None):
    if not order:
        return None
    middle = len(order) // 2
    number = order[middle]
    left = _balance(order[:middle], depth + 1, links, number)
    right = _balance(order[middle + 1 :], depth + 1, links, number)
    links[number] = (left, right, parent)
    return number
