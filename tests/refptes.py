"""Windows' software PTEs, decoded from tables of bit ranges: the oracle for entries that are not valid.

One Layout per family, written from the field tables of the `_MMPTE` types and from the order of
decisions for an invalid entry, never from kdmp's code. A layout also knows its noise: the bits that mean
nothing for where a page is, so that tests can set them.

SPDX-License-Identifier: MIT
"""

from dataclasses import dataclass, replace

PROTOTYPE, TRANSITION = 10, 11  # the same bits everywhere
USUAL_MASK = 1 << 45


def bits(value, low, high):
    """The number in bits `low` to `high`, inclusive."""
    return value >> low & (1 << high - low + 1) - 1


def place(number, low, high):
    """The number put into these bits."""
    assert number >> high - low + 1 == 0, hex(number)
    return number << low


def mask_of(*ranges):
    return sum((1 << high - low + 1) - 1 << low for low, high in ranges)


@dataclass(frozen=True)
class Layout:
    """Bit ranges (low, high); a single bit is a number, None does not exist."""

    name: str
    paging: str
    low: tuple  # PageFileLow
    high: tuple  # PageFileHigh
    protection: tuple  # of software, transition and subsection PTEs
    frame: tuple  # PageFrameNumber of a transition PTE
    prototype_protection: tuple | None
    read_only: int
    address: tuple | None  # ProtoAddress
    swizzle: int | None = None
    split: tuple | None = None  # ((low part), (high part)) of an address in two parts
    noise_software: int = 0
    noise_transition: int = 0
    noise_prototype: int = 0
    build: str = ""

    @property
    def width(self):
        """Bits of an entry."""
        return 32 if self.paging == "x86" else 64

    @property
    def pointer(self):
        """Bits of an address."""
        return 32 if self.paging in ("x86", "pae") else 64

    @property
    def format(self):
        """The same as kdmp's `pte_format`."""
        prototype = self.prototype_protection or (63, 63)  # none
        return (
            mask_of(self.frame), self.swizzle or 0, self.protection[0], prototype[0], self.read_only,
            self.address[0] if self.address else 0, int(self.split is not None), self.low[0], self.high[0],
        )  # fmt: skip


X64_OLD7 = Layout(
    "x64 old 7", "x64", (1, 4), (32, 63), (5, 9), (12, 47), (11, 15), 8, (16, 63),
    noise_software=mask_of((12, 22)), noise_transition=mask_of((1, 4)), noise_prototype=mask_of((1, 7)),
)  # fmt: skip
X64_OLD8 = replace(
    X64_OLD7, name="x64 old 8", noise_software=mask_of((12, 31)), noise_prototype=mask_of((1, 7), (9, 9))
)
X64_OLD10 = replace(X64_OLD8, name="x64 old 10", noise_software=mask_of((12, 24)))
X64_NEW7601 = Layout(
    "x64 new 7601", "x64", (12, 15), (32, 63), (5, 9), (12, 47), (5, 9), 1, (16, 63), swizzle=4,
    noise_software=mask_of((1, 3), (16, 25)), noise_transition=mask_of((1, 3)),
    noise_prototype=mask_of((2, 3), (11, 15)),
)  # fmt: skip
X64_NEW = replace(
    X64_NEW7601, name="x64 new", frame=(12, 51), read_only=3,
    noise_software=mask_of((1, 3), (16, 27)), noise_prototype=mask_of((1, 2), (11, 15)),
)  # fmt: skip
LA57_NEW = replace(X64_NEW, name="la57 new", paging="la57")
PAE_OLD = replace(
    X64_OLD8, name="pae old", paging="pae", frame=(12, 37), address=(32, 63),
    noise_prototype=mask_of((1, 7), (9, 9), (16, 31)),
)  # fmt: skip
PAE_NEW = replace(
    X64_NEW, name="pae new", paging="pae", frame=(12, 37), address=(32, 63),
    noise_prototype=mask_of((1, 2), (11, 31)),
)  # fmt: skip
X86 = Layout(
    "x86", "x86", (1, 4), (12, 31), (5, 9), (12, 31), None, 9, None, split=((1, 8), (11, 31)),
    noise_transition=mask_of((1, 4)),
)  # fmt: skip
ARM64 = Layout(
    "arm64", "arm64", (6, 9), (32, 63), (1, 5), (12, 47), (1, 5), 8, (16, 63),
    noise_software=mask_of((12, 25)), noise_transition=mask_of((8, 9)),
    noise_prototype=mask_of((6, 6), (9, 9), (11, 11)),
)  # fmt: skip

LAYOUTS = (
    X64_OLD7, X64_OLD8, X64_OLD10, X64_NEW7601, X64_NEW, LA57_NEW, PAE_OLD, PAE_NEW, X86, ARM64,
)  # fmt: skip
# What kdmp takes when it is told nothing.
DEFAULT = {"x64": X64_NEW, "la57": LA57_NEW, "pae": PAE_NEW, "x86": X86, "arm64": ARM64}


@dataclass(frozen=True)
class Soft:
    """What an invalid entry says. `frame` is a physical address, `address` that of a prototype PTE."""

    state: str
    protection: int | None = None
    frame: int | None = None
    address: int | None = None
    read_only: bool = False
    pagefile: int | None = None
    page: int | None = None


def swizzled(value, layout):
    """Whether bits of the mask may have been added to the entry."""
    return layout.swizzle is not None and value != 0 and not value >> layout.swizzle & 1


def unswizzled(value, layout, mask):
    """The entry without the bits of the L1TF mitigation; the usual one if nobody knows the mask."""
    return value & ~(USUAL_MASK if mask is None else mask) if swizzled(value, layout) else value


def prototype_address(value, layout):
    """Address of a prototype PTE, sign-extended; None where the layout has none that can be followed."""
    if layout.split:
        low, high = layout.split
        return 0x8000_0000 | (bits(value, *high) << 10 & 0x7FFF_FFFF) | bits(value, *low) << 2
    if layout.address is None:
        return None
    low, high = layout.address
    number = bits(value, low, high)
    if layout.pointer == 64 and number >> high - low:
        number |= (1 << 64) - (1 << high - low + 1)
    return number


def looks_in_vad(value, layout):
    """The marker: PageFileHigh, or that part of the prototype address, is all ones as stored."""
    ones = bits(value, *layout.high) == mask_of((0, layout.high[1] - layout.high[0]))
    return ones and (value >> PROTOTYPE & 1 or not value >> TRANSITION & 1)


def decode(value, layout, mask=None):
    """The order of decisions for an entry whose valid bit is 0, un-swizzled as far as `mask` is known."""
    if looks_in_vad(value, layout):
        where = layout.protection
        if value >> PROTOTYPE & 1:
            where = layout.prototype_protection
        return Soft("vad", bits(value, *where) if where else 0)
    plain = unswizzled(value, layout, mask)
    if plain == 0:
        return Soft("zero")
    protection = bits(plain, *layout.protection)
    if plain >> PROTOTYPE & 1:
        where = layout.prototype_protection
        return Soft(
            "prototype",
            bits(plain, *where) if where else 0,
            address=prototype_address(plain, layout),
            read_only=bool(plain >> layout.read_only & 1),
        )
    if plain >> TRANSITION & 1:
        return Soft("transition", protection, frame=plain & mask_of(layout.frame))
    number, page = bits(plain, *layout.low), bits(plain, *layout.high)
    if number == page == 0:
        return Soft("demand_zero", protection)
    return Soft("pagefile", protection, pagefile=number, page=page)


def decode_prototype(value, layout, mask=None):
    """As decode(), for an invalid value found in an array of prototype PTEs."""
    soft = decode(value, layout, mask)
    if soft.state == "prototype":  # there the bit means: a page of a mapped file
        return Soft("subsection", bits(unswizzled(value, layout, mask), *layout.protection))
    return soft


@dataclass(frozen=True)
class Free:
    """Free entries of the kernel's PTE ranges: their bits, and a build (number, L1TF form) that has them."""

    build: tuple
    next_entry: tuple | None
    time_stamp: tuple | None
    one_entry: int = 1


# By layout. NextEntry grew when 9600 came; of ARM64 nothing is known.
FREE = {
    X64_OLD7: Free((7600, False), (32, 63), (32, 63)),
    X64_OLD8: Free((9200, False), (32, 63), (32, 63)),
    X64_OLD10: Free((10240, False), (28, 63), (32, 63)),
    X64_NEW7601: Free((7601, True), (32, 63), (32, 63)),
    X64_NEW: Free((22000, True), (28, 63), (32, 63)),
    LA57_NEW: Free((26100, True), (28, 63), (32, 63)),
    PAE_OLD: Free((9600, False), (32, 63), (32, 63)),
    PAE_NEW: Free((19041, True), (32, 63), (32, 63)),
    X86: Free((7601, False), (12, 31), (12, 31)),
    ARM64: Free((26100, False), None, None),
}


def decode_free(value, layout, mask=None):
    """A value that is neither valid nor prototype nor transition, as a list entry and as a time stamp."""
    if value == 0 or value & (1 | 1 << PROTOTYPE | 1 << TRANSITION):
        return {}
    free, plain = FREE[layout], value if looks_in_vad(value, layout) else unswizzled(value, layout, mask)
    found = {}
    if free.next_entry:
        found["list"] = {
            "OneEntry": plain >> free.one_entry & 1,
            "NextEntry": bits(plain, *free.next_entry),
        }
    if free.time_stamp:
        found["timestamp"] = {
            "GlobalTimeStamp": bits(plain, *free.time_stamp),
            "PageFileLow": bits(plain, *layout.low),
            "Protection": bits(plain, *layout.protection),
        }
    return found


# (writable, executable, copy on write) of the eight base protections: no access, R, X, RX, RW, WC, RWX, XWC.
BASE = [(0, 0, 0), (0, 0, 0), (0, 1, 0), (0, 1, 0), (1, 0, 0), (1, 0, 1), (1, 1, 0), (1, 1, 1)]


def rights(protection):
    """(writable, executable, copy_on_write) that a 5-bit protection grants."""
    return tuple(bool(right) for right in BASE[protection % 8])
