"""An address space of a dump: translate, and read bytes, numbers, strings and structures.

SPDX-License-Identifier: MIT
"""

import struct
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeVar, overload

from kdmp._kdmp import ReaderBase
from kdmp.structs import read_struct, read_structs

if TYPE_CHECKING:
    from kdmp._kdmp import Address

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
        return _rebuild, (
            type(self), self.dump, self.paging, self.dtb, self.invalid_pte_mask, self.string_limit,
        )  # fmt: skip

    def at(self, dtb: SupportsIndex) -> "Reader":
        """Return a Reader like this one for another page-table root."""
        return type(self)(
            self.dump, paging=self.paging, dtb=dtb, invalid_pte_mask=self.invalid_pte_mask,
            string_limit=self.string_limit,
        )  # fmt: skip

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
        `long` above all, are refused with TypeError; `kdmp.wintypes` has the Windows ones. Raises
        PartialReadError if bytes are missing.
        """
        return read_struct(self, va, spec)

    def read_structs(self, va: "Address", spec: Any, count: int) -> Any:
        """Return `count` structures that follow each other: a list, or a numpy array for a dtype."""
        return read_structs(self, va, spec, count)


def _rebuild(
    cls: type[Reader], dump: Any, paging: str, dtb: int | None, mask: int | None, limit: int | None
) -> Reader:
    return cls(dump, paging=paging, dtb=dtb or 0, invalid_pte_mask=mask, string_limit=limit)
