"""Bit positions in page table entries and in `_MMPFN`, for kernels whose layout is not bundled.

Each table is a list of (first build, text): the last one that is not above the build counts, and replaces
those before. In the text, "Name 3" is one bit, "Name 5-9" a range, both inclusive; "=" stands for the text
before and is followed by what changes ("-Name" takes a field away). Fields without meaning (unused, reserved)
are left out.

Source: type information of public symbol files, gathered in sections 7, 8 and 13 of the project's paging
reference; what no file shows is marked "inferred". Where the members of the structure are bundled, the tests
compare.

SPDX-License-Identifier: MIT
"""

Table = list[tuple[int, str]]

# --- valid entries (_MMPTE_HARDWARE) -----------------------------------------------------------------------

_HARDWARE_BITS = """Valid 0, Writable 1, Owner 2, WriteThrough 3, CacheDisable 4, Accessed 5, Dirty 6,
    LargePage 7, Global 8, CopyOnWrite 9, Prototype 10, Write 11"""

HARDWARE: dict[str, Table] = {
    "x64": [
        (3790, _HARDWARE_BITS + ", PageFrameNumber 12-39, SoftwareWsIndex 52-62, NoExecute 63"),
        (6000, "=, -Writable, Dirty1 1"),
        (6001, "=, PageFrameNumber 12-47"),
        (7600, "=, -Prototype"),
        (
            15063,
            """=, -SoftwareWsIndex, ReservedForHardware 48-51, ReservedForSoftware 52-55, WsleAge 56-59,
            WsleProtection 60-62""",
        ),
        (20348, "=, -ReservedForHardware, PageFrameNumber 12-51"),
        (28000, "=, ClearedByHiberVerifyRevert 10, ReservedForSoftware 52-54, MemoryTag 55"),
    ],
    # The kernels for one processor (XP, 2003) name bit 1 Write, and leave 11 unused.
    "x86": [
        (2600, _HARDWARE_BITS + ", PageFrameNumber 12-31"),
        (6000, "=, -Writable, Dirty1 1"),
        (7600, "=, -Prototype"),
    ],
    "pae": [
        (2600, _HARDWARE_BITS + ", PageFrameNumber 12-37"),
        (6000, "=, -Writable, Dirty1 1"),
        (7600, "=, -Prototype"),
        (15063, "=, NoExecute 63"),
    ],
    # The names of bits 53 and 54 are ours (PXN and UXN of the architecture).
    "arm64": [
        (
            0,
            """Valid 0, NotLargePage 1, CacheType 2-3, OsAvailable 4, NonSecure 5, Owner 6, NotDirty 7,
            Sharability 8-9, Accessed 10, NonGlobal 11, PageFrameNumber 12-47, Contiguous 52,
            PrivilegedNoExecute 53, UserNoExecute 54, Writable 55, CopyOnWrite 56""",
        ),
        (26100, "=, WsleProtection 57-59, WsleAge 60-63"),
    ],
}

# --- invalid entries; "old" before the L1TF update of August 2018, "new" with it ---------------------------

_COMMON = "Valid 0, Protection 5-9, Prototype 10"

SOFTWARE: dict[str, Table] = {
    "x64-old": [
        (
            3790,
            _COMMON + ", PageFileLow 1-4, Transition 11, UsedPageTableEntries 12-21, PageFileHigh 32-63",
        ),
        (7600, "=, InStore 22"),
        (
            9200,
            """=, InStore 12, PageFileReserved 13, PageFileAllocated 14, UsedPageTableEntries 15-24,
            DbgCrc 25-31""",
        ),
        (9600, "=, -DbgCrc"),
        (
            10240,
            """=, -InStore, PageFileReserved 12, PageFileAllocated 13, UsedPageTableEntries 14-23,
            LocalPartition 24""",
        ),
        (15063, "=, -LocalPartition"),
        (17134, "=, ColdPage 24"),
    ],
    # 9200 and 10240 to 17134 except 14393: inferred.
    "x64-new": [
        (
            7600,
            _COMMON
            + """, InStore 3, SwizzleBit 4, Transition 11, PageFileLow 12-15, UsedPageTableEntries 16-25,
            PageFileHigh 32-63""",
        ),
        (9200, "=, PageFileReserved 1, PageFileAllocated 2"),
        (10240, "=, -InStore, LocalPartition 3"),
        (15063, "=, -LocalPartition"),
        (17134, "=, ColdPage 3"),
        (17763, "=, ShadowStack 26"),
        (20348, "=, OnStandbyLookaside 27"),
        (
            28000,
            _COMMON
            + """, MemoryTag 1, PageFileReserved 2, PageFileAllocated 3, SwizzleBit 4, Transition 11,
            PageFileLow 12-15, ColdPage 16, UsedPageTableEntries 17-26, ShadowStack 27,
            OnStandbyLookaside 28, PageFileHigh 32-63""",
        ),
    ],
    "x86": [(2600, _COMMON + ", PageFileLow 1-4, Transition 11, PageFileHigh 12-31")],
    "pae-old": [
        (2600, _COMMON + ", PageFileLow 1-4, Transition 11, PageFileHigh 32-63"),
        (7600, "=, InStore 12"),
        (9200, "=, PageFileReserved 13, PageFileAllocated 14, DbgCrc 15-31"),
        (9600, "=, -DbgCrc"),
        (10240, "=, -InStore, PageFileReserved 12, PageFileAllocated 13"),
    ],
    "pae-new": [
        (
            7600,
            _COMMON
            + """, PageFileReserved 1, PageFileAllocated 2, SwizzleBit 4, Transition 11, PageFileLow 12-15,
            PageFileHigh 32-63""",
        )
    ],
    "arm64": [
        (
            0,
            """Valid 0, Protection 1-5, PageFileLow 6-9, Prototype 10, Transition 11, PageFileReserved 12,
            PageFileAllocated 13, UsedPageTableEntries 14-23, ColdPage 24, OnStandbyLookaside 25,
            PageFileHigh 32-63""",
        )
    ],
}

TRANSITION: dict[str, Table] = {
    "x64-old": [
        (
            3790,
            _COMMON
            + ", Write 1, Owner 2, WriteThrough 3, CacheDisable 4, Transition 11, PageFrameNumber 12-39",
        ),
        (6001, "=, PageFrameNumber 12-47"),
        (9200, "=, -Owner"),
        (14393, "=, -WriteThrough, -CacheDisable, IoTracker 4"),
    ],
    "x64-new": [
        (
            7600,
            _COMMON
            + """, Write 1, WriteThrough 2, CacheDisable 3, SwizzleBit 4, Transition 11,
            PageFrameNumber 12-47""",
        ),
        (14393, "=, -WriteThrough, -CacheDisable, IoTracker 3"),
        (20348, "=, OnStandbyLookaside 2, PageFrameNumber 12-51"),
        # Inferred: the bits that the other kinds of these builds have in common, and the frame.
        (28000, _COMMON + ", MemoryTag 1, SwizzleBit 4, Transition 11, PageFrameNumber 12-51"),
    ],
    "x86": [
        (
            2600,
            _COMMON
            + ", Write 1, Owner 2, WriteThrough 3, CacheDisable 4, Transition 11, PageFrameNumber 12-31",
        )
    ],
    "pae-old": [
        (
            2600,
            _COMMON
            + ", Write 1, Owner 2, WriteThrough 3, CacheDisable 4, Transition 11, PageFrameNumber 12-37",
        ),
        (9200, "=, -Owner"),
        (14393, "=, -WriteThrough, -CacheDisable, IoTracker 4"),
    ],
    "pae-new": [
        (7600, _COMMON + ", Write 1, IoTracker 3, SwizzleBit 4, Transition 11, PageFrameNumber 12-37")
    ],
    "arm64": [
        (
            0,
            """Valid 0, Protection 1-5, OnStandbyLookaside 8, IoTracker 9, Prototype 10, Transition 11,
            PageFrameNumber 12-47""",
        ),
        (26100, "=, PageFrameNumber 12-51"),
    ],
}

PROTOTYPE: dict[str, Table] = {
    "x64-old": [
        (3790, "Valid 0, ReadOnly 8, Prototype 10, Protection 11-15, ProtoAddress 16-63"),
        (9200, "=, DemandFillProto 1, HiberVerifyConverted 2, Combined 9"),
    ],
    "x64-new": [
        (7600, _COMMON + ", ReadOnly 1, SwizzleBit 4, ProtoAddress 16-63"),
        (9200, "=, DemandFillProto 1, HiberVerifyConverted 2, ReadOnly 3, Combined 11"),
        (
            28000,
            _COMMON
            + """, MemoryTag 1, SwizzleBit 4, ProtoIndex 12-53, ProtoTagBits 54-57, DemandFillProto 58,
            PoolType 59""",
        ),
    ],
    "x86": [
        (
            2600,
            """Valid 0, ProtoAddressLow 1-7, ReadOnly 8, WhichPool 9, Prototype 10, ProtoAddressHigh 11-31""",
        ),
        (6000, "=, -WhichPool, ProtoAddressLow 1-8, ReadOnly 9"),
    ],
    "pae-old": [
        (2600, "Valid 0, ReadOnly 8, Prototype 10, Protection 11-15, ProtoAddress 32-63"),
        (9200, "=, DemandFillProto 1, HiberVerifyConverted 2, Combined 9"),
    ],
    "pae-new": [
        (
            7600,
            _COMMON
            + """, DemandFillProto 1, HiberVerifyConverted 2, ReadOnly 3, SwizzleBit 4, Combined 11,
            ProtoAddress 32-63""",
        )
    ],
    "arm64": [
        (
            0,
            """Valid 0, Protection 1-5, HiberVerifyConverted 6, ReadOnly 8, Combined 9, Prototype 10,
            DemandFillProto 11, ProtoAddress 16-63""",
        )
    ],
}

SUBSECTION: dict[str, Table] = {
    "x64-old": [
        (3790, _COMMON + ", SubsectionAddress 16-63"),
        (10586, "=, ExecutePrivilege 15"),
        (17134, "=, ColdPage 11"),
    ],
    "x64-new": [
        (7600, _COMMON + ", SwizzleBit 4, SubsectionAddress 16-63"),
        (10586, "=, ExecutePrivilege 15"),
        (17134, "=, ColdPage 11"),
        (20348, "=, OnStandbyLookaside 3"),
        (28000, _COMMON + ", MemoryTag 1, SwizzleBit 4, SubsectionIndex 12-53"),
    ],
    "x86": [
        (2600, _COMMON + ", SubsectionAddressLow 1-4, SubsectionAddressHigh 11-30, WhichPool 31"),
        (6000, "=, -Protection, -WhichPool, SubsectionAddressLow 1-9, SubsectionAddressHigh 11-31"),
    ],
    "pae-old": [(2600, _COMMON + ", SubsectionAddress 32-63")],
    "pae-new": [(7600, _COMMON + ", SwizzleBit 4, SubsectionAddress 32-63")],
    "arm64": [(0, "Valid 0, Protection 1-5, Prototype 10, SubsectionAddress 16-63")],
}

# Free entries of system PTE regions. Of ARM64 and of 28000 on nothing is known.
LIST: dict[str, Table] = {
    "x64-old": [
        (3790, _COMMON + ", OneEntry 1, Transition 11, NextEntry 32-63"),
        (9600, "=, NextEntry 28-63"),
    ],
    "x64-new": [
        (7600, _COMMON + ", OneEntry 1, SwizzleBit 4, Transition 11, NextEntry 32-63"),
        (9600, "=, NextEntry 28-63"),
        (28000, ""),
    ],
    "x86": [(2600, "Valid 0, OneEntry 1, Prototype 10, NextEntry 12-31")],
    "pae-old": [(2600, "Valid 0, OneEntry 1, Prototype 10, NextEntry 32-63")],
    "pae-new": [
        (7600, "Valid 0, OneEntry 1, SwizzleBit 4, Prototype 10, Transition 11, NextEntry 32-63"),
        (18362, "=, Protection 5-9"),
    ],
    "arm64": [(0, "")],
}

_TIMESTAMP = "MustBeZero 0, Protection 5-9, Prototype 10, Transition 11"

TIMESTAMP: dict[str, Table] = {
    "x64-old": [(6001, _TIMESTAMP + ", PageFileLow 1-4, GlobalTimeStamp 32-63")],
    "x64-new": [
        (7600, _TIMESTAMP + ", SwizzleBit 4, PageFileLow 12-15, GlobalTimeStamp 32-63"),
        (28000, ""),
    ],
    "x86": [(6001, _TIMESTAMP + ", PageFileLow 1-4, GlobalTimeStamp 12-31")],
    "pae-old": [(6001, _TIMESTAMP + ", PageFileLow 1-4, GlobalTimeStamp 32-63")],
    "pae-new": [(7600, _TIMESTAMP + ", SwizzleBit 4, PageFileLow 12-15, GlobalTimeStamp 32-63")],
    "arm64": [(0, "")],
}

# --- the L1TF update inside build numbers ------------------------------------------------------------------

FIRST_NEW = 17763  # every kernel from here on has the new form
FIRST_SERVICED = 7601  # none before got the update
# The last revision seen in the old form, the first seen in the new one.
LAST_OLD = {
    7601: 24000,
    9200: 16384,
    9600: 18340,
    10240: 17770,
    10586: 420,
    14393: 0,
    15063: 0,
    16299: 15,
    17134: 1,
}
FIRST_SEEN_NEW = {7601: 24540, 9600: 19913, 14393: 4583}
# The update of 14 August 2018 by Microsoft's public update history; no symbols of these were seen.
UPDATE = {10240: 17946, 14393: 2430, 15063: 1266, 16299: 611, 17134: 228}

# --- _MMPFN ------------------------------------------------------------------------------------------------
# Text as above, each field with "offset:size" before its bits; without bits the whole number is the field.

_PFN_BYTES_VISTA = """PageLocation {e1}:1 0-2, WriteInProgress {e1}:1 3, Modified {e1}:1 4,
    ReadInProgress {e1}:1 5, CacheAttribute {e1}:1 6-7, Priority {e3}:1 0-2, Rom {e3}:1 3,
    InPageError {e3}:1 4, KernelStack {e3}:1 5, RemovalRequested {e3}:1 6, ParityError {e3}:1 7"""
_PFN_BYTES_8 = "-Rom, -KernelStack, OnProtectedStandby {e3}:1 3"
_PFN_BYTES_10 = _PFN_BYTES_VISTA.replace("Rom ", "OnProtectedStandby ").replace(
    "KernelStack ", "SystemChargedPage "
)
_PFN_WORD_2003 = """Modified {e1} 0, ReadInProgress {e1} 1, WriteInProgress {e1} 2, PrototypePte {e1} 3,
    PageColor {e1} 4-7, PageLocation {e1} 8-10, RemovalRequested {e1} 11, CacheAttribute {e1} 12-13,
    Rom {e1} 14, ParityError {e1} 15"""

PFN: dict[str, Table] = {
    "x64": [
        (
            3790,
            """Flink 0:8, PteAddress 8:8, Blink 0x10:8, ShareCount 0x10:8, ReferenceCount 0x18:2, """
            + _PFN_WORD_2003.format(e1="0x1A:2")
            + """, OriginalPte 0x20:8, PteFrame 0x28:8 0-56, InPageError 0x28:8 57,
            VerifierAllocation 0x28:8 58, AweAllocation 0x28:8 59, Priority 0x28:8 60-62,
            MustBeCached 0x28:8 63""",
        ),
        (
            6000,
            """Flink 0:8, Blink 8:8, ShareCount 8:8, PteAddress 0x10:8, ReferenceCount 0x18:2, """
            + _PFN_BYTES_VISTA.format(e1="0x1A", e3="0x1B")
            + """, OriginalPte 0x20:8, PteFrame 0x28:8 0-51, PfnImageVerified 0x28:8 55,
            AweAllocation 0x28:8 56, PrototypePte 0x28:8 57, PageColor 0x28:8 58-63""",
        ),
        (
            9200,
            "=, "
            + _PFN_BYTES_8.format(e3="0x1B")
            + """, -PfnImageVerified, -AweAllocation, Flink 0:8 0-35, Blink 8:8 0-35, PteFrame 0x28:8 0-35,
            Channel 0x28:8 36-37, PfnExists 0x28:8 54, PageIdentity 0x28:8 55-56""",
        ),
        (9600, "=, PfnExists 0x28:8 53, PageIdentity 0x28:8 54-56"),
        (
            10240,
            """Flink 0:8 0-35, PteAddress 8:8, OriginalPte 0x10:8, Blink 0x18:8 0-35, ShareCount 0x18:8 0-61,
            ReferenceCount 0x20:2, """
            + _PFN_BYTES_10.format(e1="0x22", e3="0x23")
            + """, PteFrame 0x28:8 0-35, Channel 0x28:8 36-37, Partition 0x28:8 40-49, FileOnly 0x28:8 52,
            PfnExists 0x28:8 53, PageIdentity 0x28:8 54-56, PrototypePte 0x28:8 57, PageColor 0x28:8 58-63""",
        ),
        (
            19041,
            """=, -Channel, -PageColor, ResidentPage 0x28:8 36, Partition 0x28:8 39-48, FileOnly 0x28:8 49,
            PfnExists 0x28:8 50, PageIdentity 0x28:8 60-62, PrototypePte 0x28:8 63""",
        ),
        (
            20348,
            """=, Flink 0:8 0-39, Blink 0x18:8 0-39, PteFrame 0x28:8 0-39, ResidentPage 0x28:8 40,
            Partition 0x28:8 43-52, FileOnly 0x28:8 53, PfnExists 0x28:8 54""",
        ),
        (26100, "=, ResidentPageContainsBadPages 0x28:8 41"),
    ],
    "x86": [
        (
            2600,
            """Flink 0:4, PteAddress 4:4, Blink 8:4, ShareCount 8:4, ReferenceCount 14:2, """
            + _PFN_WORD_2003.format(e1="12:4").replace("PageColor 12:4 4-7", "PageColor 12:4 4-6")
            + """, ParityError 12:4 7, OriginalPte 0x10:{pte}, PteFrame {u4}:4 0-25, InPageError {u4}:4 26,
            VerifierAllocation {u4}:4 27, AweAllocation {u4}:4 28, LockCharged {u4}:4 29,
            KernelStack {u4}:4 30""",
        ),
        (
            3790,  # with service pack 1; before, the words were as in XP
            """Flink 0:4, PteAddress 4:4, Blink 8:4, ShareCount 8:4, ReferenceCount 12:2, """
            + _PFN_WORD_2003.format(e1="14:2")
            + """, OriginalPte 0x10:{pte}, PteFrame {u4}:4 0-24, InPageError {u4}:4 25,
            VerifierAllocation {u4}:4 26, AweAllocation {u4}:4 27, Priority {u4}:4 28-30,
            MustBeCached {u4}:4 31""",
        ),
        (
            6000,
            """Flink 0:4, Blink 4:4, ShareCount 4:4, PteAddress 8:4, ReferenceCount 12:2, """
            + _PFN_BYTES_VISTA.format(e1="14", e3="15")
            + """, OriginalPte 0x10:{pte}, PteFrame {u4}:4 0-24, PfnImageVerified {u4}:4 25,
            AweAllocation {u4}:4 26, PrototypePte {u4}:4 27, PageColor {u4}:4 28-31""",
        ),
        (
            9200,
            "=, "
            + _PFN_BYTES_8.format(e3="15")
            + ", -PfnImageVerified, -AweAllocation, Blink 4:4 0-24, PageIdentity {u4}:4 25-26",
        ),
        (9600, "=, Blink 4:4 0-23, PteFrame {u4}:4 0-23, PageIdentity {u4}:4 24-26"),
        (
            10240,
            """Flink 0:4, PteAddress 4:4, OriginalPte 8:{pte}, Blink 16:4 0-23, ShareCount 16:4 0-29,
            ReferenceCount 20:2, """
            + _PFN_BYTES_10.format(e1="22", e3="23")
            + """, PteFrame {u4}:4 0-23, PageIdentity {u4}:4 24-26, PrototypePte {u4}:4 27,
            PageColor {u4}:4 28-31""",
        ),
        (19041, "=, -PageColor, PageIdentity {u4}:4 28-30, PrototypePte {u4}:4 31"),
    ],
}
# 19041 had other bits in u4 until somewhere between these revisions.
PFN_19041_EARLY = """=, -ResidentPage, Partition 0x28:8 40-49, FileOnly 0x28:8 50, PfnExists 0x28:8 51"""
PFN_19041_LAST_EARLY = 450
