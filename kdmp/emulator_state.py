"""A processor's registers for emulators: saved or edited, with the descriptors of its segments.

SPDX-License-Identifier: MIT
"""

from typing import TYPE_CHECKING, SupportsIndex

from kdmp._kdmp import KdmpError
from kdmp.context import Context
from kdmp.windows.merge import merged
from kdmp.windows.registers import Registers, UnknownRegisterError

if TYPE_CHECKING:
    from kdmp.dump import Dump
    from kdmp.windows.cpus import Cpu

__all__ = ["DATA_SEGMENTS", "DEBUG", "Machine", "full_tag_word", "processor"]

DATA_SEGMENTS = ("es", "ss", "ds", "fs", "gs")
DEBUG = ("dr0", "dr1", "dr2", "dr3", "dr6", "dr7")


def processor(dump: "Dump", cpu: SupportsIndex | None) -> "Cpu":
    """Return a processor by number, without one that which crashed.

    Raises IndexError if it is not known, UnknownRegisterError if it is not known which crashed.
    """
    listing = dump.windows.cpus
    if cpu is not None:
        return listing[cpu]
    if listing.crashing is not None:
        return listing[listing.crashing]
    if not listing:
        why = "; ".join(problem.why for problem in listing.problems) or "there is no list of them"
        raise UnknownRegisterError(f"no processor is known: {why}")
    raise UnknownRegisterError(
        f"which processor crashed is not known ({listing.crashing_why}): choose one with cpu="
    )


class Machine:
    """The registers of a processor, saved and edited, and its descriptors."""

    def __init__(self, cpu: "Cpu", context: Context | None) -> None:
        arch = cpu.windows.dump.arch
        if context is not None and context.arch != arch:
            raise ValueError(f"the context is of {context.arch}, the dump of {arch}")
        self.cpu = cpu
        self.context = cpu.context if context is None else context
        where = f"context ({cpu.context_source if context is None else 'edited'})"
        self.registers: Registers = merged(arch, self.context, where, cpu.special, cpu.gdt or [])

    def get(self, name: str) -> int | None:
        """The value of a register, None if it is not known."""
        return self.registers.get(name)

    def descriptor(self, selector: int) -> tuple[int, int] | None:
        """A descriptor of the GDT: its 8 bytes, and the next 8 (0 if there are none)."""
        base, limit = self.get("gdtr_base"), self.get("gdtr_limit")
        at = selector & 0xFFF8
        if base is None or selector & 4 or not at or (limit is not None and at + 7 > limit):
            return None
        try:
            reader = self.cpu.windows.reader
            data = reader.try_read_exact(base + at, 16) or reader.try_read_exact(base + at, 8)
        except (KdmpError, OverflowError):
            return None
        if data is None:
            return None
        return int.from_bytes(data[:8], "little"), int.from_bytes(data[8:], "little")

    def segment(self, selector: int, *, system: bool = False) -> tuple[int, int, int] | None:
        """Base, limit in bytes, and attributes (bits 40 to 55 of the descriptor); None if not known.

        The bits of the limit among the attributes are 16 to 19 of the limit in bytes, which is how wtf checks
        them. A loaded code or data segment counts as accessed.
        """
        found = self.descriptor(selector)
        if found is None:
            return None
        low, high = found
        base = low >> 16 & 0xFF_FFFF | low >> 32 & 0xFF00_0000
        if system and self.registers.arch == "x64":
            base |= (high & 0xFFFF_FFFF) << 32
        limit = low & 0xFFFF | low >> 32 & 0xF_0000
        if low >> 55 & 1:
            limit = limit << 12 | 0xFFF
        attributes = low >> 40 & 0xF0FF | limit >> 8 & 0xF00
        return base, limit, attributes | (low >> 44 & 1)


def full_tag_word(context: Context) -> int:
    """Return the x87 tag word, two bits for each register: 0 valid, 1 zero, 2 special, 3 empty.

    On x64 and in FXSAVE areas one bit per register is saved, and the rest follows from the content (Intel
    SDM volume 1, 8.1.7 and 10.5.1.1).
    """
    if context.arch == "x86" and not context.has("extended"):
        return context["tag_word"] & 0xFFFF
    prefix = "fx_" if context.arch == "x86" else ""
    used, top = context[f"{prefix}tag_word"], context[f"{prefix}status_word"] >> 11 & 7
    word = 0
    for place in range(8):
        tag = 3
        if used >> place & 1:
            value = context[f"{prefix}st{(place - top) & 7}"]
            fraction, exponent = value & (1 << 64) - 1, value >> 64 & 0x7FFF
            if exponent == 0 and fraction == 0:
                tag = 1
            else:
                tag = 0 if fraction >> 63 and exponent not in (0, 0x7FFF) else 2
        word |= tag << 2 * place
    return word
