"""What processes and threads have in common: an entity that is one structure of the kernel.

SPDX-License-Identifier: MIT
"""

from datetime import datetime
from typing import TYPE_CHECKING, ClassVar

from kdmp.reader import Reader
from kdmp.windows.entity import Entity
from kdmp.windows.objects import Object

if TYPE_CHECKING:
    from kdmp.windows.session import Windows

__all__ = ["Executive"]


class Executive(Entity):
    """An entity kept in a structure of type TYPE. `memory` is what it is read from."""

    TYPE: ClassVar[str] = ""

    def __init__(self, windows: "Windows", address: int, memory: Reader | None = None) -> None:
        super().__init__(windows, address)
        self.memory: Reader = windows.reader if memory is None else memory

    @property
    def object(self) -> Object:
        """The structure itself, to be read by Windows' field names."""
        return self.windows.object(self.TYPE, self.address, self.memory)

    def number(self, path: str) -> int:
        """Return a field that is a number or a pointer; raises UnreadableError, FieldNotFoundError."""
        return int(self.windows._types.accessor(self.TYPE, path)(self.memory, self.address))

    def pointer(self, path: str) -> int | None:
        """Return a pointer field, None if it is NULL."""
        return self.memory.read_uint(self.field_address(path), self.windows.pointer_size) or None

    def quad(self, path: str) -> int:
        """Return the 8 bytes of a field (a LARGE_INTEGER, say) as an unsigned number."""
        return self.memory.read_u64(self.field_address(path))

    def time(self, path: str) -> datetime | None:
        """Return a FILETIME field as an aware datetime, None for 0."""
        return self.windows.filetime(self.quad(path))

    def field_address(self, path: str) -> int:
        """Return the VA of a field; raises FieldNotFoundError."""
        return self.address + self.windows.layout.offset(self.TYPE, path)

    def has(self, path: str) -> bool:
        """Return whether this build has a field."""
        return self.windows.layout.has(self.TYPE, path)
