"""The Windows view of a dump: the kernel, its symbols, and everything that hangs from them.

Get it as `dump.windows`. Nothing is read before it is asked for. What symbols are in use, and how they were
chosen, is in `layout_source`.

SPDX-License-Identifier: MIT
"""

from collections.abc import Callable, Iterator
from copy import copy
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, cast

from kdmp._kdmp import KdmpError
from kdmp.reader import Reader
from kdmp.symbols.errors import SymbolError, SymbolNotFoundError
from kdmp.windows.entity import Listing, Problem

if TYPE_CHECKING:
    from kdmp.dump import Dump
    from kdmp.symbols.structs import Layout, LayoutSource
    from kdmp.windows.cpus import Cpus
    from kdmp.windows.image import Image
    from kdmp.windows.kdbg import DebuggerData
    from kdmp.windows.kernel import Kernel
    from kdmp.windows.modules import Module
    from kdmp.windows.objects import Object, Types
    from kdmp.windows.processes import Process
    from kdmp.windows.threads import Thread
    from kdmp.windows.unloaded import UnloadedModule

T = TypeVar("T")

_MAX_STRING = 0x10000  # bytes; UNICODE_STRING.Length has 16 bits

# Symbols whose addresses the dump header has.
_HEADER_SYMBOLS = {
    "PsLoadedModuleList": "ps_loaded_module_list",
    "PsActiveProcessHead": "ps_active_process_head",
    "KdDebuggerDataBlock": "kd_debugger_data_block",
}


class Windows:
    """What Windows had in the dump. Get it from `Dump.windows`.

    Lists (`processes()`, `modules()` ...) are Listings: lists with `problems` and `to_frame()`. Objects are
    read lazily, and a property that cannot be read is None with the reason in the object's `problems`.
    """

    def __init__(self, dump: "Dump") -> None:
        self.dump = dump
        self._once: dict[str, Any] = {}

    def __repr__(self) -> str:
        if self.dump.closed:
            return "<kdmp.Windows of a closed dump>"
        if self.dump.lost is not None:
            return "<kdmp.Windows of a lost dump>"
        base = "?" if self.kernel_base is None else hex(self.kernel_base)
        return f"<kdmp.Windows build {self.dump.build} {self.dump.arch} kernel at {base}>"

    def once(self, name: str, make: Callable[[], T]) -> T:
        """Return what `make` gave when it was first called for this name: for facts of a whole session."""
        if name not in self._once:
            self._once.setdefault(name, make())
        return cast(T, self._once[name])

    def __reduce__(self) -> Any:
        raise TypeError("the Windows view of a dump cannot be pickled: pickle the dump")

    # ---- memory ----

    @cached_property
    def reader(self) -> Reader:
        """The kernel's address space. Raises what `Dump.reader` raises.

        It is strict: where faults are collected (`Dump.collect_faults`) it raises all the same, because what
        is built on it expects that."""
        reader = self.dump.reader()
        reader.strict = True
        return reader

    @property
    def pointer_size(self) -> int:
        """Bytes of a pointer of the kernel: 4 or 8."""
        return self.dump.pointer_size

    def pointer(self, va: int, reader: Reader | None = None) -> int:
        """Return the pointer at an address; raises UnreadableError."""
        return (reader or self.reader).read_uint(va, self.pointer_size)

    def unicode_string(self, va: int, reader: Reader | None = None) -> str | None:
        """Return the text of the UNICODE_STRING at an address, None if its Buffer is NULL.

        Raises UnreadableError if the structure or all of its text is missing.
        """
        source, width = reader or self.reader, self.pointer_size
        length = min(source.read_u16(va), _MAX_STRING) & ~1
        buffer = source.read_uint(va + (8 if width == 8 else 4), width)
        if not buffer:
            return None
        return source.read_exact(buffer, length).decode("utf-16-le", "replace") if length else ""

    def fast_ref(self, value: int) -> int:
        """Return the pointer in an EX_FAST_REF: without its reference count (4 bits, 3 on 32 bits)."""
        return value & ~(0xF if self.pointer_size == 8 else 7)

    @staticmethod
    def filetime(value: int | None) -> datetime | None:
        """Return a FILETIME as an aware datetime, UTC; None for 0 and for what no datetime can hold."""
        from kdmp.times import filetime

        return filetime(value)

    # ---- kernel and symbols ----

    @property
    def kernel(self) -> "Kernel | None":
        """The kernel's image and how it was found; None if it was not."""
        return self.dump.kernel

    @property
    def kernel_base(self) -> int | None:
        """VA of the kernel's image, None if it was not found."""
        return None if self.kernel is None else self.kernel.base

    @cached_property
    def kdbg(self) -> "DebuggerData | None":
        """KDDEBUGGER_DATA64, decoded if it was encoded; None if it cannot be read."""
        from kdmp.windows.kdbg import find_kdbg

        return find_kdbg(self.dump)

    @cached_property
    def layout(self) -> "Layout":
        """The structure layouts in use; raises SymbolError, which names the symbol file to get."""
        if isinstance(self._layout, SymbolError):
            raise copy(self._layout)
        return self._layout

    @cached_property
    def _layout(self) -> "Layout | SymbolError":
        """The layout, or why there is none: looking twice would cost twice."""
        known = self.dump.structure_layout
        if known is not None:
            return known
        from kdmp.windows.choose import choose_layout

        try:
            return choose_layout(self.dump)  # again, for the error that says why
        except SymbolError as error:
            return error.with_traceback(None)

    @property
    def layout_source(self) -> "LayoutSource":
        """Where `layout` is from and how sure that is; `str()` says it in words. SymbolError as of layout."""
        return self.layout.source

    @property
    def has_layout(self) -> bool:
        """Whether any structure layout fits; without one, fixed layouts give modules and user side."""
        try:
            return self.layout is not None
        except SymbolError:
            return False

    @cached_property
    def _types(self) -> "Types":
        from kdmp.windows.objects import Types

        return Types(self.layout)

    @cached_property
    def _symbols(self) -> dict[str, int]:
        """Symbols looked up so far."""
        return {}

    def symbol(self, name: str) -> int:
        """Return the VA of a variable or function of the kernel; raises SymbolNotFoundError.

        Asked in this order: symbols of this very kernel, the debugger data block, the dump header, the
        kernel's export table.
        """
        known = self._symbols.get(name)
        if known is None:
            known = self._find_symbol(name)
            if known is None:
                pdb = self.layout.source.pdb if self.has_layout else None
                raise SymbolNotFoundError(name, pdb)
            self._symbols[name] = known
        return known

    def _find_symbol(self, name: str) -> int | None:
        base = self.kernel_base
        if base is not None and self.has_layout and name in self.layout.symbols:
            return base + self.layout.symbols[name]
        if self.kdbg is not None:
            known = self.kdbg.variable(name)
            if known:
                return known
        if name in _HEADER_SYMBOLS:
            known = getattr(self.dump, _HEADER_SYMBOLS[name])
            if known:
                return cast(int, known)
        if self.kernel is None or base is None or self.dump.triage is not None:
            return None
        try:
            image = self._kernel_image
            export = None if image is None else image.export(name)
        except (KdmpError, OverflowError):
            return None
        return None if export is None or export.rva is None else base + export.rva

    @cached_property
    def _kernel_image(self) -> "Image | None":
        from kdmp.windows.image import Image

        try:
            return None if self.kernel_base is None else Image(self.reader, self.kernel_base)
        except (KdmpError, OverflowError):
            return None

    def try_symbol(self, name: str) -> int | None:
        """Return the VA of a symbol, None if it is not known."""
        try:
            return self.symbol(name)
        except SymbolNotFoundError:
            return None

    def find_symbols(self, pattern: str) -> list[tuple[str, int]]:
        """Return (name, VA) of the kernel's symbols that match a wildcard pattern, by name.

        `*` and `?` as in WinDbg's `x`, upper and lower case alike: "mi*resolve*fault*". Empty if the symbols
        are not of this very kernel. SymbolError as of layout.
        """
        base = self.kernel_base
        if base is None:
            return []
        return [(name, base + rva) for name, rva in self.layout.find_symbols(pattern)]

    def symbolize(self, va: int) -> str:
        """Return an address as text: "nt!KiPageFault+0x12", "ndis.sys+0x1234", or hexadecimal.

        A symbol's name needs symbols of this very kernel; without a complete table only exact hits count.
        """
        if not 0 <= va < 1 << 64:
            raise OverflowError(f"{va:#x} is outside 0 ... 2**64 - 1")
        base = self.kernel_base
        module = self.module_at(va)
        inside = module is not None and module.base == base
        if base is not None and va >= base and (inside or module is None) and self.has_layout:
            hit = self.layout.nearest_symbol(va - base) if inside or va - base < 1 << 28 else None
            if hit is not None:
                return f"nt!{hit[0]}" + (f"+{hit[1]:#x}" if hit[1] else "")
        if module is None:
            return hex(va)
        return f"{module.name or hex(module.base)}+{va - module.base:#x}"

    # ---- typed objects ----

    def object(self, type: str, va: int, reader: Reader | None = None) -> "Object":
        """Return the structure `type` ("_EPROCESS") at an address, to be read by attributes.

        `reader` is the address space (default: the kernel's). Raises TypeNotFoundError, SymbolError.
        """
        return self._types.object(type, va, reader or self.reader)

    def list_for_each(
        self, type: str, field: str, head: int, reader: Reader | None = None
    ) -> "Iterator[Object]":
        """Yield the structures `type` that the list at `head` links through their LIST_ENTRY `field`.

        Bounded and safe on damaged lists, see kdmp.windows.lists. Raises FieldNotFoundError at once.
        """
        from kdmp.windows.lists import walk_list

        offset = self.layout.offset(type, field)
        source = reader or self.reader
        links = walk_list(source, head, self.pointer_size).links
        return (self.object(type, link - offset, source) for link in links)

    # ---- what there is ----

    def processes(self) -> "Listing[Process]":
        """Return the processes: those of the list of active processes first, then what only other ways
        lead to, marked as such."""
        from kdmp.windows.processes import processes

        return processes(self)

    def process(self, which: int | str) -> "Process":
        """Return the process with this id or name (ending and case may be left out); LookupError if there
        is none, or more than one of that name."""
        from kdmp.windows.processes import find_process

        return find_process(self, which)

    def threads(self) -> "Listing[Thread]":
        """Return the threads of all processes, in the order of `processes()`."""
        from kdmp.windows.threads import all_threads

        return all_threads(self)

    def modules(self) -> "Listing[Module]":
        """Return the kernel's modules in load order, the kernel first."""
        from kdmp.windows.modules import modules

        return modules(self)

    def module(self, name: str) -> "Module | None":
        """Return the kernel module of this name ("nt" is the kernel; case and ending may be left out)."""
        from kdmp.windows.modules import find_module

        return find_module(self, name)

    def module_at(self, va: int) -> "Module | None":
        """Return the kernel module an address lies in, None if there is none."""
        from kdmp.windows.modules import module_at

        return module_at(self, va)

    def unloaded_modules(self) -> "Listing[UnloadedModule]":
        """Return the drivers that were unloaded, the latest first."""
        from kdmp.windows.unloaded import unloaded_modules

        return unloaded_modules(self)

    @cached_property
    def cpus(self) -> "Cpus":
        """The processors, by number; `crashing` is the one that crashed."""
        from kdmp.windows.cpus import cpus

        return cpus(self)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What is wrong with the foundations: no kernel, no symbols, symbols that are a guess."""
        found = []
        if self.kernel is None:
            found.append(Problem("kernel", "no way leads to its image"))
        try:
            if not self.layout.source.exact:
                found.append(Problem("layout", str(self.layout.source)))
        except SymbolError as error:
            found.append(Problem("layout", str(error)))
        if self.kdbg is None:
            found.append(Problem("kdbg", "the debugger data block cannot be read"))
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """Return the identity of the kernel and of the symbols as plain values."""
        image = self.kernel.image if self.kernel is not None else None
        return {
            "kernel_base": self.kernel_base,
            "kernel_found": self.kernel.how if self.kernel is not None else None,
            "pdb": image.pdb if image else None,
            "symbol_id": image.symbol_id if image else None,
            "image_id": image.image_id if image else None,
            "layout": str(self.layout_source) if self.has_layout else None,
            "problems": [problem.to_dict() for problem in self.problems],
        }
