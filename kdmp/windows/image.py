"""A PE image in dumped memory: headers, sections, exports, PDB and version.

    image = Image(dump.reader(), dump.kernel.base)
    image.export("PsGetProcessId").address, image.symbol_path, image.version.file_version

Works for 32- and 64-bit images. What is in pages that are not in the dump is None, and `problems` says why.
Layout: Microsoft's PE/COFF specification.

SPDX-License-Identifier: MIT
"""

import struct
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, TypeVar

from kdmp._kdmp import FormatError, KdmpError
from kdmp.windows.entity import Problem
from kdmp.windows.exports import Export, ExportTable
from kdmp.windows.pe import (
    DEBUG_DIRECTORY,
    CodeView,
    ImageMemory,
    Reads,
    debug_entries,
    find_codeview,
    parse_headers,
)
from kdmp.windows.version import VersionInfo, read_version

__all__ = ["DIRECTORIES", "Image", "Section", "stamp_time"]

T = TypeVar("T")

# The data directories by number.
DIRECTORIES = (
    "export", "import", "resource", "exception", "security", "relocation", "debug", "architecture",
    "global_pointer", "tls", "load_config", "bound_import", "iat", "delay_import", "com", "reserved",
)  # fmt: skip

_REPRODUCIBLE = 16
_MAX_SECTIONS = 96  # the loader accepts no more
# Linkers write the time, or, for reproducible builds, a hash that looks like one.
_FIRST_TIME = 725846400  # 1993, the first Windows NT


@dataclass(frozen=True, slots=True)
class Section:
    """A section: `rva` and `address` of its first byte, `size` in memory, and `characteristics` as stored."""

    name: str
    rva: int
    address: int
    size: int
    characteristics: int

    @property
    def rights(self) -> str:
        """What its pages are meant to allow: "rwx", with a dash for what is not."""
        return "".join(
            letter if self.characteristics & bit else "-"
            for letter, bit in (("r", 1 << 30), ("w", 1 << 31), ("x", 1 << 29))
        )

    @property
    def discardable(self) -> bool:
        """Whether Windows drops it after initialization: its pages being absent is normal."""
        return bool(self.characteristics & 0x02000000)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a dict, with `rights`."""
        return {**asdict(self), "rights": self.rights}


def stamp_time(stamp: int | None, before: datetime | None = None) -> datetime | None:
    """Return a TimeDateStamp as a time if it can be one, else None.

    Images of Windows 10 and later have a hash there: what lies before 1993 or after `before` (default: now)
    is surely no time, but some hashes look like one (`Image.reproducible` knows).
    """
    if stamp is None or stamp < _FIRST_TIME:
        return None
    time = datetime.fromtimestamp(stamp, UTC)
    return time if time <= (before or datetime.now(UTC)) else None


class Image:
    """The PE image at `base` of a reader's address space.

    Raises UnreadableError if its first page is not in memory, FormatError if no image begins there.
    Addresses are virtual, RVAs count from `base`.
    """

    def __init__(self, reader: Reads, base: int) -> None:
        self.base = base
        self._problems: list[Problem] = []
        first = ImageMemory(reader, base)
        try:
            self.headers = parse_headers(first.read(0, 0x1000))
        except (struct.error, FormatError) as error:
            first.exact(0, 0x1000)  # says what is missing
            if isinstance(error, FormatError):
                raise
            raise FormatError("no PE image: its headers go on beyond the first page") from error
        self._memory = ImageMemory(reader, base, self.headers.size)

    def __repr__(self) -> str:
        return f"<kdmp.Image at {self.base:#x}, {self.size:#x} bytes>"

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What of the properties read so far is missing or makes no sense."""
        table = self.__dict__.get("exports")
        return (*self._problems, *(table.problems if table is not None else ()))

    def _try(self, what: str, read: Callable[[], T]) -> T | None:
        try:
            return read()
        except KdmpError as error:
            self._problems.append(Problem(what, str(error), getattr(error, "address", None)))
            return None

    # ---- headers ----

    @property
    def machine(self) -> int:
        """Machine type: 0x8664 x64, 0x14C x86, 0xAA64 ARM64."""
        return self.headers.machine

    @property
    def bits(self) -> int:
        """32 or 64."""
        return self.headers.bits

    @property
    def size(self) -> int:
        """SizeOfImage in bytes."""
        return self.headers.size

    @property
    def timestamp(self) -> int:
        """TimeDateStamp as stored; a hash in images of Windows 10 and later."""
        return self.headers.timestamp

    @property
    def checksum(self) -> int:
        """CheckSum as stored."""
        return self.headers.checksum

    @property
    def characteristics(self) -> int:
        """Characteristics as stored (0x2000: a DLL)."""
        return self.headers.characteristics

    @property
    def subsystem(self) -> int:
        """Subsystem: 1 native, 2 Windows, 3 console."""
        return self.headers.subsystem

    @property
    def os_version(self) -> tuple[int, int]:
        """The lowest version of Windows it is for: (major, minor)."""
        return self.headers.os_version

    @property
    def entry_rva(self) -> int:
        """RVA of the entry point, 0 if it has none."""
        return self.headers.entry_rva

    @property
    def entry(self) -> int | None:
        """Address of the entry point, None if it has none."""
        return self.base + self.headers.entry_rva if self.headers.entry_rva else None

    @property
    def image_id(self) -> str:
        """Key of the image on a symbol server: TimeDateStamp and SizeOfImage."""
        return f"{self.timestamp:08X}{self.size:x}"

    def contains(self, va: int) -> bool:
        """Whether an address is inside the image."""
        return 0 <= va - self.base < self.size

    @property
    def directories(self) -> dict[str, tuple[int, int]]:
        """RVA and size of the data directories there are, by name (see DIRECTORIES)."""
        pairs = zip(DIRECTORIES, self.headers.directories, strict=False)
        return {name: pair for name, pair in pairs if pair != (0, 0)}

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        """The sections in the order of the headers, at most 96."""
        table, count = self.headers.section_table, self.headers.section_count
        if count > _MAX_SECTIONS:
            self._problems.append(Problem("sections", f"{count} are claimed, {_MAX_SECTIONS} are read"))
        count = min(count, _MAX_SECTIONS)
        data = self._memory.read(table, 40 * count)
        if len(data) < 40 * count:
            self._try("sections", lambda: self._memory.exact(table, 40 * count))
        found = []
        for at in range(0, len(data) - 39, 40):
            name, size, rva, raw = struct.unpack_from("<8sIII", data, at)
            text = name.split(b"\0", 1)[0].decode("utf-8", "replace")
            (flags,) = struct.unpack_from("<I", data, at + 36)
            found.append(Section(text, rva, self.base + rva, size or raw, flags))
        return tuple(found)

    def section_at(self, va: int) -> Section | None:
        """The section that an address is in, None if it is in none."""
        return next((one for one in self.sections if 0 <= va - one.address < one.size), None)

    # ---- PDB ----

    @cached_property
    def codeview(self) -> CodeView | None:
        """The CodeView record: which PDB belongs to the image; None if it has none or it is not in memory."""
        where = self.headers.directory(DEBUG_DIRECTORY)
        return self._try("codeview", lambda: find_codeview(self._memory, where))

    @property
    def pdb(self) -> str | None:
        """Name of the PDB, without its folders."""
        return self.codeview.pdb if self.codeview is not None else None

    @property
    def guid(self) -> str | None:
        """GUID of the PDB, 32 upper-case hex digits."""
        return self.codeview.guid if self.codeview is not None else None

    @property
    def age(self) -> int | None:
        """Age of the PDB."""
        return self.codeview.age if self.codeview is not None else None

    @property
    def symbol_id(self) -> str | None:
        """Key of the PDB on a symbol server: GUID and age."""
        return self.codeview.symbol_id if self.codeview is not None else None

    @property
    def symbol_path(self) -> str | None:
        """Path of the PDB on a symbol server: name/key/name."""
        record = self.codeview
        return f"{record.pdb}/{record.symbol_id}/{record.pdb}" if record is not None else None

    @cached_property
    def reproducible(self) -> bool | None:
        """Whether the linker wrote a hash for the time stamp (debug entry of type 16); None if that is not in
        memory."""
        where = self.headers.directory(DEBUG_DIRECTORY)
        return self._try(
            "reproducible",
            lambda: any(kind == _REPRODUCIBLE for kind, _, _ in debug_entries(self._memory, where)),
        )

    # ---- exports ----

    @cached_property
    def exports(self) -> ExportTable | None:
        """The export table: iterate, or look up; None if there is none or it is not in memory."""
        where = self.headers.directory(0)
        return self._try("exports", lambda: ExportTable(self._memory, where)) if where[0] else None

    def export(self, name: str | int) -> Export | None:
        """Return the export of this name (or ordinal), None if the image has no such.

        UnreadableError if the part of the table that could tell is not in memory.
        """
        where = self.headers.directory(0)
        if not where[0]:
            return None
        table = self.exports
        if table is None:
            table = ExportTable(self._memory, where)  # raises what was noted
        return table.find(name)

    @property
    def name(self) -> str | None:
        """The name that its linker gave the image, from the export directory; None without one."""
        return self.exports.image_name if self.exports is not None else None

    # ---- version ----

    @cached_property
    def version(self) -> VersionInfo | None:
        """The version resource; None if there is none or it is not in memory (it is seldom used, so often
        paged out)."""
        return self._try("version", lambda: read_version(self._memory, self.headers.directory(2)))

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the exports as plain data."""
        headers = self.headers
        return {
            "base": self.base,
            "machine": headers.machine,
            "bits": headers.bits,
            "size": headers.size,
            "timestamp": headers.timestamp,
            "checksum": headers.checksum,
            "entry": self.entry,
            "characteristics": headers.characteristics,
            "dll_characteristics": headers.dll_characteristics,
            "subsystem": headers.subsystem,
            "os_version": list(headers.os_version),
            "image_id": self.image_id,
            "pdb": self.pdb,
            "guid": self.guid,
            "age": self.age,
            "symbol_id": self.symbol_id,
            "sections": [section.to_dict() for section in self.sections],
            "directories": {name: list(pair) for name, pair in self.directories.items()},
            "version": None if self.version is None else self.version.to_dict(),
        }
