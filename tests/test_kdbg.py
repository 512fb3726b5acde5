"""KDDEBUGGER_DATA64: all members against the machines' truth, decoding, ways to it, damage.

SPDX-License-Identifier: MIT
"""

import random
import struct
from types import SimpleNamespace

import patcheddump
import pytest
import shareddata

import kdmp
from kdmp.windows.choose import exact_layout
from kdmp.windows.kdbg import DebuggerData, decode, find_kdbg, read_block

PTI = "win11-22000-pti"
MACHINES = shareddata.MACHINES


@pytest.fixture(scope="module", autouse=True)
def cache_home(tmp_path_factory):
    """A cache folder of the module's own, not the user's."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(home))
        patch.setenv("LOCALAPPDATA", str(home))
        yield home


def values(kdbg, truth):
    """The members of the block that the truth names."""
    return {name: kdbg[name] for name in truth["kdbg"]["values"]}


def patched(machine, kind="full"):
    return patcheddump.Patched(shareddata.machine_dump(machine, kind))


@pytest.mark.parametrize("kind", shareddata.KINDS)
@pytest.mark.parametrize("machine", MACHINES)
def test_every_member_is_that_of_the_machine(machine, kind):
    truth = shareddata.truth(machine)
    known = truth["kdbg"]
    with kdmp.open(shareddata.machine_dump(machine, kind)) as dump:
        assert dump.reader().is_resident(known["address"])
        kdbg = find_kdbg(dump)
        assert values(kdbg, truth) == known["values"]
        assert (kdbg.address, kdbg.size, kdbg.encoded) == (
            known["address"], known["size"], bool(known["encoded"]),
        )  # fmt: skip
        assert kdbg.how == "header"
        assert kdbg.complete
        assert kdbg.decoded_by == ("known values" if known["encoded"] else None)


@pytest.mark.parametrize("machine", MACHINES)
def test_a_block_whose_second_page_is_missing_keeps_the_first(machine):
    """Members on a page that the dump does not hold are None, and no error."""
    known = shareddata.truth(machine)["kdbg"]
    patch = patched(machine)
    # Move the block so that its last 0x100 bytes are on the next page, and take that away.
    page = (known["address"] & ~0xFFF) + 0x1000
    target = page - (known["size"] - 0x100)
    patch.put(target, patch.read(known["address"], page - target))
    patch.header("kd_debugger_data_block", target)
    patch.unmap(page)
    with patch.open() as dump:
        kdbg = find_kdbg(dump)
        assert (kdbg.address, kdbg.complete, kdbg.encoded) == (target, False, bool(known["encoded"]))
        for name, value in known["values"].items():
            assert kdbg[name] in (value, None), name
        assert kdbg.KernBase == known["values"]["KernBase"]
        assert kdbg.EtwpDebuggerData is None
        assert kdbg.SizeEProcess is None


# ---- the mapping


def block(size=0x380, **words):
    """A plain block; `words` are 64-bit values by hexadecimal offset ("x18")."""
    data = bytearray(size)
    data[0x10:0x18] = b"KDBG" + struct.pack("<I", size)
    for at, value in words.items():
        struct.pack_into("<Q", data, int(at[1:], 16), value & (1 << 64) - 1)
    return bytes(data)


def test_names_and_what_is_beyond_the_size():
    small = DebuggerData(block(0x340, x18=0xFFFFF80000000000, x88=0xFFFFF80000001000), None, 8, "scan")
    assert small.KernBase == small["KernBase"] == 0xFFFFF80000000000
    assert small.KiBugCheckData == small["KiBugcheckData"] == small.variable("KiBugCheckData")
    assert small.OffsetKThreadTeb == small.KThreadTeb == 0
    assert small.PteBase is None  # at 0x360
    assert small["PointerAuthMask"] is None
    assert "KThreadTeb" in small
    assert len(list(small)) == len(small) > 160
    assert small.variable("PspCidTable") is None  # 0 is not provided
    assert small.variable("KernBase") is None  # a value, no variable
    assert small.variable("NoSuchVariable") is None
    with pytest.raises(AttributeError, match="NoSuchMember"):
        small.NoSuchMember
    with pytest.raises(KeyError):
        small["NoSuchMember"]
    assert "KernBase" in str(small)
    assert small.to_dict()["values"]["KernBase"] == 0xFFFFF80000000000
    assert "PteBase" not in small.to_dict()["values"]


def test_flags_and_pointers_of_32_bits():
    wide = block(x18=0xFFFFFFFF80400000, x48=0xFFFFFFFF80560000, x30=0x15 << 48, x138=0x1000)
    kdbg = DebuggerData(wide, 0x80501000, 4, "header")
    assert (kdbg.KernBase, kdbg.PsLoadedModuleList, kdbg.MmPageSize) == (0x80400000, 0x80560000, 0x1000)
    assert (kdbg.PaeEnabled, kdbg.KiBugCheckRecoveryActive, kdbg.PagingLevels) == (1, 0, 5)


# ---- decoding

NEVER, ALWAYS, ADDRESS = 0x123456789ABCDEF5, 0x0FEDCBA987654321, 0xFFFFF8041234ABCD
VECTOR = {
    0x000003804742444B: 0xD4CA77A7788ACA5A,
    0xFFFFF8047BA00000: 0xF3DB9380A7753000,
    0: 0xF6D84BA7608AC800,
}


def rotated_right(value, by):
    return (value >> by | value << (64 - by)) & (1 << 64) - 1 if by else value


def encode(data, never=NEVER, always=ALWAYS, address=ADDRESS):
    """The inverse of the formula, as windows-objects.md 1.4 has it."""
    out = b""
    for (plain,) in struct.iter_unpack("<Q", data):
        swapped = int.from_bytes((always ^ plain).to_bytes(8, "little"), "big")
        out += struct.pack("<Q", never ^ rotated_right(address ^ swapped, never & 0x3F))
    return out


class FlatReader:
    """Memory with one block."""

    pointer_size = 8

    def __init__(self, data):
        self.data = data

    def read(self, va, size):
        return self.data[va : va + size]


def test_vector_of_the_formula():
    for plain, coded in VECTOR.items():
        assert decode(struct.pack("<Q", coded), NEVER, ALWAYS, ADDRESS) == struct.pack("<Q", plain)
        assert encode(struct.pack("<Q", plain)) == struct.pack("<Q", coded)
    assert decode(b"1234567", NEVER, ALWAYS, ADDRESS) == b""


def test_known_values_undo_any_key():
    rng = random.Random(14)
    plain = block(x18=0xFFFFF80712200000, x48=0xFFFFF80712E01230, x138=0x1000, x360=0xFFFFA00000000000)
    for _ in range(200):
        never, always = rng.getrandbits(64), rng.getrandbits(64)
        coded = encode(plain, never, always, 0xFFFFF80000000000 | rng.getrandbits(40))
        kdbg = read_block(FlatReader(coded + rng.randbytes(0x200)), 0, "header")
        assert (kdbg.raw, kdbg.decoded_by) == (plain, "known values")


def test_what_is_no_block_is_not_decoded():
    rng = random.Random(15)
    samples = [
        b"",
        bytes(0x800),
        b"\xff" * 0x800,
        b"KDBG" * 0x200,
        *(rng.randbytes(0x800) for _ in range(300)),
    ]
    samples += [block(size) for size in (0, 0x10, 0x1F8, 0x381, 0x808, 0xFFFFFFFF & 0x10000)]
    samples += [
        encode(block(x18=0xFFFFF80712200000, x138=0x2000)),
        encode(block(x18=0x7FF612200000, x138=0x1000)),
    ]
    for data in samples:
        assert read_block(FlatReader(data), 0, "header") is None
    narrow = FlatReader(encode(block(x138=0x1000)))
    narrow.pointer_size = 4
    assert read_block(narrow, 0, "header") is None  # 32-bit kernels never encode it


@pytest.mark.parametrize("kind", shareddata.KINDS)
def test_keys_of_the_kernel_give_the_same(kind):
    truth = shareddata.truth(PTI)
    known = truth["kdbg"]
    with kdmp.open(shareddata.machine_dump(PTI, kind)) as dump:
        layout = exact_layout(dump, dump.kernel)
        reader = dump.reader()
        never, always = (
            reader.read_u64(truth["kernel_base"] + layout.symbol(n)) for n in ("KiWaitNever", "KiWaitAlways")
        )
        assert (never, always) == (known["wait_never"], known["wait_always"])
        keys = never, always, truth["kernel_base"] + layout.symbol("KdpDataBlockEncoded")
        kdbg = read_block(reader, known["address"], "header", keys)
        assert (kdbg.decoded_by, values(kdbg, truth)) == ("keys", known["values"])


def test_keys_help_where_known_values_do_not():
    truth = shareddata.truth(PTI)
    patch = patched(PTI)
    patch.put_u64(truth["kdbg"]["address"] + 0x138, 0x1234)  # no longer the page size
    with patch.open() as dump:
        kdbg = find_kdbg(dump)
        assert (kdbg.decoded_by, kdbg.how) == ("keys", "header")
        others = {name: value for name, value in truth["kdbg"]["values"].items() if name != "MmPageSize"}
        assert {name: kdbg[name] for name in others} == others


# ---- ways


@pytest.mark.parametrize("machine", MACHINES)
def test_without_the_header(machine):
    truth = shareddata.truth(machine)
    for wrong in (patcheddump.ABSENT, truth["kernel_base"] + 0x5000, 0xFFFF_8000_DEAD_0000, 8, (1 << 64) - 8):
        patch = patched(machine)
        patch.header("kd_debugger_data_block", wrong)
        with patch.open() as dump:
            kdbg = find_kdbg(dump)
            assert (kdbg.how, kdbg.address) == ("symbol", truth["kdbg"]["address"])
            assert values(kdbg, truth) == truth["kdbg"]["values"]


@pytest.mark.parametrize("machine", MACHINES)
def test_the_version_block_and_the_scan(machine):
    truth = shareddata.truth(machine)
    base, address = truth["kernel_base"], truth["kdbg"]["address"]
    patch = patched(machine)
    patch.header("kd_debugger_data_block", patcheddump.ABSENT)
    with patch.open() as dump:
        version = exact_layout(dump, dump.kernel).symbol("KdVersionBlock")
    # DebuggerDataList is the address of a list head, and the block is its only entry.
    head = base + 0xC00  # the rest of the headers' page
    patch.put_u64(base + version + 0x20, head)
    patch.put_u64(head, address)
    with patch.open() as dump:
        kdbg = find_kdbg(dump, layout=SimpleNamespace(symbols={"KdVersionBlock": version}))
        assert (kdbg.how, values(kdbg, truth)) == ("version block", truth["kdbg"]["values"])
        kdbg = find_kdbg(dump, layout=SimpleNamespace(symbols={}))
        if truth["kdbg"]["encoded"]:
            assert kdbg is None  # nothing to look for
        else:
            assert (kdbg.how, values(kdbg, truth)) == ("scan", truth["kdbg"]["values"])


def test_a_block_of_another_kernel_is_the_last_choice():
    truth = shareddata.truth("win10-19041")
    address = truth["kernel_base"] + 0xC00  # the rest of the headers' page
    patch = patched("win10-19041")
    patch.put(address, block(x18=0xFFFFF80000000000))
    patch.header("kd_debugger_data_block", address)
    with patch.open() as dump:
        assert dump.kernel.base == truth["kernel_base"]
        assert find_kdbg(dump).how == "symbol"
        patch.put(truth["kdbg"]["address"], bytes(0x380))
    with patch.open() as dump:
        assert find_kdbg(dump).address == address


def test_triage_copies():
    for entry in shareddata.triage_index():
        with kdmp.open(shareddata.unpack("triage", entry["file"])) as dump:
            kdbg = find_kdbg(dump)
            assert kdbg.how == "triage copy"
            assert not kdbg.encoded
            assert (kdbg.size, kdbg.KernBase) == (entry["kdbg"]["size"], entry["kdbg"]["kern_base"])
            assert kdbg.address == entry["kd_debugger_data_block"]
            assert kdbg.PsLoadedModuleList == entry["ps_loaded_module_list"]
            assert kdbg.PsActiveProcessHead == entry["ps_active_process_head"]
            assert kdbg.MmPageSize == 0x1000
            assert (kdbg.PrcbExceptionStack is None) == (entry["kdbg"]["size"] < 0x39A)


# ---- damage


@pytest.mark.parametrize("machine", ["win10-19041", PTI])
def test_mutations_never_raise(machine):
    truth = shareddata.truth(machine)
    address, size = truth["kdbg"]["address"], truth["kdbg"]["size"]
    with kdmp.open(shareddata.machine_dump(machine, "full")) as dump:
        plain = dump.reader().read_exact(address, size)
    rng = random.Random(machine)
    outcomes = set()
    for _ in range(60):
        patch = patched(machine)
        data = bytearray(plain)
        for _ in range(rng.randint(1, 8)):
            at = rng.choice((rng.randrange(size), rng.randrange(0x10, 0x20)))
            data[at : at + 4] = rng.choice((bytes(4), b"\xff" * 4, rng.randbytes(4)))
        patch.put(address, bytes(data[:size]))
        with patch.open() as dump:
            kdbg = find_kdbg(dump)
            assert kdbg is None or len(kdbg.raw) <= 0x800
            if kdbg is not None:
                str(kdbg), kdbg.to_dict()
            outcomes.add(kdbg and kdbg.how)
            assert dump.kernel.base == truth["kernel_base"]
    assert len(outcomes) > 1
