"""Names that Windows gave to the same structure or member in other releases.

A name is looked up as it is first; only when the layout lacks it, these are tried in order. Each was checked
against the layout data: the build that has the one lacks the other.

SPDX-License-Identifier: MIT
"""

# The kernel's loader entry has its own type from Windows 10 on; before, it is the loader's of user mode.
TYPES: dict[str, tuple[str, ...]] = {
    "_KLDR_DATA_TABLE_ENTRY": ("_LDR_DATA_TABLE_ENTRY",),
}

FIELDS: dict[str, dict[str, tuple[str, ...]]] = {
    "_EPROCESS": {
        # 64-bit only. Renamed in 10586, where it became a pointer to _EWOW64PROCESS.
        "WoW64Process": ("Wow64Process",),
        "Wow64Process": ("WoW64Process",),
    },
    "_ETHREAD": {
        "ThreadsProcess": ("Tcb.Process",),  # until 2003
    },
    "_KTHREAD": {
        "Process": ("ApcState.Process",),  # XP has it only there
    },
    "_CM_KEY_CONTROL_BLOCK": {
        "Discarded": ("Delete",),  # renamed in 14393
        "Delete": ("Discarded",),
    },
    # Tree links of a VAD: own members until 7, _MM_AVL_NODE in 8, _RTL_BALANCED_NODE since 8.1.
    "_MMVAD_SHORT": {
        "Left": ("VadNode.Left", "VadNode.LeftChild", "LeftChild"),
        "Right": ("VadNode.Right", "VadNode.RightChild", "RightChild"),
        "VadFlags": ("u.VadFlags",),
        "VadFlags1": ("u1.VadFlags1",),
    },
    "_MMPFN": {
        "ReferenceCount": ("u3.ReferenceCount", "u3.e2.ReferenceCount"),
        "ShareCount": ("u2.ShareCount",),
    },
}
