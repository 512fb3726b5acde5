"""An address space of a dump: translate, and read bytes, numbers, strings and structures.

SPDX-License-Identifier: MIT
"""

import struct
from collections.abc import Iterable, Iterator
from operator import index
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex, TypeVar, cast, overload

from kdmp._kdmp import AccessContext, Mapping, ReaderBase

if TYPE_CHECKING:
    from kdmp._kdmp import Address
    from kdmp.dump import Dump
    from kdmp.explain import Explanation
    from kdmp.mappings import Owner
    from kdmp.pte import PteView
    from kdmp.symbols.mmpte import PteLayout
    from kdmp.windows.objects import Object

T = TypeVar("T")


class Reader(ReaderBase):
    """One address space of a dump. Get it from `Dump.phys`, `Dump.reader()` or `Reader.at()`.

    Wherever an address is taken, an AccessContext may stand in: a physical one is read from physical memory,
    a virtual one through its own root if it has one, else through this reader's.

    A reader keeps no state that changes (but for `string_limit`) and may be shared by threads.
    """

    def __repr__(self) -> str:
        if self.dtb is None:
            return f"<kdmp.Reader {self.paging}>"
        return f"<kdmp.Reader {self.paging} dtb={self.dtb:#x}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.dump, self._arguments())

    def _arguments(self) -> dict[str, Any]:
        """Keyword arguments that make a reader like this one."""
        return {
            "paging": self.paging,
            "dtb": self.dtb or 0,
            "invalid_pte_mask": self.invalid_pte_mask,
            "string_limit": self.string_limit,
            "kernel_dtb": self.kernel_dtb or 0,
            "pte_format": self.pte_format,
            "zero_fill": self.zero_fill,
        }

    @property
    def owner(self) -> "Dump":
        """The dump that is read, as `dump`."""
        return cast("Dump", self.dump)

    def at(self, dtb: SupportsIndex) -> "Reader":
        """Return a Reader like this one for another page-table root."""
        reader = type(self)(self.dump, **{**self._arguments(), "dtb": dtb})
        if reader.dtb is not None:
            self.owner._remember_root(reader.dtb)
        return reader

    # ---- page table entries ----

    @property
    def pte_layout(self) -> "PteLayout | None":
        """Where the fields of page table entries are; None if it is not known for this paging mode."""
        known = self.owner.pte_layout if self.paging != "physical" else None
        return known if known is not None and known.arch == self.paging else None

    def pte(self, va: "Address") -> "PteView":
        """Return the chain of page table entries behind an address; `str()` shows it as WinDbg's `!pte`.

        A walk that ends early is no error: the view has what there was. Raises NonCanonicalError, and
        UnsupportedDumpError for a reader without page tables.
        """
        from kdmp.pte import pte_view

        reader, address = self._place(va)
        return pte_view(reader, address)

    def explain(self, va: "Address") -> "Explanation":
        """Return why an address can be read or cannot: a sentence and the facts behind it."""
        from kdmp.explain import explain

        reader, address = self._place(va)
        return explain(reader, address)

    def is_resident(self, va: "Address") -> bool:
        """Return whether the page at an address was in memory and is in the dump.

        True for valid, transition and shared pages whose frame was captured; false for what only a page
        file or `zero_fill` supplies.
        """
        reader, address = self._place(va)
        if reader.paging == "triage":
            return reader.is_readable(address)
        walk = reader.try_translate(address)
        return walk is not None and walk.pfn in self.dump.pages

    def _place(self, va: "Address") -> "tuple[Reader, int]":
        """The reader and the plain address that `va` means."""
        if not isinstance(va, AccessContext):
            return self, index(va)
        if va.physical:
            return self.owner.phys, va.address
        return (self if va.dtb is None else self.at(va.dtb)), va.address

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

    def owners(self, pfn: SupportsIndex, roots: Iterable[SupportsIndex] | None = None) -> "list[Owner]":
        """Return where a frame is mapped: root, virtual address and page size of each place.

        Looked for under `roots`, by default those of all readers made from this dump so far (the dump's own
        if there was none). Each root costs a walk of all its tables.
        """
        from kdmp.mappings import owners

        return owners(self.owner, index(pfn), roots)

    # ---- structures ----

    @overload
    def read_struct(self, va: "Address", spec: type[T]) -> T: ...
    @overload
    def read_struct(self, va: "Address", spec: str | bytes | struct.Struct) -> tuple[Any, ...]: ...
    @overload
    def read_struct(self, va: "Address", spec: Any) -> Any: ...
    def read_struct(self, va: "Address", spec: Any) -> Any:
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

    def read_structs(self, va: "Address", spec: Any, count: int) -> Any:
        """Return `count` structures that follow each other: a list, or a numpy array for a dtype."""
        if isinstance(spec, str) and spec[:1] == "_":
            return self._typed(va, spec, index(count))
        from kdmp.structs import read_structs

        return read_structs(self, va, spec, count)

    def _typed(self, va: "Address", name: str, count: int) -> "list[Object]":
        """Structures of Windows that follow each other, all of whose bytes are there."""
        reader, address = self._place(va)
        first = reader.owner.windows.object(name, address, reader)
        if count < 0:
            raise ValueError(f"count must not be negative, got {count}")
        size = len(bytes(first)) if count else 0
        reader.read_exact(address, size * count)
        return [reader.owner.windows.object(name, address + k * size, reader) for k in range(count)]

    def read_field(self, va: "Address", path: str) -> Any:
        """Return one field of a structure of Windows at an address, "_EPROCESS.UniqueProcessId".

        Bit fields are extracted; see kdmp.windows.objects for what comes back. Raises UnreadableError if it
        is missing, SymbolError if the symbols do not know it, ValueError if `path` names no field.
        """
        name, _, field = path.partition(".")
        if not field:
            raise ValueError(f"{path!r} names a structure, not a field")
        reader, address = self._place(va)
        return reader.owner.windows.object(name, address, reader)[field]


def _rebuild(cls: type[Reader], dump: Any, arguments: dict[str, Any]) -> Reader:
    return cls(dump, **arguments)
