"""The kernel's loaded modules: the list PsLoadedModuleList, or the driver list of a triage dump.

Needs no symbols: the entries' layout is the same in all builds of an architecture. Where the list is broken
it is put together from both directions, see `kdmp.windows.lists`.

SPDX-License-Identifier: MIT
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar

from kdmp._kdmp import FormatError, KdmpError, UnreadableError, UnsupportedDumpError
from kdmp.windows.entity import Entity, Listing, Problem, fact
from kdmp.windows.lists import LinkWalk, walk_list

if TYPE_CHECKING:
    from kdmp.dump import Progress
    from kdmp.reader import Reader
    from kdmp.targets import Writable
    from kdmp.triage import TriageDriver
    from kdmp.windows.image import Image
    from kdmp.windows.imagefile import ExtractedImage, Layout
    from kdmp.windows.pe import CodeView
    from kdmp.windows.session import Windows
    from kdmp.windows.version import VersionInfo

__all__ = ["Module", "find_module", "module_at", "modules"]

_LIMIT = 1 << 14
_STRUCT = "_KLDR_DATA_TABLE_ENTRY"
# Offsets of its members, the same in all builds from XP on (symbols of Windows 10 and 11, and before these
# of _LDR_DATA_TABLE_ENTRY, whose TimeDateStamp is another place). Used where symbols do not have the type.
_FIXED = {
    8: {
        "InLoadOrderLinks": 0, "DllBase": 0x30, "EntryPoint": 0x38, "SizeOfImage": 0x40, "FullDllName": 0x48,
        "BaseDllName": 0x58, "Flags": 0x68, "LoadCount": 0x6C, "CheckSum": 0x78,
    },
    4: {
        "InLoadOrderLinks": 0, "DllBase": 0x18, "EntryPoint": 0x1C, "SizeOfImage": 0x20, "FullDllName": 0x24,
        "BaseDllName": 0x2C, "Flags": 0x34, "LoadCount": 0x38, "CheckSum": 0x40,
    },
}  # fmt: skip
_STAMP_64 = 0x9C  # TimeDateStamp of 64-bit Windows 10 and later
_WINDOWS_10 = 10240
_LIST = "module list"
_TRIAGE = "triage driver list"


class Module(Entity):
    """A module (driver) of the kernel; `address` is its loader entry (0 in a triage dump, which has none).

    `base` is the VA of its image; `source` says where it is listed: "module list" or "triage driver list".
    """

    FACTS = tuple(
        "base size end entry name path flags load_count checksum timestamp time image_id pdb guid age "
        "symbol_id source".split()
    )
    COLUMNS = ("base", "size", "name", "symbol_id", "time", "path")
    HEX: ClassVar[frozenset[str]] = frozenset("address base size end entry flags checksum timestamp".split())

    def __init__(self, windows: "Windows", address: int, base: int, source: str = _LIST) -> None:
        super().__init__(windows, address)
        self.base = base
        self.source = source

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Module):
            return NotImplemented
        return (self.address, self.base) == (other.address, other.base) and self.windows is other.windows

    def __hash__(self) -> int:
        return hash((self.address, self.base))

    def _brief(self) -> str:
        return f"<Module {self.name or '?'} at {self.base:#x}>"

    def _place(self, member: str) -> int:
        """Address of a member of the loader entry; KdmpError if there is none."""
        if self.source == _TRIAGE:
            raise UnsupportedDumpError("the driver list of a triage dump does not tell")
        at = _offsets(self.windows).get(member)
        if at is None:
            raise UnsupportedDumpError(f"the loader entries of this build have no {member}")
        return self.address + at

    # ---- the loader entry ----

    @fact
    def size(self) -> int:
        """SizeOfImage in bytes."""
        return self.windows.reader.read_u32(self._place("SizeOfImage"))

    @property
    def end(self) -> int | None:
        """The address behind its last byte."""
        return None if self.size is None else self.base + self.size

    @fact
    def entry(self) -> int | None:
        """VA of the entry point; None if it has none."""
        return self.windows.pointer(self._place("EntryPoint")) or None

    @fact
    def path(self) -> str | None:
        """The full name as loaded (FullDllName): "\\SystemRoot\\system32\\hal.dll"."""
        return checked_string(self.windows, self._place("FullDllName"))

    @fact
    def name(self) -> str | None:
        """The file's name (BaseDllName), or, if it cannot be read, the last part of `path`."""
        try:
            name = checked_string(self.windows, self._place("BaseDllName"))
        except (KdmpError, OverflowError) as error:
            self.note("name", error)
            name = None
        return name or _last_part(self.path)

    @fact
    def flags(self) -> int:
        """Flags of the loader entry, as stored."""
        return self.windows.reader.read_u32(self._place("Flags"))

    @fact
    def load_count(self) -> int:
        """How many times it was loaded; 0xFFFF: never to be unloaded."""
        return self.windows.reader.read_u16(self._place("LoadCount"))

    @fact
    def checksum(self) -> int:
        """CheckSum of its PE header."""
        return self.windows.reader.read_u32(self._place("CheckSum"))

    @fact
    def timestamp(self) -> int:
        """TimeDateStamp of its PE header: from Windows 10 on in the loader entry, else of the image."""
        if "TimeDateStamp" in _offsets(self.windows):
            return self.windows.reader.read_u32(self._place("TimeDateStamp"))
        if self.image is None:
            raise UnreadableError("the PE header is not in memory")
        return self.image.timestamp

    @property
    def time(self) -> datetime | None:
        """`timestamp` as a time, UTC; None if it is none.

        Linkers may write a hash instead, and do for Windows 10 and later. The image tells: without it, a
        stamp of these versions counts as no time.
        """
        from kdmp.windows.image import stamp_time

        hashed = self.image.reproducible if self.image is not None else None
        if hashed is None:
            hashed = (self.windows.dump.build or _WINDOWS_10) >= _WINDOWS_10
        return None if hashed else stamp_time(self.timestamp, self.windows.dump.system_time)

    # ---- the image ----

    @fact
    def image(self) -> "Image | None":
        """Its PE image: sections, exports ...; None if the first page is not in memory."""
        from kdmp.windows.image import Image

        return Image(self.windows.reader, self.base)

    @fact
    def codeview(self) -> "CodeView | None":
        """The CodeView record of the image: which PDB belongs to it."""
        if self.image is None:
            return None  # noted under its own name
        record = self.image.codeview
        for problem in self.image.problems if record is None else ():
            if problem.what == "codeview":
                self.note("pdb", problem.why, problem.address)
        return record

    @property
    def pdb(self) -> str | None:
        """Name of its PDB."""
        return self.codeview.pdb if self.codeview is not None else None

    @property
    def guid(self) -> str | None:
        """GUID of its PDB, 32 upper-case hex digits."""
        return self.codeview.guid if self.codeview is not None else None

    @property
    def age(self) -> int | None:
        """Age of its PDB."""
        return self.codeview.age if self.codeview is not None else None

    @property
    def symbol_id(self) -> str | None:
        """Key of its PDB on a symbol server: GUID and age."""
        return self.codeview.symbol_id if self.codeview is not None else None

    @property
    def image_id(self) -> str | None:
        """Key of the image on a symbol server: TimeDateStamp and SizeOfImage."""
        if self.timestamp is None or self.size is None:
            return None
        return f"{self.timestamp:08X}{self.size:x}"

    @property
    def version(self) -> "VersionInfo | None":
        """Its version resource; None if that is not in memory, as is usual for drivers."""
        return self.image.version if self.image is not None else None

    def contains(self, va: int) -> bool:
        """Whether an address is inside the image."""
        return self.size is not None and 0 <= va - self.base < self.size

    # ---- into a file ----

    def extract(
        self,
        path: "Writable",
        *,
        layout: "Layout" = "memory",
        overwrite: bool = False,
        progress: "Progress | None" = None,
    ) -> "ExtractedImage":
        """Write the image to a file and return what of it was missing.

        With the layout "memory" it is as it lies in memory: `size` bytes. With "file" the sections
        are where the headers say that they are in the file, so that tools for PE files can open it. It is
        not the file that was loaded: addresses are relocated, imports are bound, variables have changed,
        discarded sections are
        holes, what no section has, such as a signature, is lost.

        Other arguments and errors are those of `Reader.extract`. Besides, with "file", UnreadableError if the
        headers are not in memory, FormatError if they make no sense; and if the image's address or size
        are not known.
        """
        from kdmp.windows.imagefile import extract_image

        reader = self.windows.reader
        return extract_image(
            reader, reader.dump, self.base, self.size, path, layout, overwrite=overwrite, progress=progress
        )


def checked_string(windows: "Windows", va: int) -> str | None:
    """Return the text of a UNICODE_STRING whose lengths make sense; None if its Buffer is NULL.

    FormatError if they make none, UnreadableError if a part of it is not in memory.
    """
    length, maximum = windows.reader.read_u16(va), windows.reader.read_u16(va + 2)
    if length > maximum or length % 2:
        raise FormatError(f"a text of {length} bytes in a buffer of {maximum}")
    return windows.unicode_string(va)


def _last_part(path: str | None) -> str | None:
    return path.replace("/", "\\").rsplit("\\", 1)[-1] or None if path else None


# ---- the list ----


def modules(windows: "Windows") -> Listing[Module]:
    """Return the modules in load order, the kernel first; `problems` tells what of the list was damaged."""
    known = _known(windows)
    return Listing(known.listing, known.listing.problems, Module)


def module_at(windows: "Windows", va: int) -> Module | None:
    """Return the module that an address is in, None if there is none."""
    return _known(windows).at(va)


def find_module(windows: "Windows", name: str) -> Module | None:
    """Return the first module of this name, None if there is none; case and ending may be left out.

    "nt" is the kernel.
    """
    listing = _known(windows).listing
    wanted = name.casefold()
    if wanted == "nt":
        return next((one for one in listing if one.base == windows.kernel_base), None)
    names = [(one.name or "").casefold() for one in listing]
    for forms in (names, [name.rpartition(".")[0] for name in names]):
        if wanted and wanted in forms:
            return listing[forms.index(wanted)]
    return None


class _Known:
    """The modules of one session, and an index by address."""

    def __init__(self, listing: Listing[Module]) -> None:
        self.listing = listing
        known = [(one.base, one.base + one.size, one) for one in listing if one.size]
        known.sort(key=lambda entry: entry[:2])
        self._bases = [base for base, _, _ in known]
        self._modules = [one for _, _, one in known]
        # The highest end so far: how far back a module that holds an address may begin.
        self._reach: list[int] = []
        for _, end, _ in known:
            self._reach.append(max(end, self._reach[-1]) if self._reach else end)

    def at(self, va: int) -> Module | None:
        number = bisect_right(self._bases, va) - 1
        while number >= 0 and self._reach[number] > va:
            if self._modules[number].contains(va):
                return self._modules[number]
            number -= 1
        return None


def _known(windows: "Windows") -> _Known:
    return windows.once("modules", lambda: _Known(_find_modules(windows)))


def _find_modules(windows: "Windows") -> Listing[Module]:
    if windows.dump.triage is not None:
        return Listing(_of_triage(windows, windows.dump.triage.drivers), (), Module)
    return _of_list(windows)


def _of_triage(windows: "Windows", drivers: "list[TriageDriver]") -> Iterator[Module]:
    for driver in drivers:
        module = Module(windows, 0, driver.base, _TRIAGE)
        # Facts that need not be read any more.
        vars(module).update(
            size=driver.size, path=driver.name, name=_last_part(driver.name),
            checksum=driver.checksum, timestamp=driver.timestamp,
        )  # fmt: skip
        if driver.name is None:
            module.note("name", "cannot be read in the triage dump")
        yield module


def _of_list(windows: "Windows") -> Listing[Module]:
    problems: list[Problem] = []
    try:
        reader = windows.reader
    except KdmpError as error:
        return Listing((), [Problem("modules", str(error))], Module)
    best: tuple[int, LinkWalk, list[Module]] | None = None
    for head, where in _heads(windows):
        walk = walk_list(reader, head, windows.pointer_size, _LIMIT)
        found = list(_entries(windows, reader, walk))
        if best is None or len(found) > len(best[2]):
            best = head, walk, found
        if found and windows.kernel_base in (None, *(module.base for module in found)):
            best = head, walk, found
            break
        why = f"what {where} gives for PsLoadedModuleList leads to no list that has the kernel in it"
        problems.append(Problem("modules", why, head))
    if best is None:
        return Listing((), [Problem("modules", "nothing tells where PsLoadedModuleList is")], Module)
    head, walk, found = best
    problems += [Problem("modules", why, address) for why, address in walk.problems]
    lost = len(walk.links) - len(found)
    if lost:
        problems.append(Problem("modules", f"{lost} entries are no modules: neither base nor name", head))
    return Listing(found, problems, Module)


def _heads(windows: "Windows") -> Iterator[tuple[int, str]]:
    """Addresses that PsLoadedModuleList may have, the quickest first."""
    ways: tuple[tuple[str, Callable[[], int | None]], ...] = (
        ("the header", lambda: windows.dump.ps_loaded_module_list),
        ("KDBG", lambda: windows.kdbg.variable("PsLoadedModuleList") if windows.kdbg is not None else None),
        ("a symbol", lambda: windows.try_symbol("PsLoadedModuleList")),
    )
    seen = set()
    for where, get in ways:
        try:
            head = get()
        except KdmpError:
            continue
        if head and head not in seen:
            seen.add(head)
            yield head, where


def _entries(windows: "Windows", reader: "Reader", walk: LinkWalk) -> Iterator[Module]:
    offsets, width = _offsets(windows), windows.pointer_size
    for link in walk.links:
        entry = link - offsets["InLoadOrderLinks"]
        try:
            base = reader.read_uint(entry + offsets["DllBase"], width)
        except (KdmpError, OverflowError):
            continue
        module = Module(windows, entry, base)
        if base & 0xFFF or base >> (8 * width - 1) == 0:
            # Memory of something else that a broken link leads to, unless it has a name.
            if not module.name:
                continue
            module.note("base", f"{base:#x} is no address of an image")
        yield module


def _offsets(windows: "Windows") -> dict[str, int]:
    """Offsets of the members of a loader entry: those of symbols that have the type, else the fixed ones."""
    return windows.once("loader offsets", lambda: _find_offsets(windows))


def _find_offsets(windows: "Windows") -> dict[str, int]:
    offsets = dict(_FIXED[windows.pointer_size])
    layout = windows.layout if windows.has_layout else None
    # By its own name only: the layout lends that of _LDR_DATA_TABLE_ENTRY otherwise.
    if layout is not None and _STRUCT in layout:
        for member in (*offsets, "TimeDateStamp"):
            if layout.has(_STRUCT, member):
                offsets[member] = layout.offset(_STRUCT, member)
    elif windows.pointer_size == 8 and (windows.dump.build or 0) >= _WINDOWS_10:
        offsets["TimeDateStamp"] = _STAMP_64
    return offsets
