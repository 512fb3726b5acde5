"""Damaged triage dumps: ten thousand mutations of the real ones, and every prefix of a small one.

SPDX-License-Identifier: MIT
"""

import io
import json
import os
import random
import resource
import struct
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from uuid import UUID

import pytest
import shareddata

import kdmp
from kdmp import write_triage

TRIAGE = (
    "rtech_116_1 rtech_13a rtech_1a rtech_3b_0 rtech_7e_0 rtech_7e_1 rtech_9f rtech_be_0 rtech_d1 rtech_ef "
    "triage_arm64 triage_x64"
).split()
MUTATIONS = 10_000
SEED = 20_240_302
SECONDS_PER_CASE = 1.0
MEMORY_GROWTH = 64 << 20
BASE = 0xFFFF_A000_0000_0000

VALUES = (
    0, 1, 2, 3, 7, 0x10, 0x80, 0x1000, 0x1FFF, 0x2000, 0x2080, 0xFFFF, 0x10000, 0x4_0000, 0x45474150,
    0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFF0, 0xFFFF_FFFF, 1 << 32, 1 << 40, (1 << 47) - 1, 1 << 47, 1 << 63,
    0x4547414545474150, (1 << 64) - 0x1000, (1 << 64) - 1,
)  # fmt: skip
HEADER = (
    0x4,
    0xC,
    0x10,
    0x30,
    0x34,
    0x38,
    0x80,
    0x88,
    0x90,
    0xF98,
    0x1038,
    0x1050,
    0x348,
    0x378,
    0xF00,
    0xF18,
)
TRIAGE_HEADER = range(0x2000, 0x2080, 4)
KDBG = (0x10, 0x18, 0x218, 0x2A0, 0x2A8, 0x2B0, 0x2B4, 0x2BE, 0x2C0, 0x338, 0x36)


def places(data):
    """File offsets worth damaging, in groups: (header, triage header, tables, strings, secondary data)."""
    t = struct.unpack_from("<18IQ16xQ6I", data, 0x2000)
    size, unloaded, prcb, thread = t[1], t[6], t[7], t[9]
    drivers, count, pool = t[12], t[13], t[14]
    kdbg, table, blocks = t[-4], t[-2], t[-1]
    entries = [
        table + 16 * k + at for k in (0, 1, 2, blocks // 2, blocks - 2, blocks - 1) for at in (0, 8, 12)
    ]
    # The copies' addresses come from the debugger data and from these fields.
    copies = [prcb + 8, prcb + struct.unpack_from("<H", data, kdbg + 0x2BE)[0]]
    copies += [thread + struct.unpack_from("<H", data, kdbg + 0x2A0)[0]]
    names = [drivers + 0x90 * k + at for k in (0, 1, count // 2, count - 1) for at in (0, 0x38, 0x48)]
    strings = [struct.unpack_from("<I", data, drivers + 0x90 * k)[0] for k in range(0, count, 7)]
    strings += [pool, unloaded, unloaded + 8, unloaded + 10, unloaded + 0x18]
    secondary, at = [size, size + 4, size + 8], size + 0x10
    for _ in range(6):
        secondary += [at, at + 0x14, at + 0x18, at + 0x1C]
        head, blob, pre, post = struct.unpack_from("<I16xIII", data, at)
        at += head + pre + blob + post
    return (
        HEADER,
        TRIAGE_HEADER,
        [*entries, *copies, *(kdbg + at for at in KDBG), *names],
        strings,
        secondary,
    )


def mutate(rng, data, groups):
    """Change `data` in place in one to four places; return what undoes it, last change first."""
    undo = []
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        group = rng.choice((0, 1, 1, 1, 2, 2, 2, 3, 4, 5))
        offset = rng.randrange(0x2080, len(data) - 8) if group == 5 else rng.choice(groups[group])
        size = rng.choice((1, 2, 4, 4, 4, 8))
        old = data[offset : offset + size]
        number = int.from_bytes(old, "little")
        new = rng.choice(
            (
                rng.choice(VALUES), rng.choice(VALUES), number + 1, number - 1, len(data) - rng.randrange(64),
                number ^ 1 << rng.randrange(8 * size), rng.getrandbits(8 * size),
            )
        )  # fmt: skip
        undo.append((offset, bytes(old)))
        data[offset : offset + size] = (new & (1 << 8 * size) - 1).to_bytes(size, "little")
    return undo[::-1]


FACTS = "kind layout arch build dtb processors system_time bugcheck context exception figures header".split()
PARTS = "valid overflowed driver_stride broken_driver unloaded_drivers mm prcb process thread stack".split()


def use(source, *, drivers=True):
    """Open a file and do what users do. KdmpError is an answer, any other exception is a bug."""
    try:
        dump = kdmp.open(source)
    except kdmp.KdmpError:
        return "refused"
    with dump:
        for name in FACTS:
            getattr(dump, name)
        repr(dump)
        if dump.triage is None:
            return "another kind"
        triage = dump.triage
        for name in PARTS:
            getattr(triage, name)
        for driver in triage.drivers if drivers else ():  # they take half of the time
            assert driver.name is None or len(driver.name) <= 0x1000
        ranges = dump.ranges
        try:
            reader = dump.reader()
        except kdmp.UnsupportedDumpError:
            assert dump.encrypted
            return "encrypted"
        for _ in triage.processors():
            pass
        for blob in islice(dump.blobs(), 200):
            assert blob.offset <= dump.file_size
            if blob.size < 0x1000 or blob.truncated:
                blob.read(dump)
        addresses = {0, (1 << 64) - 8, dump.kd_debugger_data_block or 0, triage.header["top_of_stack"]}
        addresses.update(max(r.address + r.size - 4, 0) for r in ranges[:3] + ranges[-6:])
        for address in addresses:
            data = reader.read(address, 0x200)
            filled, gaps = reader.read_gaps(address, 0x200)
            assert filled.startswith(data) and len(filled) == 0x200
            assert sum(gap.size for gap in gaps) <= 0x200
            reader.read_wstr(address, 0x40, strict=False)
            try:
                reader.read_u64(address)
            except kdmp.KdmpError as exc:
                assert str(exc)
    return "used"


def peak():
    """The most memory this process has ever had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def hammer(paths, count, seed):
    """Run in a process of its own: print what happened as JSON."""
    rng = random.Random(seed)
    images = []
    for path in paths:
        data = bytearray(Path(path).read_bytes())
        images.append((data, places(data)))
        assert use(data) == "used"
    before, slowest, outcomes = peak(), 0.0, {}
    for number in range(count):
        data, groups = images[number % len(images)]
        undo = mutate(rng, data, groups)
        cut = rng.choice((0x2000, 0x2080, 0x10000, len(data))) if rng.random() < 0.1 else len(data)
        source = (
            memoryview(data)[: rng.randrange(cut // 2, cut)]
            if cut < len(data) or rng.random() < 0.05
            else data
        )
        start = time.process_time()
        try:
            outcome = use(source, drivers=number // len(images) % 3 == 0)
        except BaseException as exc:
            kept = Path(os.environ.get("TMPDIR", "/tmp"), f"kdmp-triage-mutation-{number}.dmp")
            kept.write_bytes(source)
            raise AssertionError(f"mutation {number} of seed {seed}, kept as {kept}: {exc!r}") from exc
        slowest = max(slowest, time.process_time() - start)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        for offset, old in undo:
            data[offset : offset + len(old)] = old
    print(json.dumps({"slowest": slowest, "growth": peak() - before, "outcomes": outcomes}))


def run(paths, count, seed):
    here = Path(__file__).resolve().parent
    code = f"import test_triage_damage as t; t.hammer({[str(path) for path in paths]!r}, {count}, {seed})"
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code],
        cwd=here,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(here), *sys.path])},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def test_ten_thousand_mutations():
    """Neither a crash nor a hang nor memory in proportion to a claim, whatever a field says."""
    result = run([shareddata.unpack("triage", f"{name}.dmp.xz") for name in TRIAGE], MUTATIONS, SEED)
    assert sum(result["outcomes"].values()) == MUTATIONS
    assert result["outcomes"]["used"] > MUTATIONS // 2, result
    assert result["outcomes"]["refused"] > MUTATIONS // 50, result
    sanitized = kdmp.build_info()["sanitize"]
    assert result["slowest"] < SECONDS_PER_CASE * (10 if sanitized else 1), result
    if not sanitized:  # a sanitizer keeps freed memory on purpose
        assert result["growth"] < MEMORY_GROWTH, result


# ---- a small one ----

BLOCKS = [(BASE, bytes(range(64))), (BASE + 64, b"adjacent" * 4), (BASE - 0x1000, b"below" * 9)]


def small(bits=64):
    base = BASE if bits == 64 else 0x8000_0000
    kdbg = bytearray(0x380)
    kdbg[0x10:0x14] = b"KDBG"
    for offset, value in ((0x2A0, 0x20), (0x2A8, 0x30), (0x2B0, 0x20), (0x2B4, 8), (0x2C0, 0x30)):
        struct.pack_into("<H", kdbg, offset, value)
    out = io.BytesIO()
    write_triage(
        out,
        header={
            "minor_version": 19041, "number_processors": 2, "bug_check_code": 0xD1,
            "kd_debugger_data_block": base + 0x10000, "machine_image_type": 0x8664 if bits == 64 else 0x14C,
        },
        mm=bytes(0x50 if bits == 64 else 0x34),
        unloaded=[("gone.sys", base, base + 0x1000)],
        prcb=struct.pack("<QQ", 0, base + 0x20000) + bytes(16),
        process=b"E" * 0x30,
        thread=b"T" * 0x20 + (base + 0x30000).to_bytes(8, "little") + b"T" * 8,
        stack=(base + 0x5000, b"stack" * 20),
        debugger_data=kdbg,
        drivers=[("\\SystemRoot\\system32\\ntoskrnl.exe", base, 0x1000, 1, 2), ("hal.dll", base, 1, 2, 3)],
        data_blocks=[(address - BASE + base, data) for address, data in BLOCKS],
        data_page=(base + 0x7000, b"page" * 16),
        blobs=[(UUID(int=0), b""), (UUID(int=5), b"secondary data")],
    )  # fmt: skip
    return out.getvalue()


@pytest.mark.parametrize("bits", [64, 32])
def test_every_prefix(bits):
    """Too short for the triage header: refused. Longer: opens, and what reads is right."""
    image = small(bits)
    known = 0x2080 if bits == 64 else 0x1068
    whole = kdmp.open(image)
    ranges, reader = whole.ranges, whole.reader()
    contents = [reader.read_exact(r.address, r.size) for r in ranges]
    assert len(ranges) == len(BLOCKS) + 5
    for size in range(len(image) + 1):
        cut = image[:size]
        if size < known:
            with pytest.raises(kdmp.FormatError) as caught:
                kdmp.open(cut)
            assert caught.value.offset <= size
            continue
        assert use(cut) == "used"
        with kdmp.open(cut) as dump:
            reader = dump.reader()
            kept = dump.ranges
            assert all(r.file_offset < size for r in kept)
            for r, data in zip(ranges, contents, strict=True):
                if r not in kept:
                    continue
                there = min(r.size, size - r.file_offset)
                assert reader.read(r.address, r.size) == data[:there]
                if there < r.size:
                    with pytest.raises(kdmp.PartialReadError) as caught:
                        reader.read_exact(r.address, r.size)
                    assert type(caught.value.reason) is kdmp.TruncatedError, size
    assert len(kept) == len(ranges)


@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize("value", VALUES)
def test_every_field_with_every_value(bits, value):
    """Each number of the triage header alone: the mutations above may miss a pair."""
    image, start = small(bits), 0x2000 if bits == 64 else 0x1000
    outcomes = set()
    for offset in range(start, start + (0x80 if bits == 64 else 0x68), 4):
        for size in (4, 8):
            changed = bytearray(image)
            changed[offset : offset + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
            outcomes.add(use(changed))
    assert "used" in outcomes and outcomes <= {"used", "refused"}


def test_two_to_the_32_blocks_are_not_believed():
    """R4: nothing is allocated for a count that the file has no room for."""
    image = bytearray(small())
    struct.pack_into("<I", image, 0x207C, 0xFFFF_FFFF)
    before = peak()
    with kdmp.open(image) as dump:
        assert len(dump.ranges) < len(image)
    assert peak() - before < 16 << 20


def test_blob_chains_that_do_not_advance():
    image = bytearray(small())
    at = struct.unpack_from("<I", image, 0x2004)[0] + 0x10
    struct.pack_into("<I16xIII", image, at, 0x20, 0xFFFF_FFE0, 0, 0)
    with kdmp.open(image) as dump:
        assert [(b.truncated, len(b.read(dump))) for b in dump.blobs()] == [(True, len(image) - at - 0x20)]
    struct.pack_into("<I", image, at, 0)
    with kdmp.open(image) as dump:
        assert list(dump.blobs()) == []


def test_a_long_chain_of_empty_blobs_ends():
    image = small()
    end = struct.unpack_from("<I", image, 0x2004)[0]
    chain = image[: end + 0x10] + struct.pack("<I16xIII", 0x20, 0, 0, 0) * 0x18000
    start = time.process_time()
    with kdmp.open(chain) as dump:
        count = sum(1 for _ in dump.blobs())
    assert 0 < count <= 0x10000
    assert time.process_time() - start < 2
