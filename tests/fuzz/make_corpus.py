"""Makes the seeds of the fuzz targets: small dumps of every kind, and small page-table programs.

    python tests/fuzz/make_corpus.py DIRECTORY

writes DIRECTORY/open/* and DIRECTORY/translate/*. Nothing of it is kept in the repository; what a
fuzzer found is, in tests/fuzz/corpus/.

SPDX-License-Identifier: MIT
"""

import struct
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dumpbuilder import (
    ALL_KINDS,
    COMPLETE,
    HEADER,
    HEADER_ONLY,
    L1TF,
    LARGE,
    NX,
    PROTOTYPE,
    RANGES8,
    TRANSITION,
    TRIAGE,
    Memory,
    P,
    Tables,
    U,
    W,
    bitmap_dump,
    header_page,
    patched,
    ranges_dump,
    runs_dump,
)

KERNEL = 0xFFFF_F800_0000_0000
TARGETS = ("open", "translate")
SIZE_LIMIT = 200_000  # of all seeds together


def small_memory():
    """Five frames: the tables of one address, and a data page with a list, a text and a KDBG tag."""
    memory = Memory()
    tables = Tables(memory)
    tables.map(KERNEL, 0x5000, flags=P | W)
    memory.put_u64(0x5000, KERNEL)  # a list that is only its head
    memory.put_u64(0x5008, KERNEL)
    memory.put(0x5100, b"text\0")
    memory.put(0x5200, "wide".encode("utf-16-le") + bytes(2))
    memory.put(0x5410, b"KDBG")
    return memory


def open_seeds():
    """Dumps by name: every kind whole, and the shapes that only damage has."""
    facts = {
        "ps_loaded_module_list": KERNEL,
        "ps_active_process_head": KERNEL,
        "kd_debugger_data_block": KERNEL + 0x400,
        "number_processors": 2,
    }
    memory = small_memory()
    seeds = {}
    for kind in ALL_KINDS:
        image = memory.dump(kind, **facts)
        # Only one keeps all pages: the corpus stays small, and cut dumps are worth having.
        lost = {1: 0, 5: 2, 6: 5, 7: 5}.get(kind, 4)
        seeds[f"kind{kind}"] = image[: len(image) - 0x1000 * lost]
    for kind in (HEADER_ONLY, TRIAGE):
        seeds[f"kind{kind}"] = header_page(kind)
    seeds["overlap"] = runs_dump([(1, 2), (2, 2), (9, 1)])[: HEADER + 0x800]
    seeds["odd-bits"] = bitmap_dump(13, [0, 3, 12])[: HEADER + 0x100]
    seeds["ranges"] = ranges_dump([(5, 1), (2, 2)], kind=RANGES8, spare=1)[: HEADER + 0x100]
    seeds["complete"] = ranges_dump([(2, 1), (7, 1)], kind=COMPLETE)[: HEADER + 0x100]
    seeds["huge"] = patched(bitmap_dump(16, [1])[: HEADER + 0x40], bits=2**40, stored=2**63)
    seeds["empty"] = b""
    seeds["minidump"] = b"MDMP" + bytes(28)
    seeds["header32"] = b"PAGEDUMP" + b"PAGE" * 1022
    return seeds


def program(paging, commands, *, flags=0, absent=7, cut=6, root=0x1000, mask=0):
    """One input of fuzz_translate: (slot address, entry) stores, (None, address, size) uses."""
    out = struct.pack("<BBBBQQ", paging, flags, absent, cut, root, mask)
    for command in commands:
        if command[0] is None:
            _, address, size = command
            out += struct.pack("<IQ", 1 << 31 | size, address)
        else:
            where, value = command
            out += struct.pack("<IQ", where // 8, value)
    return out


def translate_seeds():
    """Programs by name, for 4 and 5 levels."""
    tables = [
        (0x1000, 0x2000 | P | W | U),
        (0x1000 + 8 * 511, 0x2000 | P | W),
        (0x2000, 0x3000 | P | W | U),
        (0x2000 + 8 * 511, 0x3000 | P | W),
        (0x2000 + 8, P | W | LARGE),
        (0x3000, 0x4000 | P | W | U),
        (0x3000 + 8 * 511, 0x4000 | P | W),
        (0x3000 + 8, P | W | LARGE),
        (0x4000, 0x5000 | P | W | U),
        (0x4000 + 8, 0x4000 | P | U | NX),
        (0x4000 + 16, 0x5000 | TRANSITION | 4 << 5),
        (0x4000 + 24, 0x5000 | TRANSITION | L1TF | 4 << 5),
        (0x4000 + 32, 0x5000 | TRANSITION | PROTOTYPE),
        (0x4000 + 40, 0x6000 | P),
        (0x4000 + 48, 0x7000 | P),
        (0x4000 + 56, 5 << 32 | 4 << 5),
        (0x4000 + 8 * 511, 0x5000 | P | W),
    ]
    uses = [(None, page << 12, size) for page, size in ((0, 0x1FFF), (1, 9), (2, 8), (3, 8), (4, 8), (5, 8))]
    uses += [(None, 0x6FF8, 16), (None, 0x1F_FFF8, 16), (None, 0x20_0000, 0x1FFF), (None, 1 << 30, 64)]
    uses += [(None, 2**64 - 16, 17), (None, 2**64 - 0x1000, 0x1000), (None, 0x7FFF_FFFF_FFF8, 16)]
    seeds = {f"x64-{flags}": program(1, tables + uses, flags=flags, mask=L1TF) for flags in range(8)}
    top = [(0, 0x1000 | P | W | U), (8 * 511, 0x1000 | P | W)]
    seeds["la57"] = program(2, top + tables + uses, root=0)
    seeds["itself"] = program(1, [(0x1000, 0x1000 | P | W), *uses])
    seeds["physical"] = program(0, [(0x5000, 2**64 - 1), *uses])
    seeds["others"] = program(4, tables + uses)
    return seeds


def main(folder):
    """Write all seeds below `folder`; refuse to let them grow large."""
    total = 0
    for target, seeds in zip(TARGETS, (open_seeds(), translate_seeds()), strict=True):
        place = Path(folder, target)
        place.mkdir(parents=True, exist_ok=True)
        for name, data in seeds.items():
            (place / name).write_bytes(data)
            total += len(data)
    if total >= SIZE_LIMIT:
        raise SystemExit(f"the corpus has {total} bytes; keep it below {SIZE_LIMIT}")
    return total


if __name__ == "__main__":
    print(f"{main(sys.argv[1])} bytes of seeds in {sys.argv[1]}")
