"""Processors of dumps that lie: wrong pointers, values and lists, doubt about which one crashed.

SPDX-License-Identifier: MIT
"""

import random

import pytest
import shareddata
from cpudumps import HEADER_CONTEXT, HEADER_PROCESSORS, RIP, RSP, Image, agree

import kdmp
from kdmp.windows.idt import decode_gdt, decode_idt, gdt_entry


@pytest.fixture
def image():
    return Image("win10-19041")


def test_slots_that_are_wrong_cost_one_processor(image):
    image.put(image.block, 0x1234_5678_9ABC)
    listing = image.open()
    assert [cpu.number for cpu in listing] == [1]
    agree(listing[1], image.cpus[1])
    assert "no kernel address" in str(listing.problems[0])
    with pytest.raises(IndexError, match="known are 1"):
        listing[0]
    assert listing[-1] is listing[1] and listing[:] == list(listing)


def test_null_ends_the_list(image):
    image.put(image.block + 8, 0)
    listing = image.open()
    assert [cpu.number for cpu in listing] == [0]
    assert "ends after 1" in str(listing.problems[0])


def test_the_same_processor_twice(image):
    image.put(image.block + 8, image.cpus[0]["kprcb"])
    listing = image.open()
    assert [cpu.number for cpu in listing] == [0]
    assert "same as processor 0" in str(listing.problems[0])


def test_their_number_is_bounded(image):
    image.header(HEADER_PROCESSORS, 0xFFFFFFFF, 4)
    block = image.truth["kdbg"]["address"] + 0x218
    image.put(block, 0xFFFFF790_00000000)
    with kdmp.open(bytes(image.data)) as dump:
        windows = dump.windows
        windows._symbols["KiProcessorBlock"] = windows.pointer(block)
        listing = windows.cpus
    assert not listing
    assert "2048 of 2048 processors" in str(listing.problems[0])
    assert "claims 4294967295" in str(listing.problems[1])


@pytest.mark.parametrize("count", [0, 1, 3, 64, 0xFFFFFFFF])
def test_a_header_that_lies_about_their_number(image, count):
    image.header(HEADER_PROCESSORS, count, 4)
    listing = image.open()
    assert len(listing) == min(count, 2)
    if count > 2:
        assert listing.problems
    for cpu in listing:
        agree(cpu, image.cpus[cpu.number])


def test_a_pointer_to_nowhere_gives_a_processor_without_facts(image):
    image.put(image.block + 8, 0xFFFFF000_00000180)
    cpu = image.open()[1]
    assert (cpu.context, cpu.special, cpu.current_thread, cpu.idt) == (None, None, None, None)
    whats = {problem.what for problem in cpu.examine()}
    assert whats >= {"context", "special", "current_thread", "mhz", "vendor", "kprcb"}
    assert str(cpu) and cpu.to_dict()["context"] is None
    with pytest.raises(kdmp.KdmpError):
        cpu.function_argument(0)


def test_garbage_in_the_context_pointer_leaves_the_embedded_frame(image):
    for pointer in (0x10, 0xFFFFF780_00000000, image.cpus[1]["kprcb"], (1 << 64) - 8):
        image.put(image.prcb(1, "Context"), pointer)
        cpu = image.open()[1]
        assert cpu.context_source == "ProcessorState.ContextFrame"
        assert {name: cpu.context[name] for name in image.cpus[1]["registers"]} == image.cpus[1]["registers"]
        assert any(problem.what == "context" for problem in cpu.problems)


@pytest.mark.parametrize("rip", [0, 0x8000_0000_0000_0000])
def test_a_context_that_cannot_be(image, rip):
    image.put(image.prcb(1, "Context"), 0)
    image.put(image.prcb(1, "ProcessorState.ContextFrame") + RIP, rip)
    cpu = image.open()[1]
    assert (cpu.context, cpu.context_source, cpu.ip) == (None, None, None)
    assert cpu.registers.cr3 == image.cpus[1]["specials"]["Cr3"]
    assert any(problem.what == "context" for problem in cpu.problems)
    # A frame whose instruction pointer is 0 was not filled, which is usual.
    assert any("no CONTEXT" in str(problem) for problem in cpu.problems) is (rip != 0)
    assert cpu.registers.cs_long is None


def test_flags_of_another_machine_are_no_context(image):
    image.put(image.cpus[1]["context_pointer"] + 0x30, 0x1003F, 4)
    cpu = image.open()[1]
    assert cpu.context_source == "ProcessorState.ContextFrame"
    assert any("no CONTEXT of x64" in str(problem) for problem in cpu.problems)


def test_msrs_that_were_not_saved(image):
    start = image.prcb(0, "ProcessorState") + 0xA8
    for offset in range(0, 0x30, 8):
        image.put(start + offset, 0)
    cpu = image.open()[0]
    assert cpu.special.msr_gs_swap is None and cpu.special.msr_fs_base is None
    assert cpu.special.cr8 == 0 and cpu.special.xcr0 == 7
    assert cpu.registers.lstar is None and cpu.kpcr_agrees is None
    # With one of them saved a zero in the others is a value, where it can be one.
    image.put(start, image.cpus[0]["kpcr"])
    special = image.open()[0].special
    assert (special.msr_gs_base, special.msr_gs_swap) == (image.cpus[0]["kpcr"], 0)
    assert special.msr_lstar is None and special.msr_cstar == 0


def test_nothing_was_saved(image):
    start = image.prcb(1, "ProcessorState")
    for offset in range(0, 0xF0, 8):
        image.put(start + offset, 0)
    cpu = image.open()[1]
    assert cpu.special.known == {}
    # KPCR has the tables still.
    assert [entry.handler for entry in cpu.idt] == image.cpus[1]["idt_handlers"]
    assert cpu.tss == image.cpus[1]["tss"]


def test_gs_base_against_kpcr(image):
    at = image.prcb(0, "ProcessorState") + 0xA8
    image.put(at, image.cpus[1]["kpcr"])
    cpu = image.open()[0]
    assert cpu.kpcr_agrees is False
    assert any("GS base" in str(problem) for problem in cpu.problems)
    # Taken before swapgs: the base is the user's and the KPCR waits in the other.
    image.put(at, 0x7FF0_0000_0000)
    image.put(at + 8, image.cpus[0]["kpcr"])
    assert image.open()[0].kpcr_agrees is True


def test_a_number_and_self_pointers_that_contradict(image):
    image.put(image.prcb(1, "Number"), 7, 4)
    image.put(image.cpus[0]["kpcr"] + 0x18, 0x1234)
    listing = image.open()
    assert any("of processor 7" in str(problem) for problem in listing[1].problems)
    assert any("KPCR.Self is 0x1234" in str(problem) for problem in listing[0].problems)


def test_context_of_user_mode_has_the_bases_exchanged(image):
    image.put(image.cpus[1]["context_pointer"] + 0x38, 0x33, 2)
    image.put(image.prcb(1, "ProcessorState") + 0xB0, 0x7FF_0000)
    view = image.open()[1].registers
    assert (view.gs_base, view.gs_swap) == (0x7FF_0000, image.cpus[1]["kpcr"])
    assert "exchanged" in view.source("gs_base")


def test_a_triage_dump_whose_list_contradicts_its_copy():
    path = shareddata.unpack("triage", "rtech_116_1.dmp.xz")
    data = bytearray(path.read_bytes())
    with kdmp.open(path) as dump:
        slot = dump.windows.symbol("KiProcessorBlock") + 8
        place = next(r for r in dump.ranges if r.address <= slot < r.address + r.size)
        kprcb = dump.windows.cpus[1].kprcb
    at = place.file_offset + slot - place.address
    data[at : at + 8] = (kprcb + 0x10000).to_bytes(8, "little")
    with kdmp.open(bytes(data)) as dump:
        listing = dump.windows.cpus
        assert listing[1].kprcb == kprcb and listing[1].vendor == "GenuineIntel"
        assert "triage header" in str(listing.problems[0])


def test_an_encrypted_dump(image):
    image.header(0x1050, 0x100, 4)  # Attributes
    with pytest.raises(kdmp.UnsupportedDumpError, match="encrypted"):
        image.open()


# ---- which one crashed ----


def header_place(image, rip, rsp):
    image.header(HEADER_CONTEXT + RIP, rip)
    image.header(HEADER_CONTEXT + RSP, rsp)


def test_crashed_by_stack_alone(image):
    registers = image.cpus[0]["registers"]
    header_place(image, registers["rip"] + 1, registers["rsp"] - 0x80)
    listing = image.open()
    assert (listing.crashing, listing.crashing_why) == (0, "the stack pointer in the header is on its stack")
    assert listing[0].sp == registers["rsp"] - 0x80


def test_crashed_by_saved_registers_alone(image):
    registers = image.cpus[1]["registers"]
    header_place(image, registers["rip"], registers["rsp"])
    image.put(image.prcb(1, "CurrentThread"), 0)
    for member in ("DpcStack", "IsrStack"):
        image.put(image.prcb(1, member), 0)
    listing = image.open()
    assert (listing.crashing, listing.crashing_why) == (1, "it saved the registers in the header")


def test_crashed_on_the_dpc_stack(image):
    registers = image.cpus[0]["registers"]
    header_place(image, registers["rip"], 0xFFFFD500_77777000)
    image.put(image.prcb(1, "DpcStack"), 0xFFFFD500_77777FB0)
    assert image.open().crashing == 1


def test_a_doubt_is_not_decided(image):
    header_place(image, 0xFFFFF800_12345678, 0xFFFFF800_11111100)
    listing = image.open()
    assert listing.crashing is None and "no processor" in listing.crashing_why
    assert [cpu.is_crashing for cpu in listing] == [None, None]
    assert [cpu.context_source for cpu in listing] == ["KPRCB.Context"] * 2
    # Two processors that claim the thread on whose stack it happened.
    registers = image.cpus[0]["registers"]
    header_place(image, registers["rip"] + 1, registers["rsp"])
    image.put(image.prcb(1, "CurrentThread"), image.cpus[0]["current_thread"])
    listing = image.open()
    assert listing.crashing is None and "more than one" in listing.crashing_why
    # The registers that one of them saved decide.
    header_place(image, registers["rip"], registers["rsp"])
    assert image.open().crashing == 0


def test_stack_and_saved_registers_that_contradict(image):
    registers = image.cpus[0]["registers"]
    header_place(image, registers["rip"] + 1, registers["rsp"] - 0x80)
    saved = image.cpus[1]["context_pointer"]
    image.put(saved + RIP, registers["rip"] + 1)
    image.put(saved + RSP, registers["rsp"] - 0x80)
    listing = image.open()
    assert listing.crashing is None and "more than one" in listing.crashing_why


# ---- tables of descriptors ----


def test_idt_limits_and_holes(image):
    idtr = image.prcb(0, "ProcessorState") + 0x66
    image.put(idtr, 0x1F, 2)
    cpu = image.open()[0]
    assert [entry.handler for entry in cpu.idt] == image.cpus[0]["idt_handlers"][:2]
    image.put(idtr, 0xFFFF, 2)
    cpu = image.open()[0]
    assert [entry.handler for entry in cpu.idt] == image.cpus[0]["idt_handlers"]
    image.put(idtr + 2, 0xFFFFF780_00000FF8)
    cpu = image.open()[0]
    assert cpu.idt is None or all(entry.present is None for entry in cpu.idt[1:])
    assert any(problem.what == "idt" for problem in cpu.problems)


def test_a_descriptor_of_16_bytes():
    low = 0x0000_0067 | 0x345678 << 16 | 0x8B << 40 | 0x2 << 48 | 0x8 << 52 | 0xF2 << 56
    data = bytes(8) + low.to_bytes(8, "little") + 0xFFFF8001.to_bytes(8, "little") + bytes(8)
    (tss,) = decode_gdt([(0, data)], None, "x64")
    assert (tss.selector, tss.base, tss.limit) == (8, 0xFFFF8001_F2345678, 0x20067 << 12 | 0xFFF)
    assert (tss.kind, tss.is_tss, tss.dpl, tss.present) == ("busy TSS", True, 0, True)
    # On x86 it has 8 bytes, and what follows is the next one.
    first, second = decode_gdt([(0, data)], None, "x86")
    assert (first.base, second.selector) == (0xF2345678, 0x10)
    assert decode_gdt([(0, data)], 0x13, "x64") == []
    assert gdt_entry([tss], 0x0B) is tss and gdt_entry([tss], 0x0C) is None and gdt_entry([tss], 0) is None


def test_gates_of_x86():
    gate = 0x5678 | 0x8 << 16 | 0xEE << 40 | 0x8123 << 48
    task = 0x1111 | 0x50 << 16 | 0x85 << 40
    data = gate.to_bytes(8, "little") + task.to_bytes(8, "little")
    first, second = decode_idt([(0, data)], 15, "x86", hex)
    assert (first.handler, first.symbol, first.dpl, first.type_name) == (
        0x81235678, "0x81235678", 3, "interrupt gate",
    )  # fmt: skip
    assert (second.handler, second.symbol, second.selector, second.type_name) == (
        None,
        None,
        0x50,
        "task gate",
    )


def test_a_gdt_of_garbage(image):
    gdt = image.cpus[0]["gdt"]
    for at in range(0, 0x58, 8):
        image.put(gdt + at, (1 << 64) - 1)
    cpu = image.open()[0]
    assert cpu.tss == image.cpus[0]["tss"]  # from KPCR, as TR's descriptor is none of a TSS
    assert len(cpu.gdt) == 11
    assert cpu.long_mode is True


# ---- mutations ----


@pytest.mark.parametrize("name", ["win7-7601", "win11-22000-pti"])
def test_mutations_never_escape(name):
    image = Image(name)
    chance = random.Random(5)
    targets = [(image.block, 0x20), (image.truth["kdbg"]["address"], 0x380)]
    for one in image.cpus:
        targets += [(one["kprcb"], 0x100), (one["kprcb"] + 0x40, 0x600), (one["kpcr"], 0x180)]
        targets += [(one["gdt"], 0x60), (one["idt"], 0x400), (one["current_thread"], 0x300)]
        targets += [(one["kprcb"] + image.layout.offset("_KPRCB", "Context"), 8)]
    places = [(image.offset(va), size) for va, size in targets]
    places += [(HEADER_CONTEXT, 0x100), (HEADER_PROCESSORS, 4)]
    clean = bytes(image.data)
    extremes = (0, 1, 0x7F, 0x80, 0xFF)
    for _ in range(60):
        data = bytearray(clean)
        for _ in range(chance.choice((1, 4, 40))):
            at, size = chance.choice(places)
            width = chance.choice((1, 2, 4, 8))
            at += chance.randrange(max(size - width, 1))
            data[at : at + width] = bytes(
                chance.choice((*extremes, chance.randrange(256))) for _ in range(width)
            )
        with kdmp.open(bytes(data)) as dump:
            listing = dump.windows.cpus
            assert len(listing) <= 2
            assert str(listing) is not None
            for cpu in listing:
                cpu.examine()
                cpu.to_dict(), str(cpu), str(cpu.registers), cpu.long_mode, cpu.symbol
                for entry in cpu.idt or ():
                    entry.to_dict()
                for call in (lambda c: c.function_argument(5), lambda c: c.return_address):
                    try:
                        call(cpu)
                    except kdmp.KdmpError:
                        pass
