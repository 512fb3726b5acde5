"""Damaged files: every prefix of a dump of each kind, and ten thousand mutations of the rest.

SPDX-License-Identifier: MIT
"""

import json
import os
import random
import struct
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import pytest
from dumpbuilder import (
    ALL_KINDS,
    BITMAP,
    FULL,
    KB4,
    L1TF,
    MB2,
    RANGES8,
    SUMMARY,
    TRANSITION,
    Memory,
    P,
    Tables,
    U,
    W,
    build,
    stamp,
)

import kdmp

MUTATIONS = 10_000
SEED = 20_240_229
SECONDS_PER_CASE = 1.0
MEMORY_GROWTH = 64 << 20

FILLER32, FILLER64 = 0x45474150, 0x4547415045474150


def metadata_end(kind, image):
    """File offset behind the last byte that says where pages are."""
    if kind == FULL:
        return 0x2000
    if kind == SUMMARY:
        return 0x2028 + (struct.unpack_from("<I", image, 0x2010)[0] + 7) // 8
    if kind in (BITMAP, 6, 7):
        return 0x2038 + (struct.unpack_from("<Q", image, 0x2030)[0] + 7) // 8
    return 0x2020 + struct.unpack_from("<Q", image, 0x2010)[0]


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_every_prefix(kind):
    """Too short to know the pages: refused. Long enough: opens, and what reads is right."""
    pages = {1: stamp(1), 2: stamp(2), 9: stamp(9)}
    image = build(kind, pages)
    first_page = len(image) - len(pages) * KB4
    known = metadata_end(kind, image)
    assert known <= first_page
    for size in range(len(image) + 1):
        cut = image[:size]
        if size < known:
            with pytest.raises(kdmp.FormatError) as caught:
                kdmp.open(cut)
            assert caught.value.offset <= size, size
            continue
        with kdmp.open(cut) as dump:
            stored = max(size - first_page, 0) // KB4
            assert (dump.truncated, len(dump.pages)) == (len(pages) - stored, stored), size
            if size % KB4 < 2 or size % 509 == 0:
                assert [(pfn, bytes(dump.pages[pfn])) for pfn in dump.pages] == list(pages.items())[:stored]
                data, gaps = dump.phys.read_gaps(0x1000, 0x2000)
                assert data == b"".join(stamp(k) if k <= stored else bytes(KB4) for k in (1, 2))
                assert [type(gap.reason) for gap in gaps] == [kdmp.TruncatedError] * (stored < 2)


@pytest.mark.parametrize("how", ["map", "read"])
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_prefixes_of_a_file(tmp_path, kind, how):
    """The same through a file: a cut mapping must not be touched behind its end."""
    image = build(kind, {1: stamp(1), 2: stamp(2), 9: stamp(9)})
    path = tmp_path / "image.dmp"
    path.write_bytes(image)
    first_page = len(image) - 3 * KB4
    for size in sorted(
        {*range(0, len(image), 977), first_page - 1, first_page, len(image) - 1}, reverse=True
    ):
        os.truncate(path, size)
        try:
            dump = kdmp.open(path, io=how)
        except kdmp.FormatError as exc:
            assert size < metadata_end(kind, image)
            assert exc.offset <= size
            continue
        with dump:
            frames = [1, 2, 9][: max(size - first_page, 0) // KB4]
            assert list(dump.pages) == frames
            assert all(bytes(dump.pages[pfn]) == stamp(pfn) for pfn in frames)
            assert dump.phys.read_gaps(0x1000, 0x2000)[0] == b"".join(
                stamp(k) if k in frames else bytes(KB4) for k in (1, 2)
            )


# ---- mutations ----


def seed_images():
    """A dump of each kind: page tables, a large page, a transition page, a string, lists, a context."""
    memory = Memory()
    tables = Tables(memory)
    for page in range(4):
        tables.map(0x7FF0_0000_0000 + page * KB4, 0x30000 + page * KB4)
    tables.map(0x7FF0_0020_0000, 0x20_0000, MB2, P | W | U)
    tables.raw(0x7FF0_0000_5000, 0x31000 | L1TF | TRANSITION | 4 << 5)
    head = 0xFFFF_F800_0000_0100
    tables.map(head & ~0xFFF, 0x34000)
    memory.fill(0x30, 0x31, 0x32, 0x33, 0x200)
    memory.put(0x30FF0, b"a string across two pages\0")
    for link in (head, head + 8):
        memory.put_u64(0x34100 + link - head, head)
    facts = {
        "minor_version": 19041, "number_processors": 2, "bug_check_code": 0xD1,
        "bug_check_parameter1": 0x1234,
        "kd_debugger_data_block": 0xFFFF_F800_0000_0200, "ps_loaded_module_list": head,
        "ps_active_process_head": head, "system_time": 132_579_599_029_877_650, "system_up_time": 37_470_697,
        "comment": "mutate me", "attributes": 0,
    }  # fmt: skip
    return [memory.dump(kind, **facts) for kind in ALL_KINDS]


VALUES = (
    0,
    1,
    2,
    7,
    42,
    43,
    44,
    0x1000,
    0x1FFF,
    0x2000,
    FILLER32,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFF,
    1 << 32,
    (1 << 34) - 1,
    1 << 34,
    1 << 36,
    (1 << 40) - 1,
    1 << 40,
    1 << 45,
    (1 << 52) - 1,
    1 << 52,
    1 << 62,
    1 << 63,
    FILLER64,
    (1 << 64) - 0x1000,
    (1 << 64) - 1,
)
HEADER_FIELDS = (
    0x8, 0xC, 0x10, 0x20, 0x28, 0x30, 0x34, 0x38, 0x80, 0x88, 0x90, 0x98, 0xA0, 0xA8, 0xB0, 0xF98,
    0xFA0, 0xFA8, 0xFB0, 0x1030, 0x1038, 0x1050, 0x348 + 0x30, 0xF00, 0xF18,
)  # fmt: skip
SECONDARY = range(0x2000, 0x2080, 4)


def mutate(rng, image):
    """A copy of `image` with one to four structure-aware changes, perhaps cut."""
    out = bytearray(image)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        where = rng.choice("hhhsssstttb")
        if where == "h":
            offset = rng.choice(HEADER_FIELDS)
        elif where == "s":
            offset = rng.choice(SECONDARY)
        elif where == "t":  # somewhere in the pages, where the tables are
            offset = rng.randrange(0x2080, len(out) - 8) & ~7
        else:
            offset = rng.randrange(len(out) - 8)
        size = rng.choice((1, 4, 4, 8, 8))
        old = int.from_bytes(out[offset : offset + size], "little")
        new = rng.choice(
            (
                rng.choice(VALUES),
                old + 1,
                old - 1,
                old ^ 1 << rng.randrange(8 * size),
                rng.getrandbits(8 * size),
            )
        )
        out[offset : offset + size] = (new & (1 << 8 * size) - 1).to_bytes(size, "little")
    if rng.random() < 0.1:
        del out[rng.randrange(0x1F00, len(out)) :]
    return bytes(out)


FACTS = (
    "kind layout arch build checked_build dtb processors system_time uptime comment version_user machine "
    "ps_loaded_module_list ps_active_process_head kd_debugger_data_block truncated bugcheck context "
    "exception attributes encrypted is_live figures header"
).split()
ADDRESSES = (0, 0x7FF0_0000_0000, 0x7FF0_0000_0FF0, 0x7FF0_0000_5000, 0x7FF0_0020_0000, 0x0000_8000_0000_0000,
             0xFFFF_F800_0000_0100, 0xFFFF_FFFF_FFFF_FFF8)  # fmt: skip


def use(image):
    """Open a file and do what users do. KdmpError is an answer, any other exception is a bug."""
    try:
        dump = kdmp.open(image)
    except kdmp.KdmpError:
        return "refused"
    with dump:
        for name in FACTS:
            getattr(dump, name)
        repr(dump)
        pages = dump.pages
        assert len(pages) * KB4 <= len(image)
        frames = list(islice(pages, 20))
        assert frames == sorted(set(frames))
        for pfn in frames:
            assert pfn in pages
            assert pages[pfn].nbytes == KB4
        list(islice(pages.runs(), 20))
        list(islice(pages[0x20:0x300], 20))
        try:
            spaces = [dump.phys, dump.reader(), dump.reader(paging="la57", invalid_pte_mask=L1TF)]
        except kdmp.KdmpError:
            return "no memory"
        for space in spaces:
            for address in ADDRESSES:
                exercise(space, address)
    return "used"


def exercise(space, address):
    space.try_translate(address)
    data = space.read(address, 0x1800)
    filled, gaps = space.read_gaps(address, 0x1800)
    assert filled.startswith(data) and len(filled) == 0x1800
    assert sum(gap.size for gap in gaps) <= 0x1800
    space.read_cstr_bytes(address, 0x1000, strict=False)
    space.read_wstr(address, 0x800, strict=False)
    for call in (space.read_u64, space.read_unicode_string):
        try:
            call(address)
        except kdmp.KdmpError:  # not there, or a UNICODE_STRING of odd length
            pass


def peak():
    """The most memory this process has ever had, in bytes."""
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def hammer(count, seed):
    """Run in a process of its own: print what happened as JSON."""
    rng = random.Random(seed)
    images = seed_images()
    for image in images:
        assert use(image) == "used"
    before, slowest, outcomes = peak(), 0.0, {}
    for number in range(count):
        image = mutate(rng, rng.choice(images))
        start = time.process_time()
        try:
            outcome = use(image)
        except BaseException as exc:
            Path(os.environ.get("TMPDIR", "/tmp"), f"kdmp-mutation-{number}.dmp").write_bytes(image)
            raise AssertionError(f"mutation {number} of seed {seed}: {exc!r}") from exc
        slowest = max(slowest, time.process_time() - start)
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    print(json.dumps({"slowest": slowest, "growth": peak() - before, "outcomes": outcomes}))


@pytest.mark.skipif(sys.platform == "win32", reason="measures with getrusage()")
def test_ten_thousand_mutations():
    """Neither a crash nor a hang nor memory in proportion to a claim, whatever a field says."""
    here = Path(__file__).resolve().parent
    run = subprocess.run(
        [
            sys.executable,
            "-X",
            "faulthandler",
            "-c",
            f"import test_damage; test_damage.hammer({MUTATIONS}, {SEED})",
        ],
        cwd=here,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(here), *sys.path])},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    result = json.loads(run.stdout)
    assert sum(result["outcomes"].values()) == MUTATIONS
    assert min(result["outcomes"].get(name, 0) for name in ("used", "refused")) > MUTATIONS // 20, result
    sanitized = kdmp.build_info()["sanitize"]
    assert result["slowest"] < SECONDS_PER_CASE * (10 if sanitized else 1), result
    if not sanitized:  # a sanitizer keeps freed memory on purpose
        assert result["growth"] < MEMORY_GROWTH, result


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("kind", [FULL, BITMAP, RANGES8])
def test_every_field_with_every_value(kind, value):
    """Each named field alone, at its full width: the mutations above may miss a pair."""
    image = next(i for i in seed_images() if struct.unpack_from("<I", i, 0xF98)[0] == kind)
    outcomes = set()
    for offset in (*HEADER_FIELDS, *SECONDARY[: 0 if kind == FULL else None]):
        size = 8 if offset in (0x10, 0x90, 0x98, 0xA0, 0xA8, 0xB0) or offset >= 0x2000 else 4
        changed = bytearray(image)
        changed[offset : offset + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        outcomes.add(use(bytes(changed)))
    assert "used" in outcomes
    assert outcomes <= {"used", "no memory", "refused"}
