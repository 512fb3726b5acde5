"""Arguments, return values and return addresses of calls, on made stacks and on those of real machines.

SPDX-License-Identifier: MIT
"""

import pytest
import shareddata

import kdmp
from kdmp.context import Context
from kdmp.windows.arguments import MAX_ARGUMENTS, Arguments, long_mode
from kdmp.windows.idt import decode_gdt
from kdmp.windows.registers import Registers, UnknownRegisterError

STACK = 0xFFFF_8000_0000_1000
FLAGS = {"x64": 0x10001F, "x86": 0x1001F, "arm64": 0x400007}
SIZE = {"x64": 0x4D0, "x86": 0x2CC, "arm64": 0x390}
FLAGS_AT = {"x64": 0x30, "x86": 0, "arm64": 0}


class Stack:
    """Memory whose every 4 bytes hold their distance from `base`; nothing is outside of `size` bytes."""

    def __init__(self, base, size=0x1000):
        self.base, self.size = base, size

    def read(self, va, size):
        if not (self.base <= va and va + size <= self.base + self.size):
            raise kdmp.UnreadableError(f"{va:#x}")
        parts = [(va - self.base + at).to_bytes(4, "little") for at in range(0, size, 4)]
        return int.from_bytes(b"".join(parts), "little")

    def read_u32(self, va):
        return self.read(va, 4)

    def read_u64(self, va):
        return self.read(va, 8)


def slot(offset):
    """What a u64 at this distance holds."""
    return offset | (offset + 4) << 32


def context(arch, flags=None, **registers):
    data = bytearray(SIZE[arch])
    data[FLAGS_AT[arch] : FLAGS_AT[arch] + 4] = (flags or FLAGS[arch]).to_bytes(4, "little")
    return Context(data, arch).replace(**registers)


def x64(**registers):
    base = {"cs": 0x33, "rsp": STACK, "rip": 0x7FF6_0000_1000, "rcx": 1, "rdx": 2, "r8": 3, "r9": 4, "r10": 5}
    return context("x64", **{**base, "rax": 0xFEDC_BA98_7654_3210, **registers})


def test_x64_function():
    call = Arguments(x64(), Stack(STACK))
    # Behind the return address lie 4 slots of home space: the fifth argument is at rsp + 0x28.
    assert [call.function_argument(n) for n in range(6)] == [1, 2, 3, 4, slot(0x28), slot(0x30)]
    assert call.return_address == slot(0)
    assert call.return_value == 0xFEDC_BA98_7654_3210


def test_x64_syscall_has_its_first_argument_in_r10():
    call = Arguments(x64(), Stack(STACK))
    assert [call.syscall_argument(n) for n in range(6)] == [5, 2, 3, 4, slot(0x28), slot(0x30)]


def test_wow64_takes_all_from_the_stack():
    call = Arguments(x64(cs=0x23, rsp=0xAAAA_AAAA_0000_2000), Stack(0x2000))
    assert [call.function_argument(n) for n in range(3)] == [4, 8, 12]
    assert [call.syscall_argument(n) for n in range(3)] == [4, 8, 12]
    assert call.return_address == 0
    assert call.return_value == 0x7654_3210


def test_x86():
    call = Arguments(context("x86", esp=0x2000, edx=0x2100, eax=7), Stack(0x2000))
    assert [call.function_argument(n) for n in range(3)] == [4, 8, 12]
    assert [call.syscall_argument(n) for n in range(3)] == [0x108, 0x10C, 0x110]
    assert (call.return_address, call.return_value) == (0, 7)


def test_arm64():
    registers = {f"x{n}": 100 + n for n in range(8)}
    call = Arguments(context("arm64", sp=STACK, lr=0x77, **registers), Stack(STACK))
    for argument in (call.function_argument, call.syscall_argument):
        assert [argument(n) for n in range(10)] == [*range(100, 108), slot(0), slot(8)]
    assert (call.return_address, call.return_value) == (0x77, 100)


@pytest.mark.parametrize("n", [-1, MAX_ARGUMENTS, 1 << 70])
def test_numbers_that_no_argument_has(n):
    call = Arguments(x64(), Stack(STACK))
    for argument in (call.function_argument, call.syscall_argument):
        with pytest.raises(ValueError, match="numbered from 0"):
            argument(n)
    with pytest.raises(TypeError):
        call.function_argument(1.5)


def test_unreadable_stack():
    call = Arguments(x64(rsp=0x10), Stack(STACK))
    assert call.function_argument(3) == 4
    for argument in (lambda: call.function_argument(4), lambda: call.return_address):
        with pytest.raises(kdmp.UnreadableError):
            argument()


@pytest.mark.parametrize(
    ("ctx", "n"),
    [(x64(rsp=(1 << 64) - 8), 4), (context("x86", esp=0xFFFF_FFFC), 0), (x64(cs=0x23, rsp=0xFFFFFFFE), 9)],
)
def test_stack_at_the_end_of_the_space(ctx, n):
    with pytest.raises(kdmp.AddressEndError) as error:
        Arguments(ctx, Stack(0)).function_argument(n)
    assert error.value.address > 0xFFFF_FFFC


def test_registers_that_are_not_known():
    control = context("x64", flags=0x100001, rsp=STACK, cs=0x33)
    call = Arguments(control, Stack(STACK))
    with pytest.raises(UnknownRegisterError, match="rcx"):
        call.function_argument(0)
    assert call.function_argument(4) == slot(0x28)
    nothing = Registers("x64", dict.fromkeys(("cs", "rip", "rsp", "rax", "r10"), (None, "test")))
    for argument in (
        lambda: Arguments(nothing, Stack(STACK)).syscall_argument(0),
        lambda: Arguments(nothing, Stack(STACK)).return_value,
    ):
        with pytest.raises(UnknownRegisterError, match=r"is not known: test"):
            argument()


def descriptor(*, long, code=True, present=True):
    value = 0xFFFF | 2 << 40 | code << 43 | 1 << 44 | present << 47 | long << 53 | (not long) << 54
    return value.to_bytes(8, "little")


def test_mode_by_descriptor_selector_and_address():
    assert long_mode(x64(cs=0x33))
    assert long_mode(x64(cs=0x10))
    assert not long_mode(x64(cs=0x23))
    # A selector that Windows does not use: code above 4 GiB is 64-bit code.
    assert long_mode(x64(cs=0x0B))
    with pytest.raises(UnknownRegisterError, match="0xb"):
        long_mode(x64(cs=0x0B, rip=0x401000))
    # The descriptor has the last word, if it is one of code.
    swapped = decode_gdt(
        [(0, bytes(32) + descriptor(long=True) + bytes(8) + descriptor(long=False))], None, "x64"
    )
    assert long_mode(x64(cs=0x23), swapped)
    assert not long_mode(x64(cs=0x33), swapped)
    for odd in (descriptor(long=True, code=False), descriptor(long=True, present=False)):
        assert not long_mode(x64(cs=0x23), decode_gdt([(0, bytes(32) + odd)], None, "x64"))
    assert not long_mode(context("x86"))
    assert long_mode(context("arm64"))


@pytest.mark.parametrize("machine", shareddata.MACHINES)
@pytest.mark.parametrize("kind", ["full", "kernel"])
def test_on_the_processor_that_crashed(machine, kind):
    with kdmp.open(shareddata.machine_dump(machine, kind)) as dump:
        reader, context, cpu = dump.reader(), dump.context, dump.windows.cpus[0]
        assert cpu.function_argument(0) == context.rcx
        assert cpu.syscall_argument(0) == context.r10
        assert cpu.function_argument(6) == reader.read_u64(context.rsp + 0x38)
        assert cpu.syscall_argument(4) == reader.read_u64(context.rsp + 0x28)
        assert cpu.return_address == reader.read_u64(context.rsp)
        assert cpu.return_value == context.rax
