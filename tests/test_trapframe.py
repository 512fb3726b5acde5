"""Trap frames: those of the machines' threads, and made ones of each kind.

SPDX-License-Identifier: MIT
"""

from types import SimpleNamespace

import pytest
import shareddata
from cpudumps import Image, bundled

import kdmp
from kdmp.symbols import SymbolError
from kdmp.windows import trapframe

ALL = [(machine, kind) for machine in shareddata.MACHINES for kind in shareddata.KINDS]


@pytest.fixture(scope="module", params=ALL, ids="-".join)
def machine(request):
    name, kind = request.param
    with kdmp.open(shareddata.machine_dump(name, kind)) as dump:
        yield dump, shareddata.truth(name)


@pytest.fixture
def image():
    return Image("win10-19041")


def test_trap_frames(machine):
    dump, truth = machine
    reader = dump.reader()
    for process in truth["processes"]:
        for thread in process["threads"]:
            address = thread["trap_frame"]
            if not address:
                continue
            if not reader.is_readable(address, 0x190):
                lost = dict.fromkeys(("rip", "rsp"))
                try:
                    frame = trapframe.trap_frame(dump.windows, address)
                except kdmp.UnreadableError:
                    continue
                for name in lost:
                    assert frame[name] in (None, thread[f"user_{name}"])
                continue
            frame = trapframe.trap_frame(dump.windows, address)
            assert (frame.rip, frame.rsp) == (thread["user_rip"], thread["user_rsp"])
            assert (frame.cs, frame.ss, frame.eflags) == (0x33, 0x2B, 0x246)
            assert (frame.previous_mode, frame.kind) == ("user", "interrupt")
            assert frame.rcx == reader.read_u64(address + 0x38)
            # What an interrupt does not store.
            assert (frame.rbx, frame.error_code, frame.fault_address) == (None, None, None)
            assert frame.raw["rbx"] == reader.read_u64(address + 0x140)


# ---- trap frames of each kind ----


def made_frame(image, active, **fields):
    """The trap frame at the current stack pointer of processor 0's thread, made there."""
    address = image.cpus[0]["registers"]["rsp"]
    for offset in range(0, 0x190, 8):
        image.put(address + offset, 0x1111_1111_1111_1111 * (offset // 8 % 15 + 1))
    image.put(address + 0x2B, active, 1)
    for offset, value in fields.items():
        image.put(address + int(offset[1:], 16), value)
    dump = kdmp.open(bytes(image.data))
    return trapframe.trap_frame(dump.windows, address)


def test_kinds_of_trap_frames(image):
    frame = made_frame(image, 2, x170=0x33, x168=0x7FF0_1234, x180=0x20_0000)
    assert (frame.kind, frame.rip, frame.rsp, frame.previous_mode) == (
        "service",
        0x7FF0_1234,
        0x20_0000,
        "user",
    )
    assert frame.rcx is None and "system call" in frame.source("rcx")
    assert frame.rbx is not None and frame.error_code is None
    frame = made_frame(image, 1, x170=0x10, xD0=0xDEAD, x160=2)
    assert (frame.kind, frame.previous_mode) == ("exception", "kernel")
    assert (frame.fault_address, frame.error_code, frame.rbx) == (0xDEAD, 2, None)
    assert frame.rcx is not None
    frame = made_frame(image, 0x77)
    assert (frame.kind, frame.rcx, frame.rbx, frame.error_code) == (None, None, None, None)
    assert frame.rip == frame.raw["rip"]
    with pytest.raises(kdmp.UnreadableError):
        trapframe.trap_frame(image.clean.windows, 0x10)


def test_trap_frames_of_other_machines_need_symbols(image):
    with pytest.raises(SymbolError):
        trapframe.decode_trap_frame(image.clean.reader(), image.cpus[0]["registers"]["rsp"], "arm64")


def test_trap_frame_of_x86(image):
    layout = next(one for one in bundled() if one.arch == "x86" and "_KTRAP_FRAME" in one)
    address = image.cpus[0]["registers"]["rsp"]
    cs, esp = (layout.offset("_KTRAP_FRAME", name) for name in ("SegCs", "HardwareEsp"))
    for offset in range(0, 0x90, 4):
        image.put(address + offset, 0x1000 + offset, 4)
    for selector, stack in ((0x1B, 0x1000 + esp), (0x08, address + esp)):
        image.put(address + cs, selector, 4)
        with kdmp.open(bytes(image.data)) as dump:
            frame = trapframe.decode_trap_frame(dump.reader(), address, "x86", layout)
        assert (frame.cs, frame.esp, frame.kind) == (selector, stack, None)
        assert frame.eip == 0x1000 + layout.offset("_KTRAP_FRAME", "Eip")
        assert (frame.ss is None) is (selector == 0x08)


class Torn:
    """Memory of which only the bytes before `end` are there; every byte of it is 0x22."""

    def __init__(self, end):
        self.end = end

    def read_gaps(self, va, size):
        there = max(min(self.end - va, size), 0)
        gap = SimpleNamespace(address=va + there, size=size - there, reason=kdmp.UnreadableError("torn"))
        return b"\x22" * there + bytes(size - there), [gap] if there < size else []


def test_a_torn_frame_keeps_what_is_there():
    frame = trapframe.decode_trap_frame(Torn(0x1170), 0x1000, "x64")
    assert frame.rip == 0x2222_2222_2222_2222 and frame.rbp is not None
    assert (frame.rsp, frame.cs, frame.eflags, frame.ss) == (None, None, None, None)
    assert (frame.source("rsp"), frame.previous_mode) == ("not in the dump", None)
    assert trapframe.decode_trap_frame(Torn(0x116C), 0x1000, "x64").rip is None
    with pytest.raises(kdmp.UnreadableError, match="torn"):
        trapframe.decode_trap_frame(Torn(0x1000), 0x1000, "x64")
