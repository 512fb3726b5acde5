"""Many addresses at once against one at a time, with numpy and without, over dumps and overlays.

SPDX-License-Identifier: MIT
"""

import array
import ctypes
import random

import pytest
import shareddata
from archtables import flat, machine
from conftest import KERNEL_VA, small_machine
from hypothesis import given
from hypothesis import strategies as st

import kdmp
from kdmp import many
from kdmp.many import Status

NOTHING = 2**64 - 1


@pytest.fixture(params=["numpy", "plain"], autouse=True)
def arrays(request, monkeypatch):
    """With numpy, and as if it were not installed."""
    if request.param == "numpy":
        pytest.importorskip("numpy")
    else:
        monkeypatch.setattr(many, "_numpy", lambda: None)
    return request.param


@pytest.fixture(scope="module")
def reader():
    return kdmp.open(small_machine().dump()).reader(dtb=0x1000, paging="x64")


ERRORS = {
    kdmp.NotPresentError: Status.NOT_PRESENT,
    kdmp.NotInDumpError: Status.NOT_IN_DUMP,
    kdmp.TruncatedError: Status.TRUNCATED,
    kdmp.NonCanonicalError: Status.NON_CANONICAL,
    kdmp.BadEntryError: Status.BAD_ENTRY,
    kdmp.AddressEndError: Status.ADDRESS_END,
}


def one_translation(reader, va):
    try:
        return reader.translate(va).pa, 0
    except kdmp.UnreadableError as error:
        return NOTHING, ERRORS[type(error)]


def one_read(reader, va, size):
    try:
        return reader.read_exact(va, size), 0
    except kdmp.PartialReadError as error:
        return error.data.ljust(size, b"\0"), ERRORS[type(error.reason)]
    except kdmp.UnreadableError as error:
        return bytes(size), ERRORS[type(error)]


def check(reader, addresses, size=24):
    pas, statuses = reader.translate_many(addresses)
    expected = [one_translation(reader, va) for va in addresses]
    assert list(zip(map(int, pas), map(int, statuses), strict=True)) == expected
    data, statuses = reader.read_many(addresses, size)
    flat = bytes(data)
    rows = [flat[k * size : (k + 1) * size] for k in range(len(addresses))]
    expected = [one_read(reader, va, size) for va in addresses]
    assert list(zip(rows, map(int, statuses), strict=True)) == expected


def test_every_way_to_fail(reader):
    pages = [KERNEL_VA + 0x1000 * k for k in range(-2, 7)]
    ends = [va + offset for va in pages for offset in (0, 1, 0xFE8, 0xFF0, 0xFFF)]
    check(reader, [*ends, 0, 1 << 47, 2**64 - 1, 2**64 - 8, 0x123456789])


@given(
    st.lists(st.integers(KERNEL_VA - 0x2000, KERNEL_VA + 0x6000) | st.integers(0, 2**64 - 1), max_size=80),
    st.sampled_from([1, 2, 8, 100, 5000]),
)
def test_random_addresses(reader, addresses, size):
    check(reader, addresses, size)


@pytest.mark.parametrize("paging", ["x86", "pae", "x64", "la57", "arm64"])
def test_every_paging_mode(paging):
    memory, tables = machine(paging)
    with kdmp.open_raw(flat(memory)) as dump:
        space = dump.reader(dtb=tables.root, paging=paging)
        mapped = list(space.mappings())[:50]
        rng = random.Random(7)
        addresses = [m.start + rng.randrange(m.size) for m in mapped for _ in range(3)]
        addresses += [rng.getrandbits(64) for _ in range(50)]
        check(space, addresses, 8)


@pytest.mark.parametrize("kind", shareddata.KINDS)
def test_machines(kind):
    truth = shareddata.truth("win10-19041")
    with kdmp.open(shareddata.machine_dump("win10-19041", kind)) as dump:
        for dtb in {sample["dtb"] for sample in truth["ptes"]}:
            space = dump.reader(dtb=dtb)
            check(space, [sample["va"] for sample in truth["ptes"] if sample["dtb"] == dtb], 16)


def test_physical_and_triage_readers():
    with kdmp.open(small_machine().dump()) as dump:
        check(dump.phys, [0, 0x1000, 0x1FF0, 0x20000, 0x99000, 2**63])
    with kdmp.open(shareddata.unpack("triage", "rtech_d1.dmp.xz")) as dump:
        starts = [one.address for one in dump.ranges][:40]
        data, statuses = dump.reader().read_many([*starts, 0x1000], 8)
        assert [int(status) for status in statuses] == [0] * len(starts) + [Status.NOT_IN_DUMP]
        rows = bytes(data)
        assert all(rows[8 * k : 8 * k + 8] == dump.reader().read_exact(va, 8) for k, va in enumerate(starts))


def test_an_overlay_is_seen(reader):
    with kdmp.open(small_machine().dump()) as dump, dump.overlay() as overlay:
        space = overlay.reader(dtb=0x1000, paging="x64")
        space.write_u64(KERNEL_VA + 8, 0x1122334455667788)
        assert int(space.read_u64_many([KERNEL_VA + 8]).values[0]) == 0x1122334455667788
        entry = space.translate(KERNEL_VA).entries[-1]
        overlay.write_u64(kdmp.phys(entry.pa), 0)
        check(space, [KERNEL_VA, KERNEL_VA + 0x1000])


@pytest.mark.parametrize(
    "make",
    [
        list,
        tuple,
        iter,
        lambda values: array.array("Q", values),
        lambda values: memoryview(array.array("Q", values)),
        lambda values: memoryview(array.array("Q", [0, *values]))[1:],
    ],
)
def test_what_addresses_may_be(reader, make):
    values = [KERNEL_VA, KERNEL_VA + 0x2000, KERNEL_VA + 0x1008]
    got = reader.translate_many(make(values))
    assert [int(pa) for pa in got.pa] == [one_translation(reader, va)[0] for va in values]


def test_numpy_arrays_of_any_stride(reader, arrays):
    numpy = pytest.importorskip("numpy")
    values = numpy.array([KERNEL_VA, 1, KERNEL_VA + 0x1000, 2], numpy.uint64)
    if arrays == "plain":
        return
    got = reader.translate_many(values[::2])
    assert isinstance(got.pa, numpy.ndarray)
    assert got.pa.dtype == numpy.uint64
    assert list(got.status) == [0, 0]
    assert reader.read_many(values, 16).data.shape == (4, 16)
    with pytest.raises(TypeError, match="float64"):
        reader.translate_many(numpy.zeros(3))


def test_buffers_of_any_shape(reader):
    """Rows of addresses, and a single one, are the addresses in them."""
    flat = array.array("Q", [KERNEL_VA, 1, KERNEL_VA + 0x1000, 2])
    rows = memoryview(flat.tobytes()).cast("Q", (2, 2))
    assert list(reader.translate_many(rows).pa) == list(reader.translate_many(flat).pa)
    here = reader.translate(KERNEL_VA).pa
    for one in (
        ctypes.c_uint64(KERNEL_VA),
        (ctypes.c_uint64 * 1)(KERNEL_VA),
        (ctypes.c_int64 * 1)(KERNEL_VA),
    ):
        assert list(reader.translate_many(one).pa) == [here]
    for wrong in (ctypes.c_double(1), (ctypes.c_uint64.__ctype_be__ * 1)(KERNEL_VA), ctypes.c_void_p(1)):
        with pytest.raises(TypeError):
            reader.translate_many(wrong)


def test_rows_of_nothing(reader):
    got = reader.read_many([KERNEL_VA, 1], 0)
    assert list(got.status) == [0, 0]
    assert memoryview(got.data).nbytes == 0
    if many._numpy():
        assert got.data.shape == (2, 0)


def test_what_addresses_may_not_be(reader):
    with pytest.raises(TypeError):
        reader.translate_many(array.array("I", [1, 2]))
    with pytest.raises((TypeError, OverflowError)):
        reader.translate_many([-1])
    with pytest.raises(TypeError):
        reader.translate_many(["text"])
    with pytest.raises(ValueError, match="negative"):
        reader.read_many([1], -1)
    with pytest.raises(MemoryError):
        reader.read_many([1, 2], 1 << 62)
    assert list(reader.translate_many([]).pa) == []
    assert bytes(reader.read_many([], 8).data) == b""
    assert [int(s) for s in reader.read_many([KERNEL_VA, 5], 0).status] == [0, 0]


def test_buffers_must_fit(reader):
    three, two = array.array("Q", [1, 2, 3]), array.array("Q", [1, 2])
    status = bytearray(3)
    with pytest.raises(ValueError, match="too small"):
        reader.translate_into(three, two, status)
    with pytest.raises(ValueError, match="too small"):
        reader.translate_into(three, array.array("Q", [0] * 3), bytearray(2))
    with pytest.raises(BufferError):
        reader.translate_into(three, bytes(24), status)
    with pytest.raises(ValueError, match="items of 8 bytes"):
        reader.translate_into(b"1234567", two, status)
    with pytest.raises(ValueError, match="align"):
        reader.translate_into(memoryview(bytearray(17))[1:], memoryview(bytearray(16)), status)
    with pytest.raises(ValueError, match="too small"):
        reader.read_many_into(three, 9, bytearray(24), status)


def test_threads_share_the_work(reader):
    rng = random.Random(3)
    addresses = array.array("Q", (KERNEL_VA + rng.randrange(0x4000) for _ in range(70000)))
    alone, shared = reader.translate_many(addresses), reader.translate_many(addresses, threads=4)
    assert bytes(alone.pa) == bytes(shared.pa)
    assert bytes(alone.status) == bytes(shared.status)
    alone, shared = reader.read_many(addresses, 8), reader.read_many(addresses, 8, threads=4)
    assert bytes(alone.data) == bytes(shared.data)


def test_a_closed_dump():
    dump = kdmp.open(small_machine().dump())
    space = dump.reader(dtb=0x1000, paging="x64")
    dump.close()
    with pytest.raises(ValueError, match="closed"):
        space.translate_many([1])
    with pytest.raises(ValueError, match="closed"):
        space.read_many([1], 8)


def test_a_field_of_many_structures():
    truth = shareddata.truth("win10-19041")
    processes = truth["processes"]
    with kdmp.open(shareddata.machine_dump("win10-19041", "full")) as dump:
        space = dump.reader()
        addresses = [p["eprocess"] for p in processes]
        pids = space.gather("_EPROCESS", "UniqueProcessId", [*addresses, 0x1000])
        assert [int(value) for value in pids.values] == [p["pid"] for p in processes] + [0]
        assert [int(status) for status in pids.status] == [0] * len(processes) + [Status.NOT_PRESENT]
        roots = space.gather("_EPROCESS", "Pcb.DirectoryTableBase", addresses)
        assert [int(value) for value in roots.values] == [p["dtb"] for p in processes]
        bits = space.gather("_EPROCESS", "Wow64VaSpace4Gb", addresses)
        assert {int(value) for value in bits.values} <= {0, 1}
        signed = space.gather("_EPROCESS", "ExitStatus", addresses)
        assert [int(value) for value in signed.values] == [
            space.read_i32(p + dump.windows.layout.offset("_EPROCESS", "ExitStatus")) for p in addresses
        ]
        names = space.gather("_EPROCESS", "ImageFileName", addresses)
        first = bytes(names.values)[:15]
        assert first.rstrip(b"\0").decode() == processes[0]["image_file_name"]
        with pytest.raises(kdmp.KdmpError):
            space.gather("_EPROCESS", "Nothing", addresses)


@pytest.mark.compiles
def test_statuses_are_the_cores(core):
    for status in Status:
        name = core.ffi.string(core.lib.kdmp_status_name(int(status))).decode()
        expected = {"OK": "KDMP_OK", "OS_ERROR": "KDMP_E_OS"}.get(status.name, f"KDMP_E_{status.name}")
        assert name == expected


def test_addresses_in_the_best_form():
    assert [int(va) for va in many.as_addresses(iter([1, 2**64 - 1]))] == [1, 2**64 - 1]
