"""Small triage dumps, made by the package's writer.

SPDX-License-Identifier: MIT
"""

import io
import struct
import uuid

from conftest import KERNEL_VA

import kdmp


def small_triage(target=None):
    """The bytes of a triage dump with a bit of everything; written to `target` if that is given."""
    out = io.BytesIO()
    kdbg = bytearray(0x380)
    struct.pack_into("<HHHH", kdbg, 0x2B0, 0x40, 0, 8, 0)
    kdmp.write_triage(
        out if target is None else target,
        header={"minor_version": 19041, "number_processors": 2, "kd_debugger_data_block": KERNEL_VA + 0x8000},
        unloaded=[("old.sys", KERNEL_VA, KERNEL_VA + 1)],
        prcb=bytes(0x40),
        stack=(KERNEL_VA + 0x4000, b"stack" * 4),
        debugger_data=kdbg,
        drivers=[("nt.exe", KERNEL_VA, 0x1000, 1, 2)] * 3,
        data_blocks=[(KERNEL_VA, b"block" * 8), (KERNEL_VA + 40, b"next")],
        blobs=[(uuid.UUID(int=0), b""), (uuid.UUID(int=5), b"secondary")],
    )
    return out.getvalue()
