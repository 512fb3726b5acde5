"""What matches of all kinds have in common: a place in memory.

SPDX-License-Identifier: MIT
"""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from kdmp.reader import Reader

__all__ = ["Located"]


class _Place(Protocol):
    @property
    def va(self) -> int | None: ...
    @property
    def pa(self) -> int | None: ...
    @property
    def size(self) -> int: ...
    @property
    def reader(self) -> "Reader": ...
    @property
    def address(self) -> int: ...


class Located:
    """Memory that was found: named tuples with `va`, `pa`, `size` and `reader` inherit from this, too."""

    __slots__ = ()

    @property
    def address(self: _Place) -> int:
        """The address in the reader that was searched: `va`, or `pa` in physical memory."""
        address = self.pa if self.va is None else self.va
        assert address is not None
        return address

    @property
    def data(self: _Place) -> bytes:
        """The bytes that matched, read when they are asked for."""
        return self.reader.read(self.address, self.size)
