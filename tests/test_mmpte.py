"""Bit positions of page table entries and of _MMPFN: against written-down tables and all known layouts.

SPDX-License-Identifier: MIT
"""

import pickle
from functools import cache

import pytest
import shareddata

from kdmp.symbols import SymbolError
from kdmp.symbols.layouts import Catalogue, Kernel, bundled, find
from kdmp.symbols.mmpte import KINDS, Bits, PfnField, mmpfn_layout, pte_layout


@pytest.fixture(scope="module", autouse=True)
def cache_home(tmp_path_factory):
    """A cache folder of the module's own, not the user's."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(home))
        patch.setenv("LOCALAPPDATA", str(home))
        yield


def bits(text):
    """Fields written as "Name first-last" or "Name bit"."""
    fields = {}
    for item in text.split(","):
        name, place = item.split()
        first, _, last = place.partition("-")
        fields[name] = int(first), int(last or first) - int(first) + 1
    return fields


def plain(fields):
    return {name: (field.start, field.width) for name, field in fields.items()}


# --- the tables of the paging reference, written out for representative builds -----------------------------

FLAGS = """Valid 0, Owner 2, WriteThrough 3, CacheDisable 4, Accessed 5, Dirty 6, LargePage 7, Global 8,
    CopyOnWrite 9, """
WINDOWS_7 = FLAGS + "Dirty1 1, Write 11, PageFrameNumber 12-47, SoftwareWsIndex 52-62, NoExecute 63"
CREATORS = (
    FLAGS
    + """Dirty1 1, Write 11, PageFrameNumber 12-47, ReservedForHardware 48-51, ReservedForSoftware 52-55,
    WsleAge 56-59, WsleProtection 60-62, NoExecute 63"""
)
SERVER_2022 = (
    FLAGS
    + """Dirty1 1, Write 11, PageFrameNumber 12-51, ReservedForSoftware 52-55, WsleAge 56-59,
    WsleProtection 60-62, NoExecute 63"""
)
OLD = "Valid 0, PageFileLow 1-4, Protection 5-9, Prototype 10, Transition 11, PageFileHigh 32-63, "
NEW = """Valid 0, SwizzleBit 4, Protection 5-9, Prototype 10, Transition 11, PageFileLow 12-15,
    UsedPageTableEntries 16-25, PageFileHigh 32-63, """
MOVED = "Valid 0, Write 1, Protection 5-9, Prototype 10, Transition 11, "
PROTO_NEW = """Valid 0, DemandFillProto 1, HiberVerifyConverted 2, ReadOnly 3, SwizzleBit 4, Protection 5-9,
    Prototype 10, Combined 11, ProtoAddress 16-63"""
PROTO_OLD = """Valid 0, DemandFillProto 1, HiberVerifyConverted 2, ReadOnly 8, Combined 9, Prototype 10,
    Protection 11-15, ProtoAddress 16-63"""
TABLES = [
    # build, with swizzle bit, hardware, software, transition, prototype
    (
        (7601, False),
        WINDOWS_7,
        OLD + "UsedPageTableEntries 12-21, InStore 22",
        MOVED + "Owner 2, WriteThrough 3, CacheDisable 4, PageFrameNumber 12-47",
        "Valid 0, ReadOnly 8, Prototype 10, Protection 11-15, ProtoAddress 16-63",
    ),
    (
        (7601, True),
        WINDOWS_7,
        NEW + "InStore 3",
        MOVED + "WriteThrough 2, CacheDisable 3, SwizzleBit 4, PageFrameNumber 12-47",
        "Valid 0, ReadOnly 1, SwizzleBit 4, Protection 5-9, Prototype 10, ProtoAddress 16-63",
    ),
    (
        (9600, False),
        WINDOWS_7,
        OLD + "InStore 12, PageFileReserved 13, PageFileAllocated 14, UsedPageTableEntries 15-24",
        MOVED + "WriteThrough 3, CacheDisable 4, PageFrameNumber 12-47",
        PROTO_OLD,
    ),
    (
        (9600, True),
        WINDOWS_7,
        NEW + "PageFileReserved 1, PageFileAllocated 2, InStore 3",
        MOVED + "WriteThrough 2, CacheDisable 3, SwizzleBit 4, PageFrameNumber 12-47",
        PROTO_NEW,
    ),
    (
        (14393, False),
        WINDOWS_7,
        OLD + "PageFileReserved 12, PageFileAllocated 13, UsedPageTableEntries 14-23, LocalPartition 24",
        MOVED + "IoTracker 4, PageFrameNumber 12-47",
        PROTO_OLD,
    ),
    (
        (14393, True),
        WINDOWS_7,
        NEW + "PageFileReserved 1, PageFileAllocated 2, LocalPartition 3",
        MOVED + "IoTracker 3, SwizzleBit 4, PageFrameNumber 12-47",
        PROTO_NEW,
    ),
    (
        (17134, False),
        CREATORS,
        OLD + "PageFileReserved 12, PageFileAllocated 13, UsedPageTableEntries 14-23, ColdPage 24",
        MOVED + "IoTracker 4, PageFrameNumber 12-47",
        PROTO_OLD,
    ),
    *(
        (
            (build, True),
            CREATORS,
            NEW + "PageFileReserved 1, PageFileAllocated 2, ColdPage 3, ShadowStack 26",
            MOVED + "IoTracker 3, SwizzleBit 4, PageFrameNumber 12-47",
            PROTO_NEW,
        )
        for build in (17763, 19041)
    ),
    *(
        (
            (build, True),
            SERVER_2022,
            NEW
            + "PageFileReserved 1, PageFileAllocated 2, ColdPage 3, ShadowStack 26, OnStandbyLookaside 27",
            MOVED + "OnStandbyLookaside 2, IoTracker 3, SwizzleBit 4, PageFrameNumber 12-51",
            PROTO_NEW,
        )
        for build in (20348, 22000, 26100)
    ),
]


@pytest.mark.parametrize("which, hardware, software, transition, prototype", TABLES)
def test_rule_follows_the_reference(which, hardware, software, transition, prototype):
    build, swizzle = which
    layout = pte_layout(None, "x64", build, swizzle=swizzle)
    assert plain(layout.hardware) == bits(hardware)
    assert plain(layout.software) == bits(software)
    assert plain(layout.transition) == bits(transition)
    assert plain(layout.prototype) == bits(prototype)
    assert layout.prototype["ProtoAddress"].signed
    assert layout.subsection["SubsectionAddress"] == Bits(16, 48, True)
    assert (layout.swizzle, layout.size, layout.certain) == (swizzle, 8, True)
    assert layout.source == f"rule {layout.family}"


def test_preview_builds_have_their_own_form():
    layout = pte_layout(None, "x64", 28000)
    assert layout.family == "x64-28000"
    assert not layout.certain
    assert layout.prototype["ProtoIndex"] == (12, 42, False)
    assert "ProtoAddress" not in layout.prototype
    assert layout.subsection["SubsectionIndex"] == (12, 42, False)
    assert plain(layout.software)["PageFileAllocated"] == (3, 1)
    assert layout.list == layout.timestamp == {}
    guess = find(build=28000)  # the nearest layout, which must not be used
    assert guess.build.number == 26100
    assert pte_layout(guess, "x64", 28000) == layout
    assert pte_layout(guess, "x64") == layout
    assert not mmpfn_layout(guess, "x64", 28000).certain


def test_32_bit_and_arm64():
    x86 = pte_layout(None, "x86", 7601)
    assert (x86.size, x86.family) == (4, "x86")
    assert plain(x86.prototype) == bits(
        "Valid 0, ProtoAddressLow 1-8, ReadOnly 9, Prototype 10, ProtoAddressHigh 11-31"
    )
    assert plain(x86.software)["PageFileHigh"] == (12, 20)
    old, new = pte_layout(None, "pae", 9600, swizzle=False), pte_layout(None, "pae", 17763)
    assert (old.family, new.family, old.size) == ("pae-old", "pae-new", 8)
    assert plain(old.prototype)["ProtoAddress"] == plain(new.prototype)["ProtoAddress"] == (32, 32)
    assert not new.prototype["ProtoAddress"].signed
    assert plain(new.hardware)["PageFrameNumber"] == (12, 26)
    arm = pte_layout(None, "arm64", 26100)
    assert (arm.family, arm.swizzle) == ("arm64", False)
    assert plain(arm.software) == bits(
        """Valid 0, Protection 1-5, PageFileLow 6-9, Prototype 10, Transition 11, PageFileReserved 12,
        PageFileAllocated 13, UsedPageTableEntries 14-23, ColdPage 24, OnStandbyLookaside 25,
        PageFileHigh 32-63"""
    )
    assert plain(arm.transition)["PageFrameNumber"] == (12, 40)
    assert plain(pte_layout(None, "arm64", 22000).transition)["PageFrameNumber"] == (12, 36)
    assert pte_layout(find(build=26100, arch="arm64"), "arm64").source == "rule arm64"


@pytest.mark.parametrize(
    "arch, build, kwargs, family",
    [
        ("x64", 3790, {}, "x64-old-2003"),
        ("x64", 6001, {}, "x64-old-vista"),
        ("x64", 7601, {"swizzle": False}, "x64-old-7"),
        ("x64", 9200, {"swizzle": False}, "x64-old-8"),
        ("x64", 10240, {"swizzle": False}, "x64-old-10"),
        ("x64", 7601, {"swizzle": True}, "x64-new-7"),
        ("x64", 9600, {"swizzle": True}, "x64-new-8"),
        ("x64", 17763, {"swizzle": False}, "x64-new"),  # nothing to decide there
        ("la57", 22000, {}, "x64-20348"),
        ("pae", 2600, {}, "pae-old"),
    ],
)
def test_families(arch, build, kwargs, family):
    assert pte_layout(None, arch, build, **kwargs).family == family


@pytest.mark.parametrize(
    "build, revision, swizzle, certain",
    [
        (7600, None, False, True),
        (7601, 17514, False, True),
        (7601, 24540, True, True),
        (7601, 24300, True, False),
        (7601, None, True, False),
        (9600, 19913, True, True),
        (14393, 0, False, True),
        (14393, 2000, False, False),
        (14393, 2430, True, False),
        (14393, 4583, True, True),
        (17134, None, False, False),
        (17134, 1, False, True),
        (17134, 1304, True, False),
        (16299, 15, False, False),  # no type information of this number on x64
        (17763, None, True, True),
        (17700, None, True, False),
        (20000, None, True, False),
        (22631, None, True, True),
    ],
)
def test_form_by_revision(build, revision, swizzle, certain):
    layout = pte_layout(None, "x64", build, revision=revision)
    assert (layout.swizzle, layout.certain) == (swizzle, certain)


def test_layout_of_the_same_number_but_other_form_is_not_used():
    late = find(build=7601, revision=17514)  # the only bundled revision is 24540
    assert late.build.revision == 24540
    layout = pte_layout(late, "x64", 7601)
    assert (layout.source, layout.swizzle, layout.certain) == ("rule x64-old-7", False, True)
    unknown = pte_layout(find(build=7601), "x64", 7601)
    assert (unknown.swizzle, unknown.certain) == (True, False)
    assert "7601.24540" in unknown.source
    told = pte_layout(find(build=7601), "x64", 7601, swizzle=False)
    assert (told.family, told.certain) == ("x64-old-7", True)
    told = pte_layout(find(build=7601), "x64", 7601, swizzle=True)
    assert ("7601.24540" in told.source, told.certain) == (True, True)
    exact = find("339E74133576439CBCDF7E0229DA3773", 1)
    assert pte_layout(exact, "x64").certain


def test_what_cannot_be_chosen():
    with pytest.raises(ValueError, match="not a paging mode"):
        pte_layout(None, "mips", 7601)
    with pytest.raises(SymbolError):
        pte_layout(None, "x64")
    with pytest.raises(SymbolError):
        mmpfn_layout(None, "x64")
    with pytest.raises(KeyError):
        pte_layout(None, "x64", 19041).kind("size")
    # A layout of another architecture says nothing about this one.
    assert pte_layout(find(build=19041), "pae", 19041).source == "rule pae-new"


def test_decoding():
    layout = pte_layout(None, "x64", 19041)
    fields = layout.decode("hardware", 0x8000_0000_69FC_8867)
    assert (fields["PageFrameNumber"], fields["NoExecute"], fields["Write"]) == (0x69FC8, 1, 1)
    fields = layout.decode("software", 0x80)
    assert (fields["Protection"], fields["PageFileHigh"], fields["PageFileLow"]) == (4, 0, 0)
    address = layout.prototype["ProtoAddress"].of(0xFFFF_8A00_1234_5678 << 16 & (1 << 64) - 1 | 0x400)
    assert address == 0x8A00_1234_5678 - (1 << 48)
    assert Bits(5, 5).mask == 0x3E0
    copy = pickle.loads(pickle.dumps(layout))
    assert copy == layout


# --- all known layouts -------------------------------------------------------------------------------------

# The kernel for one processor of XP names bit 1 Write; the rule has the names of the multiprocessor one.
UNIPROCESSOR = {"5.1.2600.2180 x86 PAE", "5.1.2600.5512 x86 PAE", "5.1.2600.2622 x86 without PAE"}
NO_PTE = {"10.0.22000 arm64", "10.0.26100.1742 arm64"}  # the data have no page table entries of ARM64
NO_PFN = NO_PTE | {"10.0.22621.2428 x64"}
RTM_2003 = {"5.2.3790.0 x86 without PAE"}  # as XP; the rule is that of the service packs


@cache
def everything():
    """All 256 builds with their layouts; the part that is not bundled is in the shared data."""
    folder = shareddata.require("nt-layouts")
    parts = bundled(), Catalogue(folder, "-vtypes")
    return [(build, part.layout(build)) for part in parts for build in part.known_builds()]


def mode(build):
    return build.arch if build.arch != "x86" else "pae" if build.pae else "x86"


def test_rule_and_data_agree_for_all_builds():
    assert len(everything()) == 256
    differ, absent = set(), set()
    for build, layout in everything():
        arch = mode(build)
        data = pte_layout(layout, arch, build.number)
        if data.source.startswith("rule"):
            absent.add(str(build))
            continue
        rule = pte_layout(None, arch, build.number, revision=build.revision, swizzle=data.swizzle)
        assert (rule.family, rule.size) == (data.family, data.size), str(build)
        assert rule.source.startswith("rule")
        for kind in KINDS:
            if dict(rule.kind(kind)) != dict(data.kind(kind)):
                assert kind == "hardware", str(build)
                differ.add(str(build))
    assert (differ, absent) == (UNIPROCESSOR, NO_PTE)


def test_data_have_what_the_structures_have():
    """The positions are those of the structure's own bit fields, fillers aside."""
    for build, layout in everything():
        data = pte_layout(layout, mode(build), build.number)
        for kind, struct in KINDS.items():
            if not layout.has(struct):
                continue
            assert layout.struct(struct).size == data.size
            for name, field in data.kind(kind).items():
                own = layout.field(struct, name)
                assert (own.offset * 8 + own.bit_start, own.bit_width) == field[:2]
                assert "Unused" not in name
                assert "filler" not in name


def test_revision_decides_the_form_of_every_known_build():
    """By number and revision alone the rule never says for sure what a build's type information denies."""
    for build, layout in everything():
        data = pte_layout(layout, mode(build), build.number)
        rule = pte_layout(None, mode(build), build.number, revision=build.revision)
        assert rule.swizzle == data.swizzle, str(build)


def test_pfn_rule_and_data_agree_for_all_builds():
    differ, absent = set(), set()
    for build, layout in everything():
        data = mmpfn_layout(layout, mode(build), build.number)
        if data.source.startswith("rule"):
            absent.add(str(build))
            continue
        rule = mmpfn_layout(None, mode(build), build.number, revision=build.revision)
        assert (rule.size, rule.family) == (data.size, data.family), str(build)
        if dict(rule.fields) != dict(data.fields):
            differ.add(str(build))
            assert not rule.certain
    assert (differ, absent) == (RTM_2003, NO_PFN)


U4 = {
    7601: "PteFrame 0-51, PfnImageVerified 55, AweAllocation 56, PrototypePte 57, PageColor 58-63",
    9600: """PteFrame 0-35, Channel 36-37, PfnExists 53, PageIdentity 54-56, PrototypePte 57,
        PageColor 58-63""",
    14393: """PteFrame 0-35, Channel 36-37, Partition 40-49, FileOnly 52, PfnExists 53, PageIdentity 54-56,
        PrototypePte 57, PageColor 58-63""",
    19041: """PteFrame 0-35, ResidentPage 36, Partition 39-48, FileOnly 49, PfnExists 50, PageIdentity 60-62,
        PrototypePte 63""",
    20348: """PteFrame 0-39, ResidentPage 40, Partition 43-52, FileOnly 53, PfnExists 54, PageIdentity 60-62,
        PrototypePte 63""",
    22621: """PteFrame 0-39, ResidentPage 40, Partition 43-52, FileOnly 53, PfnExists 54, PageIdentity 60-62,
        PrototypePte 63""",
    26100: """PteFrame 0-39, ResidentPage 40, ResidentPageContainsBadPages 41, Partition 43-52, FileOnly 53,
        PfnExists 54, PageIdentity 60-62, PrototypePte 63""",
}


@pytest.mark.parametrize("build", U4)
@pytest.mark.parametrize("bundle", [False, True])
def test_pfn_follows_the_reference(build, bundle):
    layout = mmpfn_layout(find(build=build) if bundle else None, "x64", build, revision=9999)
    old = build < 10240
    assert layout.size == 0x30
    assert {n: f[2:] for n, f in layout.fields.items() if f.offset == 0x28} == bits(U4[build])
    assert layout["PteAddress"] == PfnField(0x10 if old else 8, 8, 0, 64)
    assert layout["OriginalPte"] == PfnField(0x20 if old else 0x10, 8, 0, 64)
    assert layout["ReferenceCount"] == PfnField(0x18 if old else 0x20, 2, 0, 16)
    assert layout["ShareCount"].offset == (8 if old else 0x18)
    e1 = 0x1A if old else 0x22
    for name, place in bits(
        "PageLocation 0-2, WriteInProgress 3, Modified 4, ReadInProgress 5, CacheAttribute 6-7"
    ).items():
        assert layout[name] == PfnField(e1, 1, *place)
    for name, place in bits("Priority 0-2, InPageError 4, RemovalRequested 6, ParityError 7").items():
        assert layout[name] == PfnField(e1 + 1, 1, *place)


def test_pfn_of_early_19041():
    early, late = (mmpfn_layout(None, "x64", 19041, revision=revision) for revision in (450, 572))
    assert early["PfnExists"].start == 51
    assert late["PfnExists"].start == 50
    assert not mmpfn_layout(None, "x64", 19045).certain
    assert mmpfn_layout(find(build=19041, revision=1), "x64")["PfnExists"].start == 51


def test_pfn_decoding():
    layout = mmpfn_layout(None, "x64", 22000)
    entry = bytearray(0x30)
    entry[0x08:0x10] = (0xFFFF_A880_0000_1000).to_bytes(8, "little")
    entry[0x20:0x22] = (3).to_bytes(2, "little")
    entry[0x22] = 6 | 1 << 4
    entry[0x28:0x30] = (1 << 63 | 0x12345).to_bytes(8, "little")
    fields = layout.decode(bytes(entry))
    assert (fields["PteAddress"], fields["ReferenceCount"]) == (0xFFFF_A880_0000_1000, 3)
    assert (fields["PageLocation"], fields["Modified"], fields["WriteInProgress"]) == (6, 1, 0)
    assert (fields["PteFrame"], fields["PrototypePte"]) == (0x12345, 1)
    assert "PteFrame" in layout
    assert "Channel" not in layout


def test_left_out_builds_fall_back_to_the_rule():
    """Without a build's own number the rule serves, and gives what its own layout says."""
    without = Catalogue(keep=lambda build: build.number != 20348)
    guess = without.find(Kernel(build=20348))
    assert guess.build.number != 20348
    own = find(build=20348)
    for kind in KINDS:
        assert pte_layout(guess, "x64", 20348).kind(kind) == pte_layout(own, "x64", 20348).kind(kind)
    assert mmpfn_layout(guess, "x64", 20348).fields == mmpfn_layout(own, "x64", 20348).fields
