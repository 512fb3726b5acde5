"""The mapped ranges of an address space as arrays, and the way back from a frame to its addresses.

SPDX-License-Identifier: MIT
"""

from collections.abc import Iterable
from operator import index
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, SupportsIndex

if TYPE_CHECKING:
    from kdmp.reader import Reader

STATES = (
    "none", "valid", "transition", "prototype", "zero", "demand_zero", "pagefile", "table", "bad",
    "subsection", "vad",
)  # fmt: skip
"""States by the number that arrays have."""

MAPPING_DTYPE = [
    ("start", "u8"), ("size", "u8"), ("page_size", "u8"), ("pa", "u8"), ("flags", "u4"), ("state", "u1"),
    ("unused", "V3"),
]  # fmt: skip
"""Fields of `Reader.mappings_array`, as numpy.dtype() takes them."""

# First address of the kernel half and last address of the space; Windows splits x86 at 2 GiB (3 GiB with
# /3GB, where the user half goes on above the split).
_KERNEL = {"x64": 0xFFFF8 << 44, "arm64": 0xFFFF8 << 44, "la57": 0xFF << 56, "x86": 1 << 31, "pae": 1 << 31}
_LAST = {"x86": (1 << 32) - 1, "pae": (1 << 32) - 1}


class Owner(NamedTuple):
    """A place where a frame is mapped: page-table `root`, virtual address, size of the page it is part of."""

    root: int
    va: int
    page_size: int


def bounds(
    paging: str, start: SupportsIndex, last: SupportsIndex | None, half: Literal["user", "kernel"] | None
) -> tuple[int, int] | None:
    """Return first and last address of the part of [start, last] in `half`, None if there is none."""
    end = _LAST.get(paging, (1 << 64) - 1)
    low, high = index(start), end if last is None else index(last)
    split = _KERNEL.get(paging)
    if half == "user" and split is not None:
        high = min(high, split - 1)
    elif half == "kernel" and split is not None:
        low = max(low, split)
    elif half not in (None, "user", "kernel"):
        raise ValueError(f'half is "user" or "kernel", not {half!r}')
    return (low, high) if low <= high else None


def state_set(states: str | Iterable[str] | None) -> frozenset[str] | None:
    """Return the states asked for, None for all; ValueError for one that does not exist."""
    if states is None:
        return None
    wanted = frozenset([states] if isinstance(states, str) else states)
    if not wanted <= set(STATES):
        raise ValueError(
            f"no such state: {', '.join(sorted(wanted - set(STATES)))}; one of {', '.join(STATES)}"
        )
    return wanted


def as_array(data: bytes, states: frozenset[str] | None) -> Any:
    """Return the bytes of `Reader.mappings_buffer` as an array, restricted to `states`."""
    try:
        import numpy
    except ImportError as error:
        raise ImportError("mappings_array needs numpy; mappings() does without it") from error
    ranges = numpy.frombuffer(data, numpy.dtype(MAPPING_DTYPE))
    if states is None:
        return ranges
    return ranges[numpy.isin(ranges["state"], [STATES.index(state) for state in states])]


def owners(view: "Reader", pfn: int, roots: Iterable[SupportsIndex] | None) -> list[Owner]:
    """Return the places where a frame is mapped in the view of a reader; see `Reader.owners`."""
    dump = view.owner
    if roots is None:
        roots = dump.roots or [dump.reader().dtb or 0]
    found, seen = [], set()
    for root in roots:
        plain = index(root)
        reader = dump.reader(plain, view=view.overlay)
        for place in reader.find_frame(pfn):
            if place.pa is None:
                continue
            page = (plain & 0x000F_FFFF_FFFF_FFE0 & ~0x1F, place.start)
            if page not in seen:
                seen.add(page)
                found.append(Owner(plain, place.start + (pfn << 12) - place.pa, place.page_size))
    return found
