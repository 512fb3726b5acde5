"""TEBs: what a thread keeps in user mode, of 64 bits and, in WoW64, of 32.

SPDX-License-Identifier: MIT
"""

from typing import Any

from kdmp._kdmp import KdmpError
from kdmp.windows.entity import Entity, fact
from kdmp.windows.userbase import ABI, UserStructure

__all__ = ["TLS_SLOTS", "Teb", "teb"]

TLS_SLOTS = 64
"""Slots in the TEB itself; more (up to 1088) are in a block of their own."""

_TEB64_PAGES = 0x2000  # the 64-bit TEB, rounded up to pages; the 32-bit one follows it


class Teb(UserStructure):
    """A thread environment block, of 64 or, with `width` 4, of 32 bits (WoW64)."""

    FACTS = (
        "process_id", "thread_id", "stack_base", "stack_limit", "peb", "last_error", "last_status",
        "self_pointer",
    )  # fmt: skip
    HEX = Entity.HEX | {"stack_base", "stack_limit", "peb", "last_status", "self_pointer"}

    def _at(self, name: str) -> int:
        return ABI[self.width].teb[name]

    @fact
    def self_pointer(self) -> int | None:
        """NtTib.Self: the address of the TEB itself, if this is one."""
        return self._pointer(self._at("Self"))

    @fact
    def process_id(self) -> int | None:
        """ClientId.UniqueProcess."""
        return self._pointer(self._at("UniqueProcess"))

    @fact
    def thread_id(self) -> int | None:
        """ClientId.UniqueThread."""
        return self._pointer(self._at("UniqueThread"))

    @fact
    def stack_base(self) -> int | None:
        """NtTib.StackBase: the end of the user-mode stack, its highest address plus one."""
        return self._pointer(self._at("StackBase"))

    @fact
    def stack_limit(self) -> int | None:
        """NtTib.StackLimit: the lowest address of the stack that is committed."""
        return self._pointer(self._at("StackLimit"))

    @fact
    def peb(self) -> int | None:
        """ProcessEnvironmentBlock: address of the PEB of the same width."""
        return self._pointer(self._at("ProcessEnvironmentBlock"))

    @fact
    def last_error(self) -> int | None:
        """LastErrorValue, what GetLastError would return."""
        return self._uint(self._at("LastErrorValue"))

    @fact
    def last_status(self) -> int | None:
        """LastStatusValue: the last NTSTATUS that became a Win32 error."""
        return self._uint(self._at("LastStatusValue"))

    def tls_slot(self, index: int) -> int:
        """Return the value of a TLS slot, 0 to 63; IndexError for others, UnreadableError if not there."""
        if not 0 <= index < TLS_SLOTS:
            raise IndexError(f"a TEB has the TLS slots 0 to {TLS_SLOTS - 1}: {index}")
        return self._pointer(self._at("TlsSlots") + index * self.width)

    @property
    def wow64(self) -> "Teb | None":
        """The 32-bit TEB of a WoW64 thread, None if there is none.

        The 64-bit TEB's ExceptionList points to it; else it follows at 0x2000. Believed only if its Self is
        its own address.
        """
        if self.width == 4 or not self.process.peb32:
            return None
        try:
            named = self._pointer(self._at("ExceptionList"))
        except (KdmpError, OverflowError):
            named = 0
        for va in (named, self.address + _TEB64_PAGES):
            if 0x10000 <= va < 1 << 32:
                candidate = Teb(self.process, va, 4)
                if candidate.self_pointer == va:
                    return candidate
        return None


def teb(thread: Any) -> Teb | None:
    """Return the TEB of a thread (with `process` and `teb`), or at `(process, address)`; None for no TEB."""
    process, va = thread if isinstance(thread, tuple) else (thread.process, thread.teb)
    return Teb(process, int(va), process.windows.pointer_size) if va and process is not None else None
