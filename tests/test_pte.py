"""Page table entries decoded and shown: the published `!pte` walkthrough, the machines, every kind of entry.

SPDX-License-Identifier: MIT
"""

import io
import json
import pickle
import struct

import pytest
from dumpbuilder import NX, PROTOTYPE, TRANSITION, Memory, P, Tables, U, W
from shareddata import MACHINES, machine_dump, truth

import kdmp
from kdmp import mmfacts
from kdmp.protection import protection_name, protection_rights
from kdmp.pte import decode_entry, entry_address
from kdmp.symbols.mmpte import pte_layout

PAE_ROOT = 0x7F2124C0  # 32-byte aligned, as in the walkthrough
L1TF = 1 << 45


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory, monkeypatch):
    """A cache of the tests' own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def pae_dump(pte, next_pte=0, pde=0x0000000069D28867):
    """A 32-bit PAE dump in which the PTE of 0x1f0000 has this value, and the one behind it that."""
    frames = {PAE_ROOT >> 12: bytearray(0x1000), 0x1234: bytearray(0x1000), 0x69D28: bytearray(0x1000)}
    struct.pack_into("<Q", frames[PAE_ROOT >> 12], PAE_ROOT & 0xFFF, 0x1234001)
    struct.pack_into("<Q", frames[0x1234], 0, pde)
    struct.pack_into("<QQ", frames[0x69D28], 0x1F0 * 8, pte, next_pte)
    frames[0x69FC8] = bytearray(b"the page".ljust(0x1000, b"\0"))
    out = io.BytesIO()
    header = {
        "machine_image_type": 0x14C, "pae_enabled": 1, "directory_table_base": PAE_ROOT,
        "minor_version": 7601,
    }  # fmt: skip
    runs = [(pfn, 1) for pfn in sorted(frames)]
    with kdmp.DumpWriter(out, 1, runs, header=header) as writer:
        for pfn, data in frames.items():
            writer.write(pfn, bytes(data))
    return out.getvalue()


def x64_dump(entry, *, level=1, va=0x7FF0_0000_5000, build=19041, **more):
    """A dump in which the entry of `va` at `level` has this value; the root maps itself at 0x1ed."""
    memory = Memory()
    tables = Tables(memory)
    memory.put_u64(tables.entry(va, level), entry)
    memory.put_u64(0x1000 + 0x1ED * 8, 0x1000 | P | W)
    for pfn in more.pop("frames", ()):
        memory.fill(pfn)
    return memory.dump(minor_version=build, **more)


# ---- the walkthrough ----


def test_walkthrough_reserved():
    with kdmp.open(pae_dump(0)) as dump:
        view = dump.reader().pte(0x1F0000)
    assert str(view).splitlines() == [
        "VA 001f0000".rjust(52),
        "PDE at C0600000            PTE at C0000F80",
        "contains 0000000069D28867  contains 0000000000000000",
        "pfn 69d28     ---DA--UWEV  not valid",
    ]
    assert view.rows[-1].kind == "zero"


def test_walkthrough_committed():
    with kdmp.open(pae_dump(0x80)) as dump:
        reader = dump.reader()
        view, explanation = reader.pte(0x1F0000), reader.explain(0x1F0000)
    assert str(view).splitlines()[2:] == [
        "contains 0000000069D28867  contains 0000000000000080",
        "pfn 69d28     ---DA--UWEV  not valid",
        " " * 27 + " DemandZero",
        " " * 27 + " Protect: 4 - ReadWrite",
    ]
    assert (explanation.reason, explanation.protection) == ("demand_zero", 4)


def test_walkthrough_touched():
    with kdmp.open(pae_dump(0x8000000069FC8867)) as dump:
        reader = dump.reader()
        view = reader.pte(0x1F0000)
        assert reader.read(0x1F0000, 8) == b"the page"
        assert dump.phys.read(0x69FC8000, 8) == b"the page"
        assert reader.pte(0x1F1000).rows[-1].kind == "zero"  # the next page is still reserved
    lines = str(view).splitlines()
    assert lines[2] == "contains 0000000069D28867  contains 8000000069FC8867"
    assert lines[3] == "pfn 69d28     ---DA--UWEV  pfn 69fc8     ---DA--UW-V"
    assert [(row.name, row.va, row.pa) for row in view.rows] == [
        ("PDPTE", None, PAE_ROOT),
        ("PDE", 0xC0600000, 0x1234000),
        ("PTE", 0xC0000F80, 0x69D28F80),
    ]


# ---- the machines ----


@pytest.mark.parametrize("machine", MACHINES)
def test_machine_mask_and_layout(machine):
    facts = truth(machine)
    with kdmp.open(machine_dump(machine, "full")) as dump:
        assert dump.invalid_pte_mask == facts["invalid_pte_mask"]
        assert dump.invalid_pte_mask_source in ("MiInvalidPteMask", "MiState.Hardware.InvalidPteMask")
        assert dump.structure_layout.exact
        assert dump.pte_layout.swizzle
        reader = dump.reader()
        assert reader.invalid_pte_mask == facts["invalid_pte_mask"]
        assert reader.pte_format == mmfacts.pte_format(dump.pte_layout)
        assert dump.reader(invalid_pte_mask=0).invalid_pte_mask == 0  # an argument wins
        again = pickle.loads(pickle.dumps(reader))
        assert (again.pte_format, again.invalid_pte_mask) == (reader.pte_format, reader.invalid_pte_mask)


@pytest.mark.parametrize("machine", MACHINES)
def test_machine_views(machine):
    """Each sample's chain is the truth's, entries lie where the kernel's own self map has them."""
    facts = truth(machine)
    kinds = {
        "valid": "page", "transition": "transition", "prototype": "prototype", "vad-prototype": "vad",
        "demand-zero": "demand_zero", "pagefile": "pagefile", "zero": "zero", "unmapped": "zero",
    }  # fmt: skip
    with kdmp.open(machine_dump(machine, "full")) as dump:
        seen = set()
        for sample in facts["ptes"][::5]:
            view = dump.reader(sample["dtb"]).pte(sample["va"])
            if view.state == "table":
                continue  # deliberate damage
            seen.add(sample["state"])
            got = [(row.level, row.pa, row.value) for row in view.rows]
            assert got == [(e["level"], e["pa"], e["value"]) for e in sample["entries"]]
            last = view.rows[-1]
            assert last.kind == kinds[sample["state"]], hex(sample["va"])
            assert last.va == entry_address(sample["va"], last.level, "x64", facts["self_map_index"])
            if last.level == 1:
                offset = (sample["va"] & (1 << 48) - 1) >> 12
                assert last.va == facts["pte_base"] + 8 * offset
            if "pa" in sample and sample["state"] in ("valid", "transition", "prototype"):
                assert view.pa == sample["pa"]
            if sample["state"] == "pagefile":
                assert last.fields["PageFileLow"] == sample["pagefile"]
                assert last.fields["PageFileHigh"] == sample["offset"]
            if sample["state"] == "prototype":
                assert (view.prototype.va, view.prototype.value) == (
                    sample["prototype"],
                    sample["prototype_value"],
                )
                assert last.address == sample["prototype"]
        assert {"valid", "transition", "prototype", "pagefile", "demand-zero"} <= seen


# ---- decoding ----


@pytest.mark.parametrize(
    ("paging", "build", "value", "kind", "expected"),
    [
        ("x64", 22000, 4 << 5, "demand_zero", {"Protection": 4}),
        ("x64", 22000, L1TF | 4 << 5, "demand_zero", {"PageFileHigh": 0}),
        ("x64", 22000, 5 << 32 | 2 << 12 | 4 << 5 | 0x10, "pagefile", {"PageFileHigh": 5, "PageFileLow": 2}),
        ("x64", 3790, 5 << 32 | 2 << 1 | 4 << 5, "pagefile", {"PageFileHigh": 5, "PageFileLow": 2}),
        ("x64", 22000, L1TF | 0x123000 | TRANSITION | 4 << 5, "transition", {"PageFrameNumber": 0x123}),
        ("x64", 22000, 0xFFFFFFFF_00000430, "vad", {}),
        ("x64", 22000, 0xB0003DA0_C7080410, "prototype", {"Prototype": 1, "SwizzleBit": 1}),
        ("arm64", 26100, 7 << 32 | 3 << 6 | 4 << 1, "pagefile", {"PageFileHigh": 7, "PageFileLow": 3}),
        ("x86", 7601, 9 << 12 | 1 << 1 | 4 << 5, "pagefile", {"PageFileHigh": 9, "PageFileLow": 1}),
        ("pae", 2600, 0x8123_4568 << 32 | PROTOTYPE | 4 << 11, "prototype", {"Protection": 4}),
        ("x64", 22000, 0, "zero", {}),
    ],
)
def test_decode(paging, build, value, kind, expected):
    decoded = decode_entry(value, 1, paging, pte_layout(None, paging, build), L1TF)
    assert decoded.kind == kind
    assert {name: decoded.fields[name] for name in expected} == expected


def test_decode_addresses():
    new = pte_layout(None, "x64", 22000)
    assert decode_entry(0xB0003DA0_C7080410, 1, "x64", new, L1TF).address == 0xFFFFB0003DA0C708
    swizzled = decode_entry(0xB0003DA0_C7080410 & ~0x10 | L1TF, 1, "x64", new, L1TF)
    assert swizzled.address == 0xFFFF_B000_1DA0_C708
    sub = decode_entry(0xA4803E50_3BE80460, 1, "x64", new, L1TF, prototype=True)
    assert (sub.kind, sub.address) == ("subsection", 0xFFFFA4801E503BE8)
    assert decode_entry(
        0x8123_4568 << 32 | PROTOTYPE, 1, "pae", pte_layout(None, "pae", 7601), 0
    ).address == (0x8123_4568)
    # Vista and 7 without PAE: AddressHigh from bit 11, AddressLow from bit 1.
    low, high = 0x5A, 0x1234
    entry = high << 11 | low << 1 | PROTOTYPE
    vista = pte_layout(None, "x86", 7601)
    assert decode_entry(entry, 1, "x86", vista, 0).address == 0x8000_0000 | high << 10 | low << 2


@pytest.mark.parametrize(
    ("value", "level", "flags", "pfn"),
    [
        (0x8000000069FC8867, 1, "---DA--UW-V", 0x69FC8),
        (0x2001E3, 2, "-GLDA--KWEV", 0x200),
        (0x1001 | 1 << 12, 2, "-------KREV", 1),
        (0x80 | 0x1000 | P | NX, 1, "-------KR-V", 1),  # bit 7 of a PTE is PAT
        (0x1000 | P | 0x200 | 0x18, 1, "C----NTKREV", 1),
        (0x201080 | P | W, 2, "--L----KWEV", 0x200),  # PAT of a large page is no address bit
    ],
)
def test_flags(value, level, flags, pfn):
    decoded = decode_entry(value, level, "x64", pte_layout(None, "x64", 22000), 0)
    assert (decoded.flags, decoded.pfn) == (flags, pfn)


def test_flags_arm64():
    user_page = 0x5000 | 3 | 1 << 6 | 1 << 7 | 1 << 10 | 1 << 11 | 1 << 53 | 1 << 55
    decoded = decode_entry(user_page, 1, "arm64", pte_layout(None, "arm64", 26100), 0)
    assert (decoded.kind, decoded.pfn, decoded.flags) == ("page", 5, "----A--UWEV")
    block = decode_entry(0x200000 | 1 | 1 << 10, 2, "arm64", pte_layout(None, "arm64", 26100), 0)
    assert (block.kind, block.flags) == ("page", "-GLDA--KWEV")


def test_entry_addresses_before_1607():
    """Slot 0x1ed: the fixed bases of Windows before 10 1607."""
    va = 0xFFFFF80002A4F000
    assert [entry_address(va, level, "x64", 0x1ED) for level in (4, 3, 2, 1)] == [
        0xFFFFF6FB7DBEDF80, 0xFFFFF6FB7DBF0000, 0xFFFFF6FB7E0000A8, 0xFFFFF6FC00015278,
    ]  # fmt: skip
    assert entry_address(0x80000000, 1, "x86", None) == 0xC0200000
    assert entry_address(0x80000000, 2, "x86", None) == 0xC0300800
    assert entry_address(va, 1, "x64", None) is None


def test_large_page():
    with kdmp.open(x64_dump(0x4000_0000 | 0xE7, level=2, va=0x7FF0_0000_5000)) as dump:
        view = dump.reader().pte(0x7FF0_0000_5000)
    assert str(view).endswith("LARGE PAGE pfn 40005")
    assert (view.rows[-1].flags, view.pa) == ("--LDA--UWEV", 0x40005000)


def test_no_self_map_and_missing_table():
    memory = Memory()
    tables = Tables(memory)
    memory.put_u64(tables.entry(0x5000, 3), 0x77000 | P | W | U)
    with kdmp.open(memory.dump(minor_version=19041)) as dump:
        view = dump.reader().pte(0x5000)
        assert [row.va for row in view.rows] == [None, None]
        assert "PXE at physical 1000" in str(view)
        assert view.state == "table"
        assert view.problem in str(view)
        with pytest.raises(kdmp.NonCanonicalError):
            dump.reader().pte(1 << 62)
        with pytest.raises(kdmp.UnsupportedDumpError):
            dump.phys.pte(0)


def test_html_and_dict():
    with kdmp.open(x64_dump(4 << 5)) as dump:
        view = dump.reader().pte(0x7FF0_0000_5000)
    page = view._repr_html_()
    assert page.count("<tr>") == 5
    assert "DemandZero; Protect: 4 - ReadWrite" in page
    facts = json.loads(json.dumps(view.to_dict()))
    assert facts["rows"][-1]["kind"] == "demand_zero"
    assert facts["rows"][-1]["fields"]["Protection"] == 4
    assert "pa" not in facts


# ---- layouts of readers ----


def test_old_layout_is_used():
    """Server 2003 keeps PageFileLow in bits 1-4, where newer kernels have the swizzle bit."""
    entry = 5 << 32 | 9 << 1 | 4 << 5
    with kdmp.open(x64_dump(entry, build=3790)) as dump:
        explanation = dump.reader().explain(0x7FF0_0000_5000)
        assert (explanation.pagefile, explanation.pagefile_page) == (9, 5)
        assert dump.invalid_pte_mask == 0
        assert "no SwizzleBit" in dump.invalid_pte_mask_source
        plain = dump.reader(discover=False)
        assert plain.pte_format is None
        assert dump.pte_layout.source.startswith("rule ")
    with kdmp.open(x64_dump(entry)) as dump:
        assert dump.reader().explain(0x7FF0_0000_5000).pagefile == 0
        assert dump.invalid_pte_mask is None


def test_mask_from_kdbg():
    """L1tfHighPhysicalBitIndex counts only in a plain block that is long enough, with the right bit 4."""
    va, kdbg = 0x7FF0_0000_5000, 0x7FF0_0000_6000
    for high, swizzle, expected in ((45, 4, L1TF), (45, 0, None), (12, 4, None), (60, 4, None)):
        memory = Memory()
        tables = Tables(memory)
        tables.map(kdbg, 0xA000, flags=P | W | U)
        block = bytearray(0x380)
        block[0x10:0x18] = b"KDBG" + len(block).to_bytes(4, "little")
        block[0x2C2], block[0x2C3] = high, swizzle
        memory.put(0xA000, block)
        memory.put_u64(tables.entry(va), L1TF | 7 << 32 | 4 << 5)
        image = memory.dump(minor_version=19041, kd_debugger_data_block=kdbg)
        with kdmp.open(image) as dump:
            assert dump.invalid_pte_mask == expected, (high, swizzle)
            if expected:
                assert "L1tf" in dump.invalid_pte_mask_source


def test_cache_is_checked(monkeypatch, tmp_path):
    """What a foreign file in the cache says is not believed unless it has the right form."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    image = x64_dump(0, build=3790)
    with kdmp.open(image) as dump:
        good = dump.reader().pte_format
    files = list((tmp_path / "kdmp").rglob("build-3790-x64.json"))
    assert len(files) == 1
    key = str(files[0].relative_to(tmp_path / "kdmp").with_suffix(""))
    bad = [7, {"format": [1, 2], "rva": None, "name": ""}, {"format": [1] + [64] * 8, "rva": 0, "name": ""}]
    for value in bad:
        assert mmfacts.disk.store(key, value)
        with kdmp.open(image) as dump:
            assert dump.reader().pte_format == good


# ---- protections ----


def test_protection_names():
    assert [protection_name(k) for k in range(8)] == [
        "NoAccess", "ReadOnly", "Execute", "ExecuteRead", "ReadWrite", "WriteCopy", "ExecuteReadWrite",
        "ExecuteWriteCopy",
    ]  # fmt: skip
    assert [protection_name(k) for k in (0x0C, 0x14, 0x1C)] == [
        "ReadWrite, NoCache", "ReadWrite, Guard", "ReadWrite, WriteCombine",
    ]  # fmt: skip
    assert [protection_name(k) for k in (8, 0x10, 0x18)] == ["NoAccess", "Decommitted", "NoAccess"]
    for wrong in (-1, 32):
        with pytest.raises(ValueError, match="5 bits"):
            protection_name(wrong)


def test_protection_rights():
    table = ["---", "r--", "--x", "r-x", "rw-", "rw-", "rwx", "rwx"]
    for value in range(32):
        rights = protection_rights(value)
        base = table[value & 7]
        # Windows has no page that may be executed but not read: x86 and x64 cannot express it.
        assert rights.read == (base != "---")
        assert (rights.write, rights.execute) == ("w" in base, "x" in base)
        assert rights.copy_on_write == (value & 7 in (5, 7))
        assert rights.guard == (value >> 3 == 2 and value & 7 != 0)
