"""Sections: the control area behind a mapped VAD, its subsections with their prototype PTEs, and its file.

Sources: type information of public symbol files (_CONTROL_AREA, _SUBSECTION, _MMSECTION_FLAGS,
_FILE_OBJECT).

SPDX-License-Identifier: MIT
"""

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

from kdmp._kdmp import FormatError, KdmpError
from kdmp.windows.entity import Entity, Listing, Problem, fact

if TYPE_CHECKING:
    from kdmp.windows.objects import Object
    from kdmp.windows.session import Windows

__all__ = ["ControlArea", "Subsection", "file_name", "is_kernel_address", "subsections", "walk_subsections"]

MAX_SUBSECTIONS = 1 << 16

# Of _MMSECTION_FLAGS; the same bits from XP to 26100, for where the layout does not have them.
_IMAGE, _FILE, _PHYSICAL = 5, 7, 10
_FILE_OBJECT_TYPE = 5  # IO_TYPE_FILE


def is_kernel_address(windows: "Windows", va: int, align: int = 1) -> bool:
    """Return whether `va` is a possible address of a structure of the kernel, a multiple of `align`."""
    if va % align:
        return False
    if windows.pointer_size == 4:
        return 0x80000000 <= va < 1 << 32
    return va >> 56 == 0xFF and va >= 0xFF00000000000000


def file_name(windows: "Windows", file_object: int) -> str | None:
    r"""Return the FileName of a FILE_OBJECT: a path relative to its device, "\Windows\explorer.exe".

    None if it has no name. Raises UnreadableError, SymbolError, and FormatError if it is no file object.
    """
    file = windows.object("_FILE_OBJECT", file_object)
    if file.Type != _FILE_OBJECT_TYPE:
        raise FormatError(f"{file_object:#x} is no FILE_OBJECT: its Type is {file.Type}")
    return windows.unicode_string(file.field_address("FileName"))


class ControlArea(Entity):
    """A control area: what views of a section share. `file` is None for one backed by the page file."""

    FACTS = (
        "segment", "file_object", "file", "image", "file_backed", "physical", "mapped_views", "pte_count",
        "committed_pages", "size",
    )  # fmt: skip
    HEX = Entity.HEX | {"segment", "file_object", "size"}

    @property
    def object(self) -> "Object":
        """The structure itself."""
        return self.windows.object("_CONTROL_AREA", self.address)

    @fact
    def segment(self) -> int | None:
        """Address of its SEGMENT."""
        return int(self.object.Segment)

    def _flag(self, name: str, bit: int) -> bool:
        if self.windows.layout.has("_CONTROL_AREA", f"u.Flags.{name}"):
            return bool(self.object[f"u.Flags.{name}"])
        return bool(self.object["u.LongFlags"] >> bit & 1)

    @fact
    def image(self) -> bool | None:
        """Whether it is an image section (SEC_IMAGE)."""
        return self._flag("Image", _IMAGE)

    @fact
    def file_backed(self) -> bool | None:
        """Whether a file is behind it."""
        return self._flag("File", _FILE)

    @fact
    def physical(self) -> bool | None:
        """Whether it maps physical memory (of a device)."""
        return self._flag("PhysicalMemory", _PHYSICAL)

    @fact
    def file_object(self) -> int | None:
        """Address of the FILE_OBJECT, 0 if there is none."""
        at = self.object.field_address("FilePointer")
        return self.windows.fast_ref(self.windows.pointer(at))

    @fact
    def file(self) -> str | None:
        """FileName of the file object: the path without its volume."""
        address = self.file_object
        return file_name(self.windows, address) if address else None

    @fact
    def mapped_views(self) -> int | None:
        """NumberOfMappedViews."""
        return int(self.object.NumberOfMappedViews)

    def _segment(self) -> "Object":
        address = self.segment
        if not address:
            raise FormatError("it has no segment")
        return self.windows.object("_SEGMENT", address)

    @fact
    def pte_count(self) -> int | None:
        """TotalNumberOfPtes of its segment: pages of the section."""
        return int(self._segment().TotalNumberOfPtes)

    @fact
    def committed_pages(self) -> int | None:
        """NumberOfCommittedPages of its segment."""
        return int(self._segment().NumberOfCommittedPages)

    @fact
    def size(self) -> int | None:
        """SizeOfSegment in bytes."""
        return int(self._segment().SizeOfSegment)


class Subsection(Entity):
    """A part of a section whose prototype PTEs are an array: `pte_base`, `pte_count`.

    `file_offset` is where it begins in the file, in bytes (sectors of 512 bytes).
    """

    FACTS = ("control_area", "pte_base", "pte_count", "next", "file_offset", "full_sectors")
    HEX = Entity.HEX | {"control_area", "pte_base", "next", "file_offset"}

    @cached_property
    def _object(self) -> "Object":
        return self.windows.object("_SUBSECTION", self.address)

    @fact
    def control_area(self) -> int | None:
        """Address of the control area it belongs to."""
        # Its first member in every known build, so that one without type information gives it, too.
        if "_SUBSECTION" not in self.windows.layout:
            return self.windows.pointer(self.address)
        return int(self._object.ControlArea)

    @fact
    def pte_base(self) -> int | None:
        """SubsectionBase: address of its first prototype PTE, 0 if they were given back."""
        return int(self._object.SubsectionBase)

    @fact
    def pte_count(self) -> int | None:
        """PtesInSubsection."""
        return int(self._object.PtesInSubsection)

    @fact
    def next(self) -> int | None:
        """NextSubsection: address, 0 at the end."""
        return int(self._object.NextSubsection)

    @fact
    def file_offset(self) -> int | None:
        """Where it begins in the file, in bytes."""
        return int(self._object.StartingSector) << 9

    @fact
    def full_sectors(self) -> int | None:
        """NumberOfFullSectors, of 512 bytes."""
        return int(self._object.NumberOfFullSectors)


def walk_subsections(windows: "Windows", first: int) -> Iterator[Subsection]:
    """Yield the subsections from `first` on; ends where the chain breaks, FormatError says why.

    Bounded, and cycles end it.
    """
    at, seen = first, set[int]()
    while at:
        if at in seen or len(seen) >= MAX_SUBSECTIONS:
            raise FormatError(f"the chain of subsections does not end: it comes back to {at:#x}")
        if not is_kernel_address(windows, at, windows.pointer_size):
            raise FormatError(f"the chain of subsections leads to {at:#x}, no address of the kernel")
        seen.add(at)
        subsection = Subsection(windows, at)
        yield subsection
        following = subsection.next
        if following is None:
            raise FormatError(f"the subsection at {at:#x} cannot be read")
        at = following


def subsections(windows: "Windows", first: int) -> Listing[Subsection]:
    """Return the chain of subsections from the one at `first` on, with `problems` if it breaks."""
    found: list[Subsection] = []
    problems: list[Problem] = []
    try:
        for subsection in walk_subsections(windows, first):
            found.append(subsection)
    except (KdmpError, OverflowError) as error:
        problems.append(Problem("subsections", str(error), first))
    return Listing(found, problems, Subsection)
