"""A crash dump, opened: what its header says, which frames it holds, and the way to its memory.

SPDX-License-Identifier: MIT
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from operator import index
from weakref import WeakSet

from kdmp._kdmp import (
    DumpBase,
    FormatError,
    OverlayBase,
    RootNotPresentError,
    UnsupportedDumpError,
    VaRange,
    WrongFileError,
)
from kdmp.reader import Reader
from kdmp.records import DumpAttributes, DumpKind
from kdmp.scopes import uncollected

TYPE_CHECKING = False  # `typing` takes as long to import as all of kdmp, and only checkers need it
if TYPE_CHECKING:
    from datetime import datetime, timedelta
    from typing import Any, Literal, SupportsIndex

    from kdmp.bugcheck import BugCheck
    from kdmp.caches import DumpCaches
    from kdmp.context import Context, ExceptionRecord
    from kdmp.doctor import Finding
    from kdmp.faults import FaultCollector, Ignored
    from kdmp.mmfacts import MmFacts
    from kdmp.overlay import Overlay
    from kdmp.packed import Unpacked
    from kdmp.pfn import PfnDatabase, PfnEntry
    from kdmp.secondary import Blob
    from kdmp.symbols.layouts import Layout
    from kdmp.symbols.mmpte import PteLayout
    from kdmp.triage import Triage
    from kdmp.views import Views
    from kdmp.windows.kernel import Kernel
    from kdmp.windows.session import Windows

# Page files: in the order of their numbers (None: not at hand), or by number.
PageFiles = Sequence[str | os.PathLike[str] | None] | Mapping[int, str | os.PathLike[str]]

# Where symbol tables are: a file or folder, or several.
Symbols = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

# progress(done, total): bytes of the packed file that have been worked through.
Progress = Callable[[int, int], object]

MAX_PAGEFILES = 16  # a page table entry has 4 bits for the number


def _pagefiles(files: PageFiles | None) -> list[str | None] | None:
    """Paths of page files by number; ValueError for a number that no page file can have."""
    if not files:
        return None
    named = files.items() if isinstance(files, Mapping) else enumerate(files)
    numbers = {index(number): path for number, path in named if path is not None}
    if any(not 0 <= number < MAX_PAGEFILES for number in numbers):
        raise ValueError(f"page files are numbered 0 to {MAX_PAGEFILES - 1}: {sorted(numbers)}")
    last = max(numbers, default=-1)
    return [os.fspath(numbers[k]) if k in numbers else None for k in range(last + 1)] or None


def _places(symbols: Symbols | None) -> list[str] | None:
    """Paths of files and folders with symbol tables; None when none were named."""
    if symbols is None:
        return None
    places = [symbols] if isinstance(symbols, str | os.PathLike) else symbols
    return [os.fspath(place) for place in places]


def _unpack(source: Any, wrong: WrongFileError, progress: Progress | None) -> Unpacked | None:
    """Unpack what the core called `wrong`; None if it is no container. WrongFileError if it is a
    container from which nothing can be had."""
    from kdmp.packed import unpack

    try:
        return unpack(source, progress=progress)
    except WrongFileError:
        raise
    except FormatError as exc:
        error = WrongFileError(f"{wrong}, and {exc}")
        error.offset = exc.offset
        raise error from exc


class Dump(DumpBase):
    """A Windows kernel crash dump, opened for reading.

    `source` is a path (`str`, `os.PathLike`), any bytes-like object with the file's content, or a binary file
    object with `seek` and `read`. With `io="map"` a path is mapped into memory: the fastest way. If the file
    is shortened or its medium fails meanwhile, the call that meets the loss raises OSError (EIO), and so does
    all else from then on (`lost`, `check`); memoryviews show zeros where nothing is left. `io="read"` reads
    instead, and each byte is right or an error; use it for media that change or fail. `dtb` and `paging`
    override what the header says.

    A dump inside .gz, .xz, .bz2, .zst, .zip, .cab or .zdmp is unpacked, into memory if it is small and else
    into a temporary file that `close` removes; `progress(done, total)` is told the bytes of the packed file
    that are through. `raw` is what `open_raw` passes on. `pagefiles` are the machine's page files, a list
    (the place is the number) or a dict by number: paged-out pages are read from them. `symbols` is where to
    look for symbol tables (Volatility's ISF): a file, a folder, or a list of them; by default what the
    environment variable KDMP_SYMBOLS lists, separated like PATH.

    Header facts are attributes; one that the writer of the dump left out is None. The names and positions
    are those of DUMP_HEADER64 and DUMP_HEADER32; `header` has all raw values.

    A dump is immutable and may be used by any number of threads. Opened by path it can be pickled.

    Raises WrongFileError if the file is something else, FormatError if it contradicts itself,
    UnsupportedDumpError for an unknown kind, OSError if it cannot be read.
    """

    def __init__(
        self,
        source: Any,
        *,
        io: Literal["map", "read"] = "map",
        dtb: SupportsIndex | None = None,
        paging: str | None = None,
        progress: Progress | None = None,
        raw: tuple[str | None, Sequence[tuple[int, int, int]]] | None = None,
        pagefiles: PageFiles | None = None,
        symbols: Symbols | None = None,
    ) -> None:
        self._source = source
        self._symbols = _places(symbols)
        self._pagefiles = _pagefiles(pagefiles)
        self._roots: set[int] = set()
        self._readers: WeakSet[Reader] = WeakSet()
        self._dtb = None if dtb is None else index(dtb)
        self._paging = paging
        self._raw = raw
        self._unpacked: Unpacked | None = None
        try:
            super().__init__(source, io=io, raw=raw, pagefiles=self._pagefiles)
        except WrongFileError as wrong:
            # What the core does not know may be a dump inside something else.
            self._unpacked = _unpack(source, wrong, progress)
            if self._unpacked is None:
                raise
            try:
                super().__init__(self._unpacked.source, io=io, pagefiles=self._pagefiles)
            except BaseException:
                self._unpacked.close()
                raise

    def close(self) -> None:
        """Close the dump, and remove the temporary file if it was unpacked into one.

        Closing again does nothing. BufferError while a memoryview of it lives or another thread reads it.
        """
        super().close()
        if self._unpacked is not None:
            self._unpacked.close()

    def __reduce__(self) -> tuple[Any, ...]:
        if not isinstance(self._source, str | os.PathLike):
            raise TypeError("only a dump that was opened by its path can be pickled")
        io = "read" if self.io == "read" else "map"
        return _reopen, (
            type(self), os.fspath(self._source), io, self._dtb, self._paging, self._raw, self._pagefiles,
            self._symbols,
        )  # fmt: skip

    def __repr__(self) -> str:
        if self.closed:
            return "<kdmp.Dump closed>"
        name = f" {os.fspath(self._source)!r}" if isinstance(self._source, str | os.PathLike) else ""
        try:
            kind = self.kind.name if isinstance(self.kind, DumpKind) else self.kind
            return f"<kdmp.Dump{name} {kind} {self.arch} build {self.build} {len(self.pages)} pages>"
        except OSError:  # the mapped file is lost
            return f"<kdmp.Dump{name} lost from offset {self.lost or 0:#x} on>"

    @cached_property
    def _header(self) -> dict[str, Any]:
        return self.header

    def _number(self, name: str) -> int | None:
        value: int | None = self._header[name]
        return value

    def _text(self, name: str) -> str | None:
        value: str | None = self._header[name]
        return value

    # ---- what the header says ----

    @property
    def kind(self) -> DumpKind | int | None:
        """What DumpType says: a DumpKind, or the plain number if it is not a known one."""
        value = self._number("dump_type")
        if value is None:
            return None
        try:
            return DumpKind(value)
        except ValueError:
            return value

    @property
    def build(self) -> int | None:
        """OS build number (MinorVersion), such as 19041; 19041 to 19045 all say 19041."""
        return self._number("minor_version")

    @property
    def checked_build(self) -> bool | None:
        """Whether the kernel is a checked (debug) build: MajorVersion is 0xC, not 0xF."""
        major = self._number("major_version")
        return None if major is None else major == 0xC

    @property
    def machine(self) -> int | None:
        """MachineImageType, a PE machine number: 0x8664 x64, 0x14C x86, 0xAA64 ARM64."""
        return self._number("machine_image_type")

    @property
    def dtb(self) -> int | None:
        """DirectoryTableBase as stored (flag bits and all), or what `open` was told to use instead."""
        return self._number("directory_table_base") if self._dtb is None else self._dtb

    @property
    def processors(self) -> int | None:
        """NumberProcessors as the header says; nothing is allocated by it."""
        return self._number("number_processors")

    @property
    def system_time(self) -> datetime | None:
        """When the machine crashed (SystemTime), aware, UTC, to the microsecond."""
        from kdmp.times import filetime

        return filetime(self._number("system_time"))

    @property
    def uptime(self) -> timedelta | None:
        """Time since boot (SystemUpTime), to the microsecond."""
        from kdmp.times import interval

        return interval(self._number("system_up_time"))

    @property
    def comment(self) -> str | None:
        """The writer's comment, ASCII."""
        return self._text("comment")

    @property
    def version_user(self) -> str | None:
        """VersionUser, 32 characters that are rarely written."""
        return self._text("version_user")

    @property
    def ps_loaded_module_list(self) -> int | None:
        """VA of the LIST_ENTRY that heads the list of loaded kernel modules."""
        return self._number("ps_loaded_module_list")

    @property
    def ps_active_process_head(self) -> int | None:
        """VA of the LIST_ENTRY that heads the list of processes."""
        return self._number("ps_active_process_head")

    @property
    def kd_debugger_data_block(self) -> int | None:
        """VA of KDDEBUGGER_DATA64; in memory the block may be encoded."""
        return self._number("kd_debugger_data_block")

    @property
    def pfn_database(self) -> int | None:
        """PfnDataBase: the value of MmPfnDatabase or the address of that variable; writers disagree."""
        return self._number("pfn_database")

    @property
    def required_dump_space(self) -> int | None:
        """RequiredDumpSpace in bytes: what the writer reserved, not always the file's size."""
        return self._number("required_dump_space")

    @property
    def product_type(self) -> int | None:
        """ProductType: 1 workstation, 2 domain controller, 3 server."""
        return self._number("product_type")

    @property
    def suite_mask(self) -> int | None:
        """SuiteMask, VER_SUITE_* bits."""
        return self._number("suite_mask")

    @property
    def writer_status(self) -> int | None:
        """WriterStatus: 0 ok; of WinDbg's writer 1 no module list, 2 corrupt module list."""
        return self._number("writer_status")

    @property
    def mini_dump_fields(self) -> int | None:
        """MiniDumpFields: which parts a triage dump claims to have (advisory)."""
        return self._number("mini_dump_fields")

    @property
    def secondary_data_state(self) -> int | None:
        """SecondaryDataState; usually never written."""
        return self._number("secondary_data_state")

    @property
    def kd_secondary_version(self) -> int | None:
        """KdSecondaryVersion, the flavour of the context; unreliable."""
        return self._number("kd_secondary_version")

    @property
    def attributes(self) -> DumpAttributes | None:
        """Attributes of newer writers."""
        value = self._number("attributes")
        return None if value is None else DumpAttributes(value)

    @property
    def boot_id(self) -> int | None:
        """BootId, a counter of boots, of newer writers."""
        return self._number("boot_id")

    @property
    def encrypted(self) -> bool:
        """Whether the page data is ciphertext (attribute EncryptedDumpData without DecryptedDump)."""
        attributes = self.attributes or DumpAttributes(0)
        return bool(attributes & DumpAttributes.ENCRYPTED) and not attributes & DumpAttributes.DECRYPTED

    @property
    def is_live(self) -> bool:
        """Whether the system ran on while the dump was written, so that lists may be torn."""
        attributes = self.attributes or DumpAttributes(0)
        return bool(attributes & DumpAttributes.LIVE) or bool(self.bugcheck and self.bugcheck.is_live_dump)

    # ---- what happened ----

    @cached_property
    def bugcheck(self) -> BugCheck | None:
        """The bug check: code, name, and its parameters with their meaning. None if there is no code."""
        from kdmp.bugcheck import BugCheck

        code = self._number("bug_check_code")
        if code is None:
            return None
        parameters = [self._number(f"bug_check_parameter{i}") or 0 for i in range(1, 5)]
        return BugCheck.from_values(code, parameters, build=self.build, arch=self.arch)

    @cached_property
    def context(self) -> Context | None:
        """Registers of the crashing processor (ContextRecord), or None if none were stored."""
        from kdmp.context import Context

        return Context.from_bytes(self.context_bytes(), self.arch)

    @cached_property
    def exception(self) -> ExceptionRecord | None:
        """The exception record of the header. It need not belong to `context`: in dumps made by a bug
        check it is often the breakpoint inside the bug-check routine."""
        from kdmp.context import ExceptionRecord

        return ExceptionRecord.from_bytes(self.exception_bytes(), self.pointer_size)

    # ---- memory ----

    @cached_property
    def _found_root(self) -> tuple[int, str]:
        """Root and paging of memory without a header, by trial."""
        modes = {"x64": ("x64", "la57"), "x86": ("pae", "x86"), "arm64": ("arm64",)}.get(self.arch, ())
        for paging in (self._paging,) if self._paging else modes:
            root = self.find_root(paging)
            if root is not None:
                return root, paging
        raise RootNotPresentError("no page-table root was found in this image; pass dtb=")

    @cached_property
    def _chosen_paging(self) -> tuple[str, str]:
        if self._paging is not None:
            return self._paging, "argument"
        if self.layout == "raw":
            if self._dtb is None:
                return self._found_root[1], "trial"
            return {"x86": "pae"}.get(self.arch, self.arch), "default"
        return self.choose_paging(self._root() if self.layout != "triage" else 0)

    @property
    def paging(self) -> str:
        """Paging mode of the dumped machine, such as "x64" or "la57"; raises if it cannot be had."""
        return self._chosen_paging[0]

    @property
    def paging_source(self) -> str:
        """How `paging` was chosen: "argument", "machine", "kdbg", "trial", "header" or "default"."""
        return self._chosen_paging[1]

    def _root(self) -> int:
        if self.dtb is not None:
            return self.dtb
        if self.layout == "raw":
            return self._found_root[0]
        raise RootNotPresentError("the header has no DirectoryTableBase; pass dtb=")

    def _check_not_encrypted(self) -> None:
        if self.encrypted:
            raise UnsupportedDumpError("the page data of this dump is encrypted (Attributes, bit 8)")

    @cached_property
    def phys(self) -> Reader:
        """Physical memory as a Reader: addresses are physical. Raises UnsupportedDumpError for a
        triage dump, which holds virtual ranges only, and for one with encrypted pages."""
        self._check_not_encrypted()
        if self.layout == "triage":
            raise UnsupportedDumpError("a triage dump holds no physical pages; read virtual addresses of it")
        return Reader(self, paging="physical")

    def reader(
        self,
        dtb: SupportsIndex | None = None,
        paging: str | None = None,
        *,
        invalid_pte_mask: SupportsIndex | None = None,
        zero_fill: bool = False,
        discover: bool = True,
        view: SupportsIndex | str | OverlayBase | Dump | None = None,
        translation_cache: SupportsIndex = 8192,
    ) -> Reader:
        """Return a Reader for one address space.

        `dtb` is the page-table root as Windows stores it (default: the header's; PCID and flag bits do
        no harm). `paging` is "x64" (4 levels), "la57", "x86", "pae" or "arm64" (default: what the dump
        says, see `paging_source`). `invalid_pte_mask` is the kernel's L1TF mask (default: the dump's, see
        `invalid_pte_mask_source`; if it is not known a transition page is accepted only if its frame is in
        the dump). With `zero_fill` demand-zero pages read as zeros.

        The first reader of a dump looks up which kernel this is, for the layout of its page table entries
        and the mask; with `discover=False` entries are taken to be as in current builds, and VADs are not
        asked for pages whose entries refer to them.

        `view` is the overlay to read and write, or its number or name in `views`; without it, or if it is
        this dump, the dump as it is. Reads remember where `translation_cache` pages are, see
        `Reader.cache_info`; ValueError for 0.

        A triage dump has one space, made of the ranges it holds: `dtb` plays no part there.

        Raises RootNotPresentError without a root, UnsupportedDumpError if the dump cannot be translated.
        """
        self._check_not_encrypted()
        if self.layout == "triage":
            if paging not in (None, "triage"):
                raise UnsupportedDumpError("a triage dump holds no page tables to translate by")
            return Reader(self, paging="triage")
        root = self._root() if dtb is None else dtb
        if paging is None:
            # The machine has one mode; without a root of its own the dump tells by the one given.
            own = dtb is None or self.dtb is not None or self._paging is not None
            paging = self.paging if own else self.choose_paging(root)[0]
        overlay = self._overlay(view)
        facts = self._mm_facts if discover and paging != "physical" else None
        if invalid_pte_mask is None and facts is not None:
            invalid_pte_mask = facts.mask
        reader = Reader(
            self,
            paging=paging,
            dtb=root,
            invalid_pte_mask=invalid_pte_mask,
            kernel_dtb=self.dtb if self.dtb is not None and self.dtb != root else 0,
            pte_format=facts.pte_format if facts is not None else None,
            zero_fill=zero_fill,
            overlay=overlay,
            translation_cache=translation_cache,
        )
        reader._ask_vads = discover
        self._readers.add(reader)
        if reader.dtb is not None and discover:
            self._remember_root(reader.dtb)
        return reader

    def _overlay(self, view: SupportsIndex | str | OverlayBase | Dump | None) -> OverlayBase | None:
        """What a `view` argument means; KeyError if there is no such view."""
        if view is None or isinstance(view, OverlayBase):
            return view
        if isinstance(view, Dump):
            if view is not self:
                raise ValueError("the view is another dump")
            return None
        found = self.views[view]
        return found if isinstance(found, OverlayBase) else None

    def _remember_root(self, root: int) -> None:
        """Note a page-table root for `Reader.owners`; making a reader does it."""
        self._roots.add(root)

    @property
    def roots(self) -> list[int]:
        """The page-table roots that readers were made for, in ascending order."""
        return sorted(self._roots)

    # ---- what is missing ----

    def collect_faults(self, ignore: Ignored | Iterable[Ignored] = ()) -> FaultCollector:
        """Return a context manager that collects what reads of this dump miss, instead of raising.

        Inside its block the methods of readers that would raise an UnreadableError (any of its classes) give
        None: `translate`, `read_exact`, numbers, strings, structures, `pte`. `read`, `read_into`,
        `read_gaps`, the `try_` methods and strings with `strict=False` give what they always do. The
        collector, a sequence of Fault, has each hole of the bytes asked for, up to 16 MiB behind the first;
        of a string it has one.
        `is_readable`, `is_resident`, `explain` and the pages that `pages` has leave no trace, writes still
        raise, and so do all other errors: a closed dump, a wrong type, an address that is no address.

        What `ignore` lists is not recorded, but still None: an int for its page of 4 KiB, a `range` of
        addresses, an AccessContext for its page in that space, a Fault, or several, another collector, say.

        It is about the code of the block: other threads are not affected, an asyncio task is if it is started
        inside and until the block ends. If blocks are nested, the innermost of the dump gets the fault. A
        reader whose `strict` is True is recorded, too, but raises.

        Readers on overlays belong to their dump. Reads that succeed cost the same with a collector.
        """
        from kdmp.faults import FaultCollector

        return FaultCollector(self, ignore)

    # ---- views and caches ----

    @cached_property
    def views(self) -> Views:
        """The views of the dump by number and name: 0 is the dump as it is, the others are overlays."""
        from kdmp.views import Views

        return Views(self)

    def overlay(self, name: str | None = None) -> Overlay:
        """Return a new Overlay: memory that can be written, over this dump, which never changes.

        With a `name` it stays in `views` until it is destroyed, without as long as it is used. ValueError
        if the name is taken, UnsupportedDumpError for triage and encrypted dumps.
        """
        from kdmp.overlay import Overlay

        return Overlay(self, name)

    def cache_info(self) -> DumpCaches:
        """Return the figures of the caches.

        `translations` adds up the translation caches of the readers that `reader` and `Reader.at` have made
        and that are still used; each has its own, see `Reader.cache_info`. There is no cache of frames, and
        `frames` says so: nothing is computed for one. Pages are used where they are, in the mapped file,
        which the operating system caches, or in memory; packed dumps are unpacked when they are opened.
        """
        from kdmp.caches import CacheInfo, DumpCaches

        infos = [reader.cache_info() for reader in self._readers if reader.cache_enabled]
        return DumpCaches(
            CacheInfo(
                sum(info.hits for info in infos), sum(info.misses for info in infos),
                sum(info.size for info in infos), sum(info.capacity for info in infos), bool(infos),
            ),
            CacheInfo(0, 0, 0, 0, False),
        )  # fmt: skip

    def clear_caches(self) -> int:
        """Have all readers forget where pages are; return how many pages that were.

        There is never a need: a dump does not change, and writes through an overlay are noticed."""
        return sum(reader.cache_flush() for reader in list(self._readers))

    # ---- the kernel and its structures ----

    @cached_property
    @uncollected
    def kernel(self) -> Kernel | None:
        """The kernel's image (base, size, PDB name, GUID, age) and how it was found; None if it was not."""
        from kdmp.windows.kernel import find_kernel

        return find_kernel(self)

    @cached_property
    def windows(self) -> Windows:
        """What Windows had in the dump: kernel, symbols, processes, modules, threads, processors ..."""
        from kdmp.windows.session import Windows

        return Windows(self)

    @property
    def symbols(self) -> list[str] | None:
        """The places of symbol tables that `open` was given; None: those of KDMP_SYMBOLS."""
        return self._symbols

    @cached_property
    @uncollected
    def structure_layout(self) -> Layout | None:
        """The bundled offsets of Windows structures that fit the kernel best, None if there are none.

        `source` says how they were chosen; without `source.same_build` they are a guess."""
        from kdmp.mmfacts import structure_layout

        return structure_layout(self)

    @cached_property
    @uncollected
    def pte_layout(self) -> PteLayout | None:
        """Where the fields of page table entries are, by the structure layout or by the rule for the build
        number, as `source` says; None if neither is known."""
        from kdmp.mmfacts import pte_layout

        return pte_layout(self)

    @cached_property
    @uncollected
    def _mm_facts(self) -> MmFacts:
        from kdmp.mmfacts import mm_facts

        return mm_facts(self)

    @property
    def invalid_pte_mask(self) -> int | None:
        """The bits that the kernel sets in invalid page table entries against L1TF (InvalidPteMask).

        0: none. None: not known; readers then undo the usual bit 45 if that makes sense."""
        return self._mm_facts.mask

    @property
    def invalid_pte_mask_source(self) -> str:
        """Where `invalid_pte_mask` is from, in words."""
        return self._mm_facts.mask_source

    # ---- the PFN database ----

    @cached_property
    @uncollected
    def pfns(self) -> PfnDatabase:
        """The PFN database: what Windows remembers about each frame of RAM; counts and arrays over all.

        Raises UnsupportedDumpError if nothing leads to it, SymbolError if the layout of its entries is not
        known."""
        from kdmp.pfn import PfnDatabase

        return PfnDatabase(self)

    def pfn(self, n: SupportsIndex) -> PfnEntry:
        """What the PFN database says about frame `n`: state, counts, page table entry, owner.

        Raises UnreadableError if the frame is not RAM or its entry is not in the dump; else as `pfns`."""
        return self.pfns[n]

    # ---- triage dumps and secondary data ----

    @cached_property
    def triage(self) -> Triage | None:
        """Drivers, stack, copied structures ... of a triage dump; None for other kinds."""
        from kdmp.triage import Triage

        header = self.triage_header
        return None if header is None else Triage(self, header)

    @property
    def ranges(self) -> list[VaRange]:
        """The virtual ranges a triage dump holds and where each comes from; empty for other kinds."""
        return self.va_ranges()

    def blobs(self) -> Iterator[Blob]:
        """Yield the secondary data that drivers appended: tag, size and place of each blob."""
        from kdmp.secondary import blobs

        return blobs(self, self.figures["data_end"])

    @property
    @uncollected
    def findings(self) -> list[Finding]:
        """What is wrong or odd about this dump, worst first (`kdmp.doctor`); examined anew each time."""
        from kdmp import doctor

        return doctor.examine_dump(self)


def _reopen(
    cls: type[Dump],
    path: str,
    io: Literal["map", "read"],
    dtb: int | None,
    paging: str | None,
    raw: Any,
    pagefiles: PageFiles | None,
    symbols: list[str] | None,
) -> Dump:
    return cls(path, io=io, dtb=dtb, paging=paging, raw=raw, pagefiles=pagefiles, symbols=symbols)
