"""An address space of a dump: translate, and read bytes, numbers, strings and structures.

SPDX-License-Identifier: MIT
"""

from __future__ import annotations

from operator import index

from kdmp._kdmp import AccessContext, Mapping, NonCanonicalError, ReaderBase
from kdmp.scopes import uncollected

TYPE_CHECKING = False  # see dump.py
if TYPE_CHECKING:
    import struct
    from collections.abc import Iterable, Iterator
    from typing import Any, Literal, SupportsIndex, TypeVar, overload

    from kdmp._kdmp import Address
    from kdmp.buffers import Piece
    from kdmp.caches import CacheInfo
    from kdmp.dump import Dump, Progress
    from kdmp.explain import Explanation
    from kdmp.extract import Extracted
    from kdmp.many import Gathered, ReadMany, TranslateMany
    from kdmp.mappings import Owner
    from kdmp.pte import PteView
    from kdmp.search import Search
    from kdmp.strings import Strings
    from kdmp.symbols.mmpte import PteLayout
    from kdmp.targets import Writable
    from kdmp.windows.objects import Object
    from kdmp.yara import YaraScan

    T = TypeVar("T")


class Reader(ReaderBase):
    """One address space of a dump. Get it from `Dump.phys`, `Dump.reader()` or `Reader.at()`.

    Wherever an address is taken, an AccessContext may stand in: a physical one is read from physical memory,
    a virtual one through its own root if it has one, else through this reader's.

    A reader belongs to one view, the dump as it is or one overlay (`view`, `overlay`), and may be shared by
    threads. But for `string_limit` and `strict` it keeps no state that changes answers: reads by plain
    address remember where pages are (`cache_info`, `cache_flush`, `cache_resize`, `cache_enabled`), and
    forget it when a page table is written through the overlay.
    """

    _ask_vads = True  # Dump.reader(discover=False) changes it

    if TYPE_CHECKING:

        @property
        def dump(self) -> Dump: ...

    def __repr__(self) -> str:
        root = f" dtb={self.dtb:#x}" if self.dtb is not None else ""
        view = f" view={self.view}" if self.overlay is not None else ""
        return f"<kdmp.Reader {self.paging}{root}{view}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.dump, self._arguments())

    def _arguments(self) -> dict[str, Any]:
        """Keyword arguments that make a reader like this one."""
        capacity = self.cache_figures[3]
        return {
            "overlay": self.overlay,
            **({"translation_cache": capacity} if capacity else {}),
            "paging": self.paging,
            "dtb": self.dtb or 0,
            "invalid_pte_mask": self.invalid_pte_mask,
            "string_limit": self.string_limit,
            "kernel_dtb": self.kernel_dtb or 0,
            "pte_format": self.pte_format,
            "zero_fill": self.zero_fill,
        }

    @property
    def owner(self) -> Dump:
        """The dump that is read, as `dump`."""
        return self.dump

    def at(self, dtb: SupportsIndex) -> Reader:
        """Return a Reader like this one for another page-table root."""
        reader = type(self)(self.dump, **{**self._arguments(), "dtb": dtb})
        if reader.dtb is not None:
            self.owner._remember_root(reader.dtb)
            self.owner._readers.add(reader)
            reader.cache_enabled = self.cache_enabled
        reader.strict = self.strict
        reader._ask_vads = self._ask_vads
        return reader

    # ---- views and caches ----

    @property
    def view(self) -> int:
        """The number of the view that is read, as in `Dump.views`: 0 is the dump as it is."""
        return getattr(self.overlay, "view", 0)

    @property
    def physical(self) -> Reader:
        """The physical memory of the same view."""
        if self.paging == "physical":
            return self
        if self.strict:
            reader = Reader(self.dump, paging="physical", overlay=self.overlay)
            reader.strict = True
            return reader
        if self.overlay is None:
            return self.owner.phys
        known: Reader | None = getattr(self.overlay, "phys", None)
        return known or Reader(self.dump, paging="physical", overlay=self.overlay)

    def cache_info(self) -> CacheInfo:
        """Return the figures of the translation cache: hits and misses, pages known, capacity, enabled.

        It has one entry per 4 KiB page, whatever the page size, and belongs to this reader alone: one address
        space of one view. Reads by plain address use it; AccessContexts, large reads and `translate` do not.
        Physical and triage readers have none (capacity 0), builds of Python without a GIL and overlays over
        a file object do not use theirs.
        """
        from kdmp.caches import CacheInfo

        return CacheInfo(*self.cache_figures, self.cache_enabled)

    @uncollected
    def _load_views(self) -> bytes:
        """The views of sections here, for pages whose entries leave the answer to the VAD.

        The binding asks once, when it meets the first such page; see kdmp.windows.vadpages.section_views.
        Nothing is known behind an overlay: its writes may have changed the VADs.
        """
        if self.overlay is not None or self.paging in ("physical", "triage") or not self._ask_vads:
            return b""
        if not hasattr(self.dump, "windows"):  # the core's part of a dump alone
            return b""
        from kdmp.windows.vadpages import section_views

        return section_views(self)

    # ---- page table entries ----

    @property
    def pte_layout(self) -> PteLayout | None:
        """Where the fields of page table entries are; None if it is not known for this paging mode."""
        known = self.owner.pte_layout if self.paging != "physical" else None
        return known if known is not None and known.arch == self.paging else None

    def pte(self, va: Address) -> PteView:
        """Return the chain of page table entries behind an address; `str()` shows it as WinDbg's `!pte`.

        A walk that ends early is no error: the view has what there was. Raises NonCanonicalError, and
        UnsupportedDumpError for a reader without page tables. Where faults are collected, what ends the walk
        is recorded; an address that is not canonical gives None then.
        """
        from kdmp.pte import pte_view

        reader, address = self._place(va)
        try:
            view = uncollected(pte_view)(reader, address)
        except NonCanonicalError:
            # Raises the same, or records it and gives None.
            return reader.translate(address)  # type: ignore[return-value]
        if view.pa is None:
            reader.try_translate(address)  # for a fault collector
        return view

    def explain(self, va: Address) -> Explanation:
        """Return why an address can be read or cannot: a sentence and the facts behind it."""
        from kdmp.explain import explain

        reader, address = self._place(va)
        return uncollected(explain)(reader, address)

    @uncollected
    def is_resident(self, va: Address) -> bool:
        """Return whether the page at an address was in memory and is in the dump.

        True for valid, transition and shared pages whose frame was captured; false for what only a page
        file or `zero_fill` supplies.
        """
        reader, address = self._place(va)
        if reader.paging == "triage":
            return reader.is_readable(address)
        walk = reader.try_translate(address)
        return walk is not None and reader.physical.is_readable(walk.pa)

    def _place(self, va: Address) -> tuple[Reader, int]:
        """The reader and the plain address that `va` means."""
        if not isinstance(va, AccessContext):
            return self, index(va)
        if va.physical:
            return self.physical, va.address
        return (self if va.dtb is None else self.at(va.dtb)), va.address

    # ---- many at once ----

    def translate_many(self, addresses: Any, *, threads: int = 1) -> TranslateMany:
        """Translate many addresses: `pa` (2**64 - 1 without one) and `status` of each (kdmp.many.Status).

        `addresses` is a buffer of unsigned 64-bit numbers (numpy array, `array`, memoryview) or an iterable
        of int. The results are numpy arrays, memoryviews without numpy. Nothing is raised for what is not
        there, nor told to a fault collector. With `threads` the work is shared out. Page tables alone
        decide, as in `translate`.
        """
        from kdmp.many import translate_many

        return translate_many(self, addresses, threads)

    def read_many(self, addresses: Any, size: SupportsIndex, *, threads: int = 1) -> ReadMany:
        """Read `size` bytes at each of many addresses: `data`, a row each, and `status` of each.

        Where bytes are missing the row has zeros from there on and its status is not 0. Arguments as of
        `translate_many`.
        """
        from kdmp.many import read_many

        return read_many(self, addresses, index(size), threads)

    def read_u64_many(self, addresses: Any, *, threads: int = 1) -> Gathered:
        """Read an unsigned 64-bit number at each of many addresses: `values` and `status` of each.

        Arguments as of `translate_many`.
        """
        from kdmp.many import read_u64_many

        return read_u64_many(self, addresses, threads)

    def gather(self, struct: str, path: str, addresses: Any, *, threads: int = 1) -> Gathered:
        """Read one field of many structures of Windows: `values` and `status` of each.

        `struct` and `path` are as in `kdmp dt` ("_EPROCESS", "Pcb.DirectoryTableBase"); bit fields are
        extracted. What is no number comes as rows of bytes. Raises SymbolError for what is not known.
        """
        from kdmp.many import gather

        return gather(self, struct, path, addresses, threads)

    # ---- what is mapped ----

    def mappings(
        self,
        start: SupportsIndex = 0,
        last: SupportsIndex | None = None,
        *,
        half: Literal["user", "kernel"] | None = None,
        states: str | Iterable[str] | None = None,
    ) -> Iterator[Mapping]:
        """Return an iterator over the mapped ranges from `start` to `last`, a Mapping each.

        As of ReaderBase: ascending, merged, lazy. `half` restricts them to user or kernel addresses, `states`
        to these states ("valid", "transition", "prototype", "pagefile", "demand_zero", "table" ...).
        """
        from kdmp.mappings import bounds, state_set

        window = bounds(self.paging, start, last, half)
        wanted = state_set(states)
        if window is None:
            return iter(())
        ranges = super().mappings(*window)
        return ranges if wanted is None else (one for one in ranges if one.state in wanted)

    def mappings_array(
        self,
        start: SupportsIndex = 0,
        last: SupportsIndex | None = None,
        *,
        half: Literal["user", "kernel"] | None = None,
        states: str | Iterable[str] | None = None,
    ) -> Any:
        """Return all mapped ranges as a numpy structured array, `kdmp.mappings.MAPPING_DTYPE`.

        Fields: start, size, page_size, pa (0 without a frame), flags (1 writable, 2 executable, 4 user),
        state (an index into `kdmp.mappings.STATES`). Arguments as of `mappings`. ImportError without numpy.
        """
        from kdmp.mappings import as_array, bounds, state_set

        window = bounds(self.paging, start, last, half)
        return as_array(self.mappings_buffer(*window) if window else b"", state_set(states))

    def owners(self, pfn: SupportsIndex, roots: Iterable[SupportsIndex] | None = None) -> list[Owner]:
        """Return where a frame is mapped: root, virtual address and page size of each place.

        Looked for under `roots`, by default those of all readers made from this dump so far (the dump's own
        if there was none). Each root costs a walk of all its tables.
        """
        from kdmp.mappings import owners

        return owners(self, index(pfn), roots)

    # ---- without a copy ----

    def buffer(self, va: Address, size: SupportsIndex) -> memoryview:
        """Return `size` bytes as a read-only memoryview of the mapped file, or of the caller's bytes.

        Nothing is copied, and `numpy.frombuffer` takes it. The dump cannot be closed while it lives. What is
        written through an overlay later does not show. What is lost of the file meanwhile (`Dump.lost`) is
        zeros.

        Raises as `read_u8` for the first byte that is missing, and NotContiguousError, a BufferError, for
        bytes that are there but not in one piece: its `address` is the first that does not follow those
        before it in the file, or the first of all if that is in an overlay or a page file, or the file is not
        mapped (`io="read"`, file objects). ValueError for a range that ends behind the last address.
        """
        from kdmp.buffers import buffer

        return buffer(self, va, size)

    def buffers(self, start: SupportsIndex = 0, last: SupportsIndex | None = None) -> Iterator[Piece]:
        """Return an iterator over all that can be read from `start` to `last`, a Piece each.

        Pieces are those of `extents`: ascending, as large as the file has them together, with `address`,
        `pa`, `offset` and `data`, a memoryview without a copy. What is not in the mapped file comes as
        copies of at most 1 MiB: written frames of overlays, page files, zeros, dumps that are not mapped.
        The dump cannot be closed while a view lives. Errors are those of `extents`.
        """
        from kdmp.buffers import buffers

        return buffers(self, start, last)

    # ---- into a file ----

    def extract(
        self,
        va: Address,
        size: SupportsIndex,
        path: Writable,
        *,
        fill: SupportsIndex = 0,
        sparse: bool = True,
        overwrite: bool = False,
        limit: SupportsIndex | None = None,
        progress: Progress | None = None,
    ) -> Extracted:
        """Write `size` bytes to a file, those that are missing as `fill`, and return what was missing.

        `path` is written under a temporary name in its folder and has its name when it is complete; it must
        not exist, unless with `overwrite`. A binary file object gets the bytes where it stands. With `sparse`
        and `fill` 0, missing stretches are holes in a regular file: terabytes cost nothing. `limit` is the
        largest file that is written, in bytes (1 TiB): a slip of the hand should not fill a disk.

        Reads 1 MiB at a time. `progress(done, total)` is told bytes; an exception from it ends the work and
        leaves no file behind. A file object keeps what it got.

        Raises FileExistsError, other OSErrors from the file, ValueError for more than `limit`, a range that
        ends behind the last address, or the file of the dump itself. Nothing is told to a fault collector.
        """
        from kdmp.extract import extract

        return extract(
            self, va, size, path,
            fill=fill, sparse=sparse, overwrite=overwrite, limit=limit, progress=progress,
        )  # fmt: skip

    # ---- searching ----

    def search(
        self,
        what: Any,
        start: SupportsIndex = 0,
        last: SupportsIndex | None = None,
        *,
        alignment: SupportsIndex = 1,
        order: Literal["address", "file"] = "address",
        unique: bool = False,
        limit: SupportsIndex | None = None,
        threads: SupportsIndex = 1,
        progress: Progress | None = None,
    ) -> Search:
        """Search memory; return an iterator of Match (`kdmp.search.Search`).

        `what`: bytes-like: these bytes; str: that text in UTF-8 and UTF-16LE; int: a pointer with that value;
        range: a pointer with one of these values; re.Pattern on bytes: a regular expression; a
        `kdmp.Pattern`, which has more (masks, hexadecimal text, upper and lower case); or an iterable of
        these. Pointers are looked for at multiples of their size only (`Pattern.pointers` has more).

        Found is what begins in [start, last] at a multiple of `alignment`, a power of two, overlapping ones,
        too; it may end behind `last` and go over the boundaries of pages. Matches ascend by address, then
        by the number of the pattern; with order="file", which only physical memory has, by their place in
        the file, those that are in no file last. With `unique` each frame is searched where the address
        space has it first: later there is only what contains a frame that was not searched, or goes over
        frames that were not side by side before. `limit` is how many matches to give at most. `threads`
        search ahead, but never for regular expressions and file objects.
        `progress(done, total)` is called in the thread that iterates, up to 20 times a second.

        A regular expression is matched against each stretch of contiguous addresses, as re.finditer does,
        without empty matches. What it sees ends `max_match` bytes (4096, see `Pattern.regex`) behind the
        beginning of a match: a longer one is cut there, and the next begins behind it. `^` and `\\A` match
        where a stretch begins, `$` and `\\Z` where it ends; they, and what looks ahead, may take the end of
        what is seen for the end, `max_match` bytes or more behind the beginning of the match. Lookbehind
        sees up to `max_match` bytes.

        Raises at once TypeError, ValueError and OverflowError for the arguments, while iterating OSError, and
        KdmpError if page tables refer to each other without an end.
        """
        from kdmp.search import Search

        return Search(
            self, what, start, last, alignment=alignment, order=order, unique=unique, limit=limit,
            threads=threads, progress=progress,
        )  # fmt: skip

    def strings(
        self,
        min_length: SupportsIndex = 4,
        encodings: str | Iterable[str] = ("ascii", "utf-16-le"),
        start: SupportsIndex = 0,
        last: SupportsIndex | None = None,
        *,
        order: Literal["address", "file"] = "address",
        unique: bool = False,
        limit: SupportsIndex | None = None,
        threads: SupportsIndex = 1,
        progress: Progress | None = None,
    ) -> Strings:
        """Look for texts; return an iterator of Text (`kdmp.strings.Strings`).

        A text is a run of at least `min_length` (2 to 65536) characters: printable ASCII or tab, and in
        UTF-16LE those of Latin-1 (U+00A0 to U+00FF), too. One of more than 64 KiB comes in pieces. It belongs
        to where it begins: one that begins before `start` is not given. The other arguments are those of
        `search`.
        """
        from kdmp.strings import Strings

        return Strings(
            self, min_length, encodings, start, last, order=order, unique=unique, limit=limit,
            threads=threads, progress=progress,
        )  # fmt: skip

    def yara(
        self,
        rules: Any,
        start: SupportsIndex = 0,
        last: SupportsIndex | None = None,
        *,
        piece: SupportsIndex = 16 << 20,
        overlap: SupportsIndex = 64 << 10,
        timeout: SupportsIndex | None = None,
        order: Literal["address", "file"] = "address",
        limit: SupportsIndex | None = None,
        progress: Progress | None = None,
    ) -> YaraScan:
        """Search memory by YARA rules; return an iterator of YaraMatch (`kdmp.yara.YaraScan`).

        `rules` is source text, the path of a file of it, several of these, or compiled `yara_x.Rules`. Rules
        are given stretches of contiguous addresses, in pieces of up to `piece` bytes that overlap by
        `overlap` bytes: matches of up to that size are found, and given once. Conditions speak of a piece:
        `filesize` is its size, offsets count from its beginning, and patterns that a condition combines
        must be in one piece. `timeout` is how many seconds a piece may take. The other arguments are those of
        `search`.

        Raises ImportError without yara-x (`pip install kdmp[yara]`), ValueError for rules that do not
        compile, OSError for a file that cannot be read, while iterating TimeoutError and as `search`.
        """
        from kdmp.yara import YaraScan

        return YaraScan(
            self, rules, start, last, piece=piece, overlap=overlap, timeout=timeout, order=order, limit=limit,
            progress=progress,
        )  # fmt: skip

    # ---- structures ----

    if TYPE_CHECKING:

        @overload
        def read_struct(self, va: Address, spec: type[T]) -> T: ...
        @overload
        def read_struct(self, va: Address, spec: str | bytes | struct.Struct) -> tuple[Any, ...]: ...
        @overload
        def read_struct(self, va: Address, spec: Any) -> Any: ...

    def read_struct(self, va: Address, spec: Any) -> Any:
        """Return one structure, read whole.

        `spec` is a `ctypes.Structure` (an instance comes back), a `struct` format (a tuple), a
        `numpy.dtype` (a scalar) or a cffi type (an owned value). Types whose size depends on the host, bare
        `long` above all, are refused with TypeError; `kdmp.wintypes` has the Windows ones. The name of a
        structure of Windows, which begins with an underscore ("_EPROCESS"), gives an Object, read by
        attributes. Raises PartialReadError if bytes are missing, SymbolError for an unknown name.
        """
        if isinstance(spec, str) and spec[:1] == "_":
            return self._typed(va, spec, 1)[0]
        from kdmp.structs import read_struct

        return read_struct(self, va, spec)

    def read_structs(self, va: Address, spec: Any, count: int) -> Any:
        """Return `count` structures that follow each other: a list, or a numpy array for a dtype."""
        if isinstance(spec, str) and spec[:1] == "_":
            return self._typed(va, spec, index(count))
        from kdmp.structs import read_structs

        return read_structs(self, va, spec, count)

    def _typed(self, va: Address, name: str, count: int) -> list[Object]:
        """Structures of Windows that follow each other, all of whose bytes are there."""
        reader, address = self._place(va)
        first = reader.owner.windows.object(name, address, reader)
        if count < 0:
            raise ValueError(f"count must not be negative, got {count}")
        size = len(bytes(first)) if count else 0
        reader.read_exact(address, size * count)
        return [reader.owner.windows.object(name, address + k * size, reader) for k in range(count)]

    def read_field(self, va: Address, path: str) -> Any:
        """Return one field of a structure of Windows at an address, "_EPROCESS.UniqueProcessId".

        Bit fields are extracted; see kdmp.windows.objects for what comes back. Raises UnreadableError if it
        is missing, SymbolError if the symbols do not know it, ValueError if `path` names no field.
        """
        name, _, field = path.partition(".")
        if not field:
            raise ValueError(f"{path!r} names a structure, not a field")
        reader, address = self._place(va)
        return reader.owner.windows.object(name, address, reader)[field]

    def write_struct(self, va: Address, value: Any, spec: Any = None) -> None:
        """Write a structure through the overlay, whole or not at all.

        `value` is a ctypes instance, a numpy scalar or array, or a cffi structure; with `spec`, as
        `read_struct` takes it, also what makes one: a tuple for a `struct` format, say. Raises as `write`
        does, TypeError for what has no layout or that of the host, ValueError for numbers that do not fit.
        """
        from kdmp.packing import pack

        self.write(va, pack(value, spec))


def _rebuild(cls: type[Reader], dump: Any, arguments: dict[str, Any]) -> Reader:
    return cls(dump, **arguments)
