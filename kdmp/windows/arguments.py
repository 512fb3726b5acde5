"""What a call passed: arguments, return value and return address in the registers and on the stack.

The rules are those of the calling conventions, so each value means what its name says at one instant only:

* `function_argument`: at the first instruction of a function, before it moves the stack pointer. x64: rcx,
  rdx, r8, r9, then the stack above return address and home space. In a 32-bit process of x64 (WoW64) and on
  x86: the stack above the return address (stdcall, cdecl). ARM64: x0-x7, then the stack.
* `syscall_argument`: at the first instruction of the kernel's system service entry (x64: KiSystemCall64,
  where rsp is still the caller's and r10 holds what rcx did; x86: behind sysenter, where edx is the caller's
  stack pointer). ARM64: as of a function, when svc was executed.
* `return_value`: when a function has just returned. `return_address`: as `function_argument`.

Source: Microsoft's x64, ARM64 and x86 calling conventions; the system service stubs of ntdll.

SPDX-License-Identifier: MIT
"""

from collections.abc import Callable
from operator import index
from typing import TYPE_CHECKING, SupportsIndex

if TYPE_CHECKING:
    from kdmp.reader import Reader

from kdmp._kdmp import AddressEndError
from kdmp.context import Context
from kdmp.windows.idt import GdtEntry, gdt_entry
from kdmp.windows.registers import Registers, UnknownRegisterError

__all__ = ["Arguments", "long_mode"]

MAX_ARGUMENTS = 256  # more than any call has

_KERNEL_CS, _USER_CS = 0x10, 0x33  # KGDT64_R0_CODE, KGDT64_R3_CODE | RPL 3
_WOW64_CS = 0x23  # KGDT64_R3_CMCODE | RPL 3

_X64_FUNCTION = ("rcx", "rdx", "r8", "r9")
_X64_SYSCALL = ("r10", "rdx", "r8", "r9")
_ARM64 = tuple(f"x{n}" for n in range(8))


def _known(registers: Context | Registers, name: str) -> int:
    """The value of a register; UnknownRegisterError if the record does not cover it."""
    if isinstance(registers, Registers):
        return registers.require(name)
    if not registers.valid(name):
        raise UnknownRegisterError(f"{name} is not known: the context does not cover it")
    return registers[name]


def long_mode(registers: Context | Registers, gdt: list[GdtEntry] | None = None) -> bool:
    """Return whether a processor of x64 runs 64-bit code: CS.L.

    Taken from the descriptor that `cs` chooses in `gdt`, else from the selectors that Windows uses (0x10 and
    0x33: 64 bits, 0x23: WoW64), else from rip, which is above 4 GiB in 64-bit code only. False for x86, True
    for ARM64. Raises UnknownRegisterError if nothing tells.
    """
    if registers.arch != "x64":
        return registers.arch == "arm64"
    selector = _known(registers, "cs")
    entry = gdt_entry(gdt, selector) if gdt else None
    if entry is not None and entry.present and entry.code:
        return entry.long_mode
    if selector in (_KERNEL_CS, _USER_CS, _WOW64_CS):
        return selector != _WOW64_CS
    if _known(registers, "rip") >> 32:
        return True
    raise UnknownRegisterError(f"cs {selector:#x} is no selector of Windows, and its descriptor is not known")


class Arguments:
    """Arguments and results of calls, from the registers of a processor or thread and its memory.

    `registers` is a Context or Registers, `reader` the address space that its stack pointer belongs to.
    `gdt`, if known, decides between 64-bit and WoW64 code. The module's documentation says at which
    instant each value is valid: nothing here can check that.
    """

    def __init__(
        self, registers: Context | Registers, reader: "Reader", gdt: list[GdtEntry] | None = None
    ) -> None:
        self.registers = registers
        self.reader = reader
        self._gdt = gdt

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.registers!r}>"

    @property
    def pointer_size(self) -> int:
        """Bytes of a stack slot: 4 in 32-bit code, WoW64 included, else 8."""
        return 8 if long_mode(self.registers, self._gdt) else 4

    def function_argument(self, n: SupportsIndex) -> int:
        """Return argument `n`, from 0, at the first instruction of a function: unsigned, register-wide.

        Raises ValueError for a negative or absurd number, UnreadableError if its stack slot is missing,
        UnknownRegisterError if its register is.
        """
        number = _number(n)
        if self.registers.arch == "arm64":
            return self._arm64(number)
        if self.pointer_size == 4:
            return self._stack(self._stack_pointer(4), number + 1, 4)
        if number < len(_X64_FUNCTION):
            return _known(self.registers, _X64_FUNCTION[number])
        return self._stack(self._stack_pointer(8), number + 1, 8)

    def syscall_argument(self, n: SupportsIndex) -> int:
        """Return argument `n`, from 0, at the first instruction of the kernel's system service entry.

        In WoW64 code, which makes no system calls itself: at the first instruction of a stub of the 32-bit
        ntdll. Raises as function_argument().
        """
        number = _number(n)
        if self.registers.arch == "arm64":
            return self._arm64(number)
        if self.registers.arch == "x86":
            # Two return addresses lie there: that of the code around sysenter, and the stub's caller.
            return self._stack(_known(self.registers, "edx"), number + 2, 4)
        if self.pointer_size == 4:
            return self._stack(self._stack_pointer(4), number + 1, 4)
        if number < len(_X64_SYSCALL):
            return _known(self.registers, _X64_SYSCALL[number])
        return self._stack(self._stack_pointer(8), number + 1, 8)

    @property
    def return_value(self) -> int:
        """What a function that has just returned gave back: rax, eax (32 bits in WoW64 code, too) or x0."""
        if self.registers.arch == "arm64":
            return _known(self.registers, "x0")
        value = _known(self.registers, "rax" if self.registers.arch == "x64" else "eax")
        return value if self.pointer_size == 8 else value & 0xFFFFFFFF

    @property
    def return_address(self) -> int:
        """Where a function returns to, at its first instruction: on top of the stack, or lr.

        Raises UnreadableError if the stack is missing, UnknownRegisterError if the register is.
        """
        if self.registers.arch == "arm64":
            return _known(self.registers, "lr")
        size = self.pointer_size
        return self._stack(self._stack_pointer(size), 0, size)

    def _stack_pointer(self, size: int) -> int:
        value = _known(self.registers, {"x64": "rsp", "x86": "esp", "arm64": "sp"}[self.registers.arch])
        return value if size == 8 else value & 0xFFFFFFFF

    def _arm64(self, number: int) -> int:
        if number < len(_ARM64):
            return _known(self.registers, _ARM64[number])
        return self._stack(self._stack_pointer(8), number - len(_ARM64), 8)

    def _stack(self, base: int, slot: int, size: int) -> int:
        address = base + slot * size
        if address + size > 1 << 8 * size:
            error = AddressEndError(f"stack slot {slot} of {base:#x} lies beyond the last address")
            error.address = address
            raise error
        read: Callable[[int], int] = self.reader.read_u64 if size == 8 else self.reader.read_u32
        return read(address)


def _number(n: SupportsIndex) -> int:
    number = index(n)
    if not 0 <= number < MAX_ARGUMENTS:
        raise ValueError(f"arguments are numbered from 0 to {MAX_ARGUMENTS - 1}: {number}")
    return number
