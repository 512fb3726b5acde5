"""The C core of kdmp, as Python sees it. Import from `kdmp`, not from here.

Docstrings repeat those of the extension, for editors; tests/test_stub.py compares both.

SPDX-License-Identifier: MIT
"""

from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from types import TracebackType
from typing import (
    Any,
    Literal,
    Protocol,
    Self,
    SupportsIndex,
    TypeAlias,
    TypedDict,
    final,
    overload,
    type_check_only,
)

from _typeshed import ReadableBuffer, StrPath, WriteableBuffer, structseq

@type_check_only
class _BinaryFile(Protocol):
    def seek(self, offset: int, whence: int = ..., /) -> int | None: ...
    def read(self, size: int, /) -> ReadableBuffer: ...

@type_check_only
class _BuildInfo(TypedDict):
    version: str
    asserts: bool
    sanitize: str
    map_guard: bool

Address: TypeAlias = SupportsIndex | AccessContext

_fault_collector: ContextVar[Any]

def build_info() -> _BuildInfo:
    """Return how the extension was built.

    A dict: "version" of the package, "asserts" whether assertions are active,
    "sanitize" the sanitizers compiled in, "" for none, "map_guard" whether the loss of a
    mapped file raises; else it ends the process, and `io="read"` is the way out.
    """

def _guarded() -> int:
    """Return how many mapped files this process has, for tests."""

class KdmpError(Exception):
    """Base of every error that is about a dump."""

class FormatError(KdmpError, ValueError):
    """The file contradicts itself. `offset` is where in the file."""

    offset: int | None

class WrongFileError(FormatError):
    """The file is not a Windows kernel dump; the message says what it is."""

class UnsupportedDumpError(KdmpError, NotImplementedError):
    """A kernel dump that cannot do what was asked (no physical pages, unknown type ...)."""

class UnreadableError(KdmpError, LookupError):
    """Base of "not there, because": memory that cannot be read.

    `address` is the first byte that is missing, in the terms of the reader
    (virtual or physical).
    """

    address: int | None

class TranslationError(UnreadableError):
    """A page walk that found no page.

    `va`, `dtb` and `paging` say what was translated (`va` and `dtb` are None for
    a physical address). `level` is that of the last entry (4 = PML4 ... 1 = PT),
    `entry` its value and `entry_pa` its physical address (None if none was read).
    `entries` is all that was read, root first. `state` is what Windows means by the
    entry: "zero", "prototype", "demand_zero", "pagefile", "subsection", "vad",
    "transition", "bad", "table" (leads to a table that could not be read), "valid"
    or "none". `protection` is the 5-bit Windows protection of a software PTE, None
    for other entries; `prototype` and `prototype_value` are address and content of a
    prototype PTE that was followed; `pagefile` and `pagefile_page` say where a
    paged-out page is (page number).
    """

    va: int | None
    dtb: int | None
    paging: str | None
    level: int | None
    entry: int | None
    entry_pa: int | None
    entries: tuple[PageTableEntry, ...]
    state: str | None
    protection: int | None
    prototype: int | None
    prototype_value: int | None
    pagefile: int | None
    pagefile_page: int | None

class NotPresentError(TranslationError):
    """A page-table entry says that there is no page in memory."""

class NonCanonicalError(TranslationError):
    """The address is not canonical (or too large) for this paging mode."""

class BadEntryError(TranslationError):
    """A present entry has reserved bits set: a fault on hardware, usually a wrong root."""

class NotInDumpError(TranslationError):
    """The frame at physical address `pa` was not captured.

    `level` > 0 means that it holds a page table of that level, 0 that it is the
    page itself.
    """

    pa: int | None

class TruncatedError(NotInDumpError):
    """The frame was captured but lies beyond the end of the (cut short) file."""

class AddressEndError(UnreadableError):
    """The range runs past the last address of the space."""

class PartialReadError(UnreadableError):
    """Fewer bytes than asked for.

    `expected` and `actual` count bytes, `data` holds what was read, `reason` is the
    error of the first missing byte and `address` its address. For a string without
    its end, `expected` is the limit.
    """

    expected: int
    actual: int
    data: bytes
    reason: UnreadableError | None

class RootNotPresentError(KdmpError, LookupError):
    """A virtual address without a page-table root to translate it by."""

class NotContiguousError(KdmpError, BufferError):
    """Bytes that are there, but not in one piece of memory that a view could show.

    `address` is the first byte that does not follow those before it, or the first of
    all if that is not in the mapped file (but in an overlay, a page file, a stream).
    """

    address: int | None

@final
class PageTableEntry(structseq[Any], tuple[int, int, int]):
    """One entry of a page walk: `level`, `pa` of the entry, its `value`.

    Levels count from the leaf: 1 = PT, 2 = PD, 3 = PDPT, 4 = PML4, 5 = PML5.
    """

    @property
    def level(self) -> int:
        """Level of the table: 1 = PT, 4 = PML4, 5 = PML5."""
    @property
    def pa(self) -> int:
        """Physical address of the entry."""
    @property
    def value(self) -> int:
        """The entry itself."""

@final
class Gap(structseq[Any], tuple[int, int, UnreadableError]):
    """A hole in a read: `address`, `size` in bytes, and the `reason`, an exception."""

    @property
    def address(self) -> int:
        """Address of the first missing byte."""
    @property
    def size(self) -> int:
        """How many bytes are missing."""
    @property
    def reason(self) -> UnreadableError:
        """The exception that reading the first of them raises."""

@final
class Run(structseq[Any], tuple[int, int, int]):
    """A stretch of frames: first `pfn`, `count`, `file_offset` of the first one's bytes."""

    @property
    def pfn(self) -> int:
        """Number of the first frame."""
    @property
    def count(self) -> int:  # type: ignore[override]
        """How many frames of 4096 bytes."""
    @property
    def file_offset(self) -> int:
        """Where in the file the first one's bytes are."""

@final
class VaRange(structseq[Any], tuple[int, int, int, str]):
    """A virtual range of a triage dump: `address`, `size` in bytes, `file_offset`, `origin`.

    `origin` is "data block", "call stack", "data page", "debugger data", "processor",
    "thread" or "process"; the last three are copies of structures.
    """

    @property
    def address(self) -> int:
        """Virtual address of the first byte."""
    @property
    def size(self) -> int:
        """How many bytes."""
    @property
    def file_offset(self) -> int:
        """Where in the file the first one is."""
    @property
    def origin(self) -> str:
        """Where the range comes from, such as "call stack"."""

@final
class Mapping(structseq[Any], tuple[int, int, int, int | None, str, bool, bool, bool]):
    """A mapped range: `start`, `size` in bytes, `page_size`, `pa`, `state` and rights.

    Neighbouring pages of one size, state and rights are one range; their frames need not
    follow each other.
    """

    @property
    def start(self) -> int:
        """First virtual address."""
    @property
    def size(self) -> int:
        """How many bytes."""
    @property
    def page_size(self) -> int:
        """Size of each page; of what one entry maps if none does."""
    @property
    def pa(self) -> int | None:
        """Physical address of the first page; None without a frame."""
    @property
    def state(self) -> str:
        """What the entries are, as Translation.state; "table": a page table is missing."""
    @property
    def writable(self) -> bool:
        """Whether Windows lets the pages be written."""
    @property
    def executable(self) -> bool:
        """Whether code may run there."""
    @property
    def user(self) -> bool:
        """Whether user mode has access."""

@final
class Extent(structseq[Any], tuple[int, int | None, int | None, int]):
    """Readable bytes in one piece: `address`, `pa`, `offset` in the file, `size` in bytes.

    Address, physical address and file offset go up together in it.
    """

    @property
    def address(self) -> int:
        """Address of the first byte."""
    @property
    def pa(self) -> int | None:
        """Physical address of the first byte; None without a frame."""
    @property
    def offset(self) -> int | None:
        """Where in the dump's file the first byte is; None if it is not there."""
    @property
    def size(self) -> int:
        """How many bytes."""

@final
class Scanned(
    structseq[Any], tuple[list[tuple[int, int | None, int | None, int, int]], int | None, int, int]
):
    """What a scan has found: `matches`, the address `next` to go on at, `size` in bytes, `tables`.

    A match is (address, pa, offset, size, number of the pattern).
    """

    @property
    def matches(self) -> list[tuple[int, int | None, int | None, int, int]]:
        """Tuples of address, pa, offset, size and pattern's number."""
    @property
    def next(self) -> int | None:
        """The address to go on at; None at the end."""
    @property
    def size(self) -> int:
        """How many bytes were looked at."""
    @property
    def tables(self) -> int:
        """How many page tables were visited."""

@final
class ExtentIterator(Iterator[Extent]):
    """Iterator over what an address space can read, an Extent each; made by Reader.extents()."""

    def __iter__(self) -> ExtentIterator: ...
    def __next__(self) -> Extent: ...
    def skip(self, size: SupportsIndex, /) -> int | None:
        """Leave out the next `size` readable bytes, the first part of an extent if need be, and
        return the address of the last of them; None if there were fewer, which are left out.

        It makes no Extents and is much faster than the iteration. Raises as the iteration.
        """

@final
class Matcher:
    """What to find in memory, compiled; for `scan`. Any number of threads may use it.

    `patterns` are bytes, or pairs of bytes and a mask of the same length or None: byte b fits
    value v if b & m == v & m. `pointers` are (first, last, size): unsigned little-endian
    numbers of 4 or 8 bytes from `first` to `last`; they are numbered behind the patterns.
    `text` is (minimum, kinds) instead of both: runs of at least `minimum` printable
    characters (2 ... 65536), `kinds` 1 for ASCII (number 0: tab, 0x20-0x7E), 2 for UTF-16
    (number 1: those and 0xA0-0xFF, at even and odd addresses), 3 for both. Only what begins
    at a multiple of `alignment` (1 ... 2**20) counts.

    At most 65536 patterns of 1 to 65536 bytes, 16 MiB together, none all wildcards; at most
    64 ranges. ValueError for what cannot be looked for. What many patterns cost: about the
    same as one if each has 7 bytes in a row that are known or letters of any case (mask 0xDF)
    in its first 64; a search each for those of which no 2 bytes in a row are.
    """

    def __new__(
        cls,
        patterns: Sequence[ReadableBuffer | tuple[ReadableBuffer, ReadableBuffer | None]] = (),
        *,
        pointers: Sequence[tuple[SupportsIndex, SupportsIndex, SupportsIndex]] = (),
        text: tuple[SupportsIndex, SupportsIndex] | None = None,
        alignment: SupportsIndex = 1,
    ) -> Self: ...
    def __len__(self) -> int:
        """Return len(self)."""
    @property
    def alignment(self) -> int:
        """What the addresses of matches are multiples of."""
    @property
    def longest(self) -> int:
        """How many bytes the longest match can have."""

@final
class AccessContext:
    """What to read and how: a physical address, or a virtual one with an optional root.

    Accepted wherever a reader takes an address. A physical address is read from the
    same dump without translation; a virtual one with `dtb` is translated by that
    root, and without it by the reader's own. Hashable and immutable; adding or
    subtracting an int gives the context of the address that much further.
    OverflowError for addresses outside 0 ... 2**64 - 1, ValueError for a physical
    address with a root.
    """

    def __new__(
        cls, address: SupportsIndex, dtb: SupportsIndex | None = None, *, physical: bool = False
    ) -> Self: ...
    @property
    def address(self) -> int:
        """The address."""
    @property
    def dtb(self) -> int | None:
        """Page-table root of a virtual address; None means the reader's own."""
    @property
    def physical(self) -> bool:
        """Whether the address is physical."""
    def __add__(self, other: SupportsIndex, /) -> AccessContext: ...
    def __radd__(self, other: SupportsIndex, /) -> AccessContext: ...
    def __sub__(self, other: SupportsIndex, /) -> AccessContext: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class Translation:
    """A virtual address, its physical address, and the walk between them.

    Comes from `Reader.translate`. `int(t)` is the physical address. Equal if all of
    the walk is equal; hashable; picklable.
    """

    @property
    def va(self) -> int:
        """The virtual address."""
    @property
    def pa(self) -> int:
        """The physical address of the same byte."""
    @property
    def pfn(self) -> int:
        """Number of the 4096-byte frame: `pa >> 12`."""
    @property
    def offset(self) -> int:
        """Offset of the byte within the page (of `page_size`)."""
    @property
    def page_size(self) -> int:
        """Size of the page in bytes: 0x1000, 0x200000, 0x40000000 or 0x400000."""
    @property
    def dtb(self) -> int:
        """The page-table root the walk began at."""
    @property
    def paging(self) -> str:
        """The paging mode: "x64", "la57", "x86", "pae", "arm64" or "physical"."""
    @property
    def level(self) -> int:
        """Level of the entry that maps the page: 1 = PT, 2 = PD, 3 = PDPT; 0 if there was no walk."""
    @property
    def state(self) -> str:
        """What the last entry is: "valid", "transition", "prototype" (a shared page), or
        "none" if there was no walk."""
    @property
    def transition(self) -> bool:
        """Whether the page is on its way out: invalid for the CPU, still in its frame."""
    @property
    def writable(self) -> bool:
        """Whether Windows lets the page be written, directly or after a fault."""
    @property
    def executable(self) -> bool:
        """Whether code may run there."""
    @property
    def user(self) -> bool:
        """Whether user mode has access."""
    @property
    def global_(self) -> bool:
        """Whether the TLB keeps the entry across address spaces."""
    @property
    def accessed(self) -> bool:
        """Whether the CPU has used the entry."""
    @property
    def dirty(self) -> bool:
        """Whether the CPU has written the page."""
    @property
    def copy_on_write(self) -> bool:
        """Whether a write makes a private copy (Windows' software bit)."""
    @property
    def hardware_writable(self) -> bool:
        """Whether the CPU would let the page be written without a fault."""
    @property
    def write_through(self) -> bool:
        """The PWT bit."""
    @property
    def cache_disable(self) -> bool:
        """The PCD bit."""
    @property
    def pat(self) -> bool:
        """The PAT bit."""
    @property
    def nx_ignored(self) -> bool:
        """Whether the no-execute bit that KVA shadow puts into a user top entry was disregarded."""
    @property
    def unswizzled(self) -> bool:
        """Whether the L1TF bits of a software PTE were removed."""
    @property
    def kernel_executable(self) -> bool:
        """ARM64: whether EL1 may run code there."""
    @property
    def protection(self) -> int | None:
        """The 5-bit Windows protection of a transition or prototype PTE, else None."""
    @property
    def prototype(self) -> int | None:
        """Address of the prototype PTE that led to a shared page, else None."""
    @property
    def prototype_value(self) -> int | None:
        """Content of that prototype PTE, else None."""
    @property
    def entries(self) -> tuple[PageTableEntry, ...]:
        """The entries of the walk, a tuple of PageTableEntry, root first."""
    def __int__(self) -> int: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

@final
class Pages:
    """The captured frames of a dump, sorted, or those in a window of frame numbers.

    `len(pages)` and `pfn in pages` take constant time; iteration gives frame numbers in
    ascending order. `pages[pfn]` is a read-only memoryview of the frame's 4096 bytes,
    without a copy if the dump is in memory; the dump cannot be closed while it lives. If the
    mapped file is lost (`dump.lost`) it shows zeros: nobody can raise then.
    NotInDumpError or TruncatedError (both LookupError) if the frame is not there.
    `pages[first:end]` is the window of frame numbers from `first` up to `end`.
    """

    def __len__(self) -> int: ...
    def __contains__(self, pfn: object, /) -> bool: ...
    def __iter__(self) -> Iterator[int]: ...
    @overload
    def __getitem__(self, pfn: SupportsIndex, /) -> memoryview: ...
    @overload
    def __getitem__(self, frames: slice, /) -> Pages: ...
    def runs(self) -> Iterator[Run]:
        """Iterate over the runs of frames in ascending order, as Run.

        The frames of a run are contiguous in memory and in the file.
        """
    def buffer(self, pfn: SupportsIndex, count: SupportsIndex = 1) -> memoryview:
        """Return frames that follow each other as one read-only memoryview, without a copy.

        `count` frames from `pfn` on, such as those of a Run; the dump cannot be closed while it
        lives. NotInDumpError or TruncatedError if a frame is not there, NotContiguousError if
        they do not follow each other in the file, or it is not in memory; IndexError outside of
        the window, ValueError for a `count` below 1.
        """

class DumpBase:
    """An open crash dump: its facts, its pages and the bytes of its file.

    `source` is a path (str or os.PathLike), the content of a dump in any bytes-like
    object, or a binary file object with seek() and read(). A file given by path is mapped: if
    it shrinks or fails meanwhile, the call that notices and all later ones raise OSError, see
    `lost`, and a memoryview shows zeros from there on. With `io="read"` it is read instead:
    slower, but each byte is either right or an error. `raw` is for memory without a dump
    header: a pair of the machine ("x64", "x86", "arm64", or None) and a sequence of runs
    (pfn, count, file_offset), empty for the whole file or what an ELF core lists. `pagefiles`
    are paths of page files by number, None for those that are missing; at most 16.

    OSError if the file cannot be opened, WrongFileError if it is no kernel dump,
    FormatError if it is damaged, UnsupportedDumpError if kdmp cannot read its kind.
    memoryview(dump) is the whole file, read-only, if it is in memory; no call checks what is
    read through it.
    """

    def __init__(
        self,
        source: StrPath | ReadableBuffer | _BinaryFile,
        *,
        io: Literal["map", "read"] = "map",
        raw: tuple[str | None, Sequence[tuple[int, int, int]]] | None = None,
        pagefiles: Sequence[StrPath | None] | None = None,
    ) -> None: ...
    def close(self) -> None:
        """Close the dump. Closing it again does nothing.

        BufferError while a memoryview of it lives or another thread reads from it.
        Afterwards everything that needs the file raises ValueError.
        """
    def _collect(self, on: bool, /) -> None: ...
    @property
    def closed(self) -> bool:
        """Whether the dump is closed."""
    @property
    def lost(self) -> int | None:
        """Where the mapped file has been lost: an offset in it, or None.

        Everything from there on cannot be read any more, because the file has become shorter or
        its medium has failed. From then on everything that needs the file raises OSError
        (EIO), which says if it is a page file. `check` looks for what has not been noticed.
        """
    @property
    def io(self) -> str:
        """How the file is read: "map", "read", "memory" (a bytes-like object) or "file" (a file object)."""
    @property
    def header(self) -> dict[str, Any]:
        """The raw fields of the header by name, a new dict.

        None is a field that was left as filler or that this header does not have.
        Names are those of DUMP_HEADER64 in snake case; times are in units of 100 ns.
        """
    @property
    def figures(self) -> dict[str, int]:
        """Figures of the page layout, a new dict of ints.

        `header_size`, `first_page` and `data_end` are bytes and file offsets,
        `bitmap_bits` counts bits, `pfn_end` is the highest described frame number plus
        one; `pages_described`, `pages_available` (in the file), `pages_claimed` (by the
        layout's own counter) and `pages_overlapped` count frames.
        """
    @property
    def layout(self) -> str:
        """How pages are stored: "runs", "summary", "bitmap", "ranges", "triage", "raw" or "none"."""
    @property
    def arch(self) -> str:
        """The machine: "x64", "x86", "arm64", "arm", "ia64" or "unknown"."""
    @property
    def pointer_size(self) -> int:
        """Size of a pointer of the machine: 4 or 8 bytes."""
    @property
    def file_size(self) -> int:
        """Size of the file in bytes."""
    @property
    def truncated(self) -> int:
        """How many frames the dump describes that lie beyond the end of the file."""
    @property
    def pages(self) -> Pages:
        """The captured frames, as Pages."""
    @property
    def triage_header(self) -> dict[str, int] | None:
        """The fields of the triage header by name, a new dict of ints; None for other dumps.

        Offsets are file offsets, 0 for what is absent.
        """
    def va_ranges(self) -> list[VaRange]:
        """Return the virtual ranges of a triage dump, a new list of VaRange.

        In the order of the file, copies of structures last; ranges may overlap, and reads take
        the earlier one. Other dumps have none.
        """
    def compare(
        self, other: DumpBase, first: SupportsIndex, end: SupportsIndex
    ) -> tuple[bytes, tuple[int, int, int, int, int]]:
        """Compare the frames [`first`, `end`) of two dumps by content.

        Returns the runs of frames that differ, and the counts of frames that are the
        same, changed, only here, only in `other`, and of bytes that differ in changed
        frames. A run is three native 64-bit numbers: the first frame, how many, and 1
        changed, 2 only here, 3 only in `other`. OSError if a file cannot be read.
        """
    def find_root(self, paging: str) -> int | None:
        """Return a page-table root found by trial, or None.

        A root is a table that maps itself and under which KUSER_SHARED_DATA is where Windows
        has it. Reads all frames at worst.
        """
    def choose_paging(self, dtb: SupportsIndex) -> tuple[str, str]:
        """Return the paging mode for the root `dtb` and where it comes from.

        The mode is one of "x64", "la57", "x86", "pae", "arm64", "triage"; the source
        is "machine" (no choice), "header", "kdbg" (the debugger data block says),
        "trial" (only this one maps the kernel's data) or "default". UnsupportedDumpError
        for machines without a walk here.
        """
    def read_file(self, offset: SupportsIndex, size: SupportsIndex) -> bytes:
        """Return `size` bytes of the file itself, from `offset`.

        FormatError if the file does not have them all, OSError if it cannot be read.
        """
    def check(self) -> None:
        """Raise OSError (EIO) if the mapped file is shorter now than when it was opened.

        Lost pages are noticed when they are needed, and calls of more than 20 ms look at the size
        when they end. But if the file now ends within a page of 4 KiB, the rest of that page reads
        as zeros, and short reads do not notice; this call does. It takes a microsecond, and does
        nothing for a dump that is not mapped.
        """
    def context_bytes(self) -> bytes:
        """Return the bytes of the header's ContextRecord area as they are: a CONTEXT, or filler."""
    def exception_bytes(self) -> bytes:
        """Return the bytes of the header's EXCEPTION_RECORD as they are, perhaps filler."""
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None, /
    ) -> None: ...

class ReaderBase:
    """One address space of a dump: translation, bytes, numbers and strings.

    Every address may be an int or an AccessContext. Numbers are little-endian, sizes and
    limits count bytes. Memory that is not there raises an UnreadableError that says why;
    OverflowError is for addresses outside 0 ... 2**64 - 1, ValueError for a closed dump.
    `paging` is "physical", "x64", "la57", "x86", "pae", "arm64" or "triage"; `dtb` the
    page-table root; `invalid_pte_mask` the kernel's MiState.Hardware.InvalidPteMask.
    `kernel_dtb` is a second root to read prototype PTEs by, `pte_format` the nine numbers
    of the attribute of that name; with `zero_fill` demand-zero pages read as zeros.
    With an `overlay` its writes are seen. `translation_cache` is how many pages reads
    remember the place of.
    """

    def __init__(
        self,
        dump: DumpBase,
        *,
        paging: str,
        dtb: SupportsIndex = 0,
        invalid_pte_mask: SupportsIndex | None = None,
        string_limit: SupportsIndex | None = 65536,
        kernel_dtb: SupportsIndex = 0,
        pte_format: tuple[int, int, int, int, int, int, int, int, int] | None = None,
        zero_fill: bool = False,
        overlay: OverlayBase | None = None,
        translation_cache: SupportsIndex = 8192,
    ) -> None: ...
    @property
    def dump(self) -> DumpBase:
        """The dump that is read."""
    @property
    def dtb(self) -> int | None:
        """The page-table root as Windows stores it, None for a physical or triage reader."""
    @property
    def paging(self) -> str:
        """How addresses become frames: "physical", "x64", "la57", "x86", "pae", "arm64" or "triage"."""
    @property
    def pointer_size(self) -> int:
        """Size of a pointer in this space: 4 or 8 bytes."""
    @property
    def invalid_pte_mask(self) -> int | None:
        """MiState.Hardware.InvalidPteMask, as given; None if it is not known."""
    @property
    def kernel_dtb(self) -> int | None:
        """A second root to read prototype PTEs by, None if there is none."""
    @property
    def pte_format(self) -> tuple[int, int, int, int, int, int, int, int, int] | None:
        """Where Windows keeps what in a PTE that is not valid; None for that of current builds.

        frame_mask, then bit numbers: swizzle, protection, prototype_protection,
        prototype_read_only, prototype_address, prototype_split (a flag), pagefile_low,
        pagefile_high.
        """
    @property
    def zero_fill(self) -> bool:
        """Whether demand-zero pages read as zeros."""
    @property
    def overlay(self) -> OverlayBase | None:
        """The overlay that is read and written; None for the dump as it is."""
    @property
    def cache_figures(self) -> tuple[int, int, int, int]:
        """Of the translation cache: hits, misses, pages known, capacity."""
    @property
    def cache_enabled(self) -> bool:
        """Whether reads remember where pages are; switching it off forgets them."""
    @cache_enabled.setter
    def cache_enabled(self, value: bool) -> None: ...
    @property
    def strict(self) -> bool:
        """Whether what is missing raises even where faults are collected."""
    @strict.setter
    def strict(self, value: bool) -> None: ...
    @property
    def string_limit(self) -> int | None:
        """Bytes that a string without an explicit limit may have; None means 16 MiB."""
    @string_limit.setter
    def string_limit(self, value: SupportsIndex | None) -> None: ...
    def translate(self, va: Address) -> Translation:
        """Return the Translation of a virtual address.

        The page tables alone decide: the frame they name may still be missing from the
        dump, which reading it tells. A page in transition translates, too. Raises
        NotPresentError, NonCanonicalError, BadEntryError, or, if a page table is missing,
        NotInDumpError or TruncatedError. A physical address translates to itself.
        """
    def try_translate(self, va: Address) -> Translation | None:
        """Return the Translation of a virtual address, or None if it has none.

        As `translate`, but what is merely not there is None.
        """
    def read(self, va: Address, size: SupportsIndex) -> bytes:
        """Return up to `size` bytes: those before the first hole.

        b"" if already the first byte is missing; `read_gaps` and `read_exact` say why. Memory
        is allocated for what is there, however large `size` is.
        """
    def read_exact(self, va: Address, size: SupportsIndex) -> bytes:
        """Return exactly `size` bytes; PartialReadError if any of them is missing."""
    def try_read_exact(self, va: Address, size: SupportsIndex) -> bytes | None:
        """Return exactly `size` bytes, or None if any of them is missing."""
    def read_into(self, va: Address, buffer: WriteableBuffer) -> int:
        """Fill a writable buffer up to the first hole and return the count of bytes.

        The rest of the buffer stays as it was; 0 if already the first byte is missing.
        """
    def read_gaps(self, va: Address, size: SupportsIndex, fill: SupportsIndex = 0) -> tuple[bytes, list[Gap]]:
        """Return `size` bytes and the list of gaps in them.

        Bytes that are not there have the value `fill`. Each Gap has an address, a size and the
        exception that reading its first byte raises; neighbours with the same kind of reason
        are one gap. What lies beyond the last address is a gap, too.
        """
    def is_readable(self, va: Address, size: SupportsIndex = 1) -> bool:
        """Return whether all of `size` bytes can be read."""
    def missing(self, va: Address, size: SupportsIndex = 1) -> Gap | None:
        """Return the Gap at an address, None if the byte there can be read.

        It says how many of `size` bytes from there on are missing for the same kind of reason, and
        which. Nothing is read, so that `size` may be terabytes; a call looks at 65536 page table
        entries at most, and the gap may go on behind what is returned. Nothing is told to a fault
        collector.
        """
    def mappings(self, start: SupportsIndex = 0, last: SupportsIndex | None = None) -> Iterator[Mapping]:
        """Return an iterator over the mapped ranges from `start` to `last`, a Mapping each.

        Ranges come in ascending order and lazily; empty entries are none, with the bits of
        the L1TF mask or without. Prototype PTEs are not followed. A page table that is not
        in the dump gives a range with the state "table". A page, or what a missing table
        maps, comes whole even if `start` or `last` lies inside it: ranges are not clipped.
        Tables that refer to each other without an end give KdmpError after a bounded number
        of tables.
        """
    def mappings_buffer(self, start: SupportsIndex = 0, last: SupportsIndex | None = None) -> bytes:
        """Return all mapped ranges as bytes, 40 for each range.

        In the host's byte order: start, size, page_size and pa as u64, flags as u32 (1
        writable, 2 executable, 4 user), the number of the state as u8, 3 unused bytes.
        KdmpError for more than 2**24 ranges; `mappings` has no such limit.
        """
    def find_frame(
        self, pfn: SupportsIndex, start: SupportsIndex = 0, last: SupportsIndex | None = None
    ) -> Iterator[Mapping]:
        """Return an iterator over the mappings of one frame, a Mapping per page that has it.

        The address of the frame is `start + (pfn << 12) - pa` of the Mapping.
        """
    def extents(self, start: SupportsIndex = 0, last: SupportsIndex | None = None) -> ExtentIterator:
        """Return an iterator over what can be read from `start` to `last`, an Extent each.

        Extents come in ascending order and lazily, and cover the bytes that reads read
        there, each once. Every extent is in one piece in the file, or not in the file at all: a
        frame of an overlay, pages of a page file. What follows each other in address, frame
        and file is one extent.
        Page tables that refer to each other without an end give KdmpError after a bounded
        number of tables.
        """
    def scan(
        self,
        matcher: Matcher,
        start: SupportsIndex = 0,
        last: SupportsIndex | None = None,
        *,
        limit: SupportsIndex = 4096,
        budget: SupportsIndex = 16777216,
    ) -> Scanned:
        """Find the next matches that begin from `start` to `last`; a Scanned says where to go on.

        Matches come in ascending order of address and pattern; overlapping ones, too. They
        lie in readable memory, over the boundaries of pages that follow each other, but may
        end behind `last`. All that begin below `next` have been given. The call ends when it
        has found `limit` matches (or more, if that many begin at one address), has looked at
        about `budget` bytes or has found no memory for long. The sizes of all calls add up to
        those of `extents`. A run of text that begins before `start` is not given, nor is its
        rest; one that holds all of the 64 KiB before a multiple of 64 KiB is cut there.
        """
    def read_u8(self, va: Address) -> int:
        """Return the unsigned byte at an address."""
    def read_u16(self, va: Address) -> int:
        """Return the unsigned 16-bit number at an address."""
    def read_u32(self, va: Address) -> int:
        """Return the unsigned 32-bit number at an address."""
    def read_u64(self, va: Address) -> int:
        """Return the unsigned 64-bit number at an address."""
    def read_i8(self, va: Address) -> int:
        """Return the signed byte at an address."""
    def read_i16(self, va: Address) -> int:
        """Return the signed 16-bit number at an address."""
    def read_i32(self, va: Address) -> int:
        """Return the signed 32-bit number at an address."""
    def read_i64(self, va: Address) -> int:
        """Return the signed 64-bit number at an address."""
    def read_f32(self, va: Address) -> float:
        """Return the 32-bit IEEE 754 number at an address."""
    def read_f64(self, va: Address) -> float:
        """Return the 64-bit IEEE 754 number at an address."""
    def read_uint(self, va: Address, size: SupportsIndex, *, signed: bool = False) -> int:
        """Return the number of 1, 2, 4 or 8 bytes at an address.

        ValueError for another size.
        """
    def read_ptr(self, va: Address, *, size: SupportsIndex | None = None) -> int:
        """Return the pointer at an address, zero-extended.

        `size` is 4 or 8 bytes, by default the `pointer_size` of the reader.
        """
    def read_cstr(
        self,
        va: Address,
        limit: SupportsIndex | None = None,
        *,
        encoding: str = "utf-8",
        errors: str = "replace",
        strict: bool = True,
    ) -> str:
        """Return the text before the first zero byte.

        As `read_cstr_bytes`, decoded with `encoding` and `errors`.
        """
    def read_cstr_bytes(
        self, va: Address, limit: SupportsIndex | None = None, *, strict: bool = True
    ) -> bytes:
        """Return the bytes before the first zero byte.

        At most `limit` bytes, by default `string_limit`; without a zero byte among them all of
        them. A hole before the end raises PartialReadError with what was read, or the error of
        the first byte if that is missing; with `strict=False` what is there is returned.
        """
    def read_wstr(
        self, va: Address, limit: SupportsIndex | None = None, *, errors: str = "replace", strict: bool = True
    ) -> str:
        """Return the UTF-16-LE text before the first zero unit.

        As `read_cstr`; `limit` counts bytes.
        """
    def read_unicode_string(
        self,
        va: Address,
        *,
        pointer_size: SupportsIndex | None = None,
        errors: str = "replace",
        strict: bool = True,
    ) -> str:
        """Return the text of the UNICODE_STRING at an address.

        Length is at offset 0, Buffer at 4 or 8 by `pointer_size` (4 or 8, by default the
        reader's). An odd Length raises FormatError, text that is not all there as in
        `read_wstr`; with `strict=False` the odd byte is dropped and what is there is returned.
        """
    def write(self, va: Address, data: ReadableBuffer) -> None:
        """Write bytes into the overlay.

        All or nothing: if a page is not there (or only a page file has it), the error says why,
        and nothing is written. The rights in the page tables do not matter. UnsupportedDumpError
        for a reader without an overlay.
        """
    def write_uint(self, va: Address, value: SupportsIndex, size: SupportsIndex) -> None:
        """Write a little-endian number of 1, 2, 4 or 8 bytes into the overlay."""
    def write_u8(self, va: Address, value: SupportsIndex) -> None:
        """Write a number of 1 bytes, little-endian, into the overlay; OverflowError if it does not fit."""
    def write_u16(self, va: Address, value: SupportsIndex) -> None:
        """Write a number of 2 bytes, little-endian, into the overlay; OverflowError if it does not fit."""
    def write_u32(self, va: Address, value: SupportsIndex) -> None:
        """Write a number of 4 bytes, little-endian, into the overlay; OverflowError if it does not fit."""
    def write_u64(self, va: Address, value: SupportsIndex) -> None:
        """Write a number of 8 bytes, little-endian, into the overlay; OverflowError if it does not fit."""
    def translate_into(
        self, addresses: ReadableBuffer, pas: WriteableBuffer, statuses: WriteableBuffer
    ) -> None:
        """Translate many addresses into buffers; `translate_many` makes them.

        `addresses` and `pas` hold unsigned 64-bit numbers, `statuses` a byte each. Where there is
        no translation the address is 2**64 - 1.
        """
    def read_many_into(
        self,
        addresses: ReadableBuffer,
        size: SupportsIndex,
        buffer: WriteableBuffer,
        statuses: WriteableBuffer,
    ) -> None:
        """Read `size` bytes at many addresses into buffers; `read_many` makes them.

        Missing bytes are zeros, and the status of their address is not 0.
        """
    def cache_flush(self, va: SupportsIndex | None = None) -> int:
        """Forget what the translation cache knows, or the page at an address.

        Returns how many pages it forgot. Only after changes behind the reader's back is there a
        need: writes through an overlay are noticed.
        """
    def cache_resize(self, pages: SupportsIndex) -> None:
        """Let the translation cache hold this many pages, and forget those it has."""

class OverlayBase:
    """Writes over a dump, which itself never changes.

    Frames are copied when they are first written. `len()` counts the frames that are not
    the dump's.
    """

    def __init__(self, dump: DumpBase) -> None: ...
    def __len__(self) -> int: ...
    @property
    def dump(self) -> DumpBase:
        """The dump under the overlay."""
    @property
    def epoch(self) -> int:
        """A number that changes when a page table that readers have used changes."""
    @property
    def on_write(self) -> Callable[[Any, Any, int, list[tuple[int, int]]], object] | None:
        """Called after each write with (reader, address, size, places); None: nothing is.

        `places` has the physical address and the size of each page's part.
        """
    @on_write.setter
    def on_write(self, value: Callable[[Any, Any, int, list[tuple[int, int]]], object] | None) -> None: ...
    def create(self, pfn: SupportsIndex, /) -> None:
        """Make up a frame of zeros; ValueError if the frame exists."""
    def revert_frame(self, pfn: SupportsIndex, /) -> bool:
        """Make a frame the dump's again; return whether it was not.

        ValueError for a made-up frame that a remapped one shows.
        """
    def remap(self, pfn: SupportsIndex, target: SupportsIndex, /) -> None:
        """Let frame `pfn` show the content of frame `target`; writes to it go there.

        ValueError if `pfn` has been written or made up, or if this would make a chain;
        UnreadableError if there is no frame `target`.
        """
    def frames(self) -> list[tuple[int, int | None, bool]]:
        """Return the frames that are not the dump's: (pfn, target, synthetic) of each, by pfn.

        `target` is None unless the frame is remapped; `synthetic` says that the dump has no such
        frame.
        """
    def remaps(self) -> list[tuple[int, int | None, bool]]:
        """Return those of `frames` that are remapped."""
    def frame(self, pfn: SupportsIndex, /) -> tuple[int, int | None, bool] | None:
        """Return what `frames` has of one frame; None if it is the dump's."""
    def snapshot(self) -> int:
        """Remember the present state; return a number for `restore`."""
    def restore(self, snapshot: SupportsIndex, /) -> int:
        """Go back to a snapshot, which stays; return how many changes that took back.

        Snapshots taken after it are gone; ValueError for one that is gone. Costs what was
        written since, not what the overlay holds.
        """
    def forget(self, snapshot: SupportsIndex | None = None, /) -> None:
        """Forget a snapshot, or all; the overlay stays as it is.

        ValueError for a snapshot that is gone.
        """
    def reset(self) -> None:
        """Forget all changes and all snapshots."""
    def watch_frame(self, pfn: SupportsIndex, /) -> None:
        """Note which 8-byte units of a frame change, for `take_dirty`; calls count."""
    def unwatch_frame(self, pfn: SupportsIndex, /) -> None:
        """End what one call of `watch_frame` began."""
    def take_dirty(self) -> list[int]:
        """Return the physical addresses of the 8-byte units that changed in watched frames, and
        forget them.
        """
