"""Finding the kernel's image, and reading what it is from PE headers that may be anything.

SPDX-License-Identifier: MIT
"""

import io
import random
import time

import pytest
import shareddata

import kdmp
import kdmp.sample
from kdmp.windows.kernel import find_kernel
from kdmp.windows.pe import ImageIdentity, identify

MACHINES = ("win10-19041", "win7-7601", "win10-19041-damaged", "win11-22000-pti")
PAGE = 0x1000


class FlatReader:
    """Memory of one image: all that `identify` needs of a reader."""

    def __init__(self, base, content):
        self.base, self.content = base, content

    def read(self, va, size):
        start = va - self.base
        return self.content[start : start + size] if start >= 0 else b""

    def try_read_exact(self, va, size):
        data = self.read(va, size)
        return data if len(data) == size else None


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    path = tmp_path_factory.mktemp("kernel") / "sample.dmp"
    kdmp.sample.build(path)
    with kdmp.open(path) as dump:
        yield dump


@pytest.fixture(scope="module")
def image(sample):
    """The first pages of the sample's kernel, enough for headers and the debug directory."""
    base = sample.kernel.base
    return base, sample.reader().read_gaps(base, 0x40 * PAGE)[0]


@pytest.mark.parametrize("machine", MACHINES)
def test_machines(machine):
    truth = shareddata.truth(machine)
    for kind in (kind for kind in truth["files"].values() if isinstance(kind, str)):
        with kdmp.open(shareddata.machine_dump(machine, kind)) as dump:
            kernel = dump.kernel
            assert (kernel.base, kernel.image.size) == (truth["kernel_base"], truth["kernel_size"])
            assert (kernel.image.pdb, kernel.image.guid, kernel.image.age) == (
                truth["pdb"]["name"], truth["pdb"]["guid"], truth["pdb"]["age"],
            )  # fmt: skip
            assert kernel.how == ("module list" if truth["kdbg"]["encoded"] else "kdbg")


def test_keys_of_symbol_servers():
    known = ImageIdentity(0, 0x8664, 0x1046000, 0x0D8333E6, 0, "ntkrnlmp.pdb", "AB" * 16, 0x1F)
    assert (known.image_id, known.symbol_id) == ("0D8333E61046000", "AB" * 16 + "1F")
    assert ImageIdentity(0, 0, 0, 0, 0).symbol_id is None


def test_plain_headers_are_read(sample, image):
    assert identify(FlatReader(*image), image[0]) == sample.kernel.image


def test_every_cut_gives_less_or_nothing(sample, image):
    base, content = image
    whole = identify(FlatReader(base, content), base)
    for size in [*range(0x400), *range(0x400, len(content), 509)]:
        got = identify(FlatReader(base, content[:size]), base)
        assert got is None or (got.size, got.timestamp) == (whole.size, whole.timestamp)


def test_mutations_never_raise(image):
    base, content = image
    rng = random.Random(20)
    places = [n for n, byte in enumerate(content) if byte][:4000]
    seen = set()
    for _ in range(4000):
        bad = bytearray(content)
        for _ in range(rng.randint(1, 6)):
            where = rng.choice(places)
            width = rng.choice((1, 2, 4))
            bad[where : where + width] = rng.choice((b"\0", b"\xff", bytes([rng.randrange(256)]))) * width
        start = time.perf_counter()
        got = identify(FlatReader(base, bytes(bad)), base)
        assert time.perf_counter() - start < 1
        assert got is None or (got.base == base and (got.pdb is None) == (got.guid is None))
        seen.add((got is None, getattr(got, "pdb", None) is None))
    assert len(seen) > 1  # some still open, some do not


def test_scan_is_bounded_and_finds_the_header(sample):
    assert find_kernel(sample) == sample.kernel
    header = dict(sample.header) | {"kd_debugger_data_block": None, "ps_loaded_module_list": None}
    runs = list(sample.pages.runs())

    target = io.BytesIO()
    with kdmp.DumpWriter(target, 5, runs, header=header) as writer:
        for run in runs:
            for pfn in range(run.pfn, run.pfn + run.count):
                writer.write(pfn, bytes(sample.pages[pfn]))
    with kdmp.open(target.getvalue()) as dump:
        found = find_kernel(dump)
        assert (found.how, found.image) == ("scan", sample.kernel.image)
        assert find_kernel(dump, max_back=0) is None
