"""Finding the kernel's image, and reading what it is from PE headers that may be anything.

SPDX-License-Identifier: MIT
"""

import io
import random
import struct
import time

import archtables
import dumpbuilder
import patcheddump
import pebuilder
import pytest
import shareddata
from patcheddump import ABSENT, RIP, RSP, Patched

import kdmp
import kdmp.sample
from kdmp.windows.kdbg import find_kdbg
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
            assert kernel.how == ("encoded kdbg" if truth["kdbg"]["encoded"] else "kdbg")


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
        start = time.process_time()
        got = identify(FlatReader(base, bytes(bad)), base)
        assert time.process_time() - start < 1
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


# ---- the ways, one after the other: what is better is blanked out


class Blanked(Patched):
    """A machine's dump from which the better ways to the kernel are taken."""

    def __init__(self, machine, kind="full"):
        super().__init__(shareddata.machine_dump(machine, kind))
        self.truth = shareddata.truth(machine)
        self.wide = self.truth["build"] >= 10240
        self.header("context", bytes(8), RIP)
        self.header("context", bytes(8), RSP)

    def without_kdbg(self):
        self.header("kd_debugger_data_block", ABSENT)
        return self

    def without_base(self):
        """A debugger data block that names no base, plain."""
        known = self.truth["kdbg"]
        data = bytearray(known["size"])
        with kdmp.open(bytes(self.image)) as dump:
            data[:] = find_kdbg(dump).raw
        data[0x18:0x20] = bytes(8)
        self.put(known["address"], bytes(data))
        return self

    def without_modules(self):
        """A module list whose head leads nowhere."""
        self.put_u64(self.truth["symbols"]["PsLoadedModuleList"], 0)
        return self

    def special(self, offset, value):
        """Overwrite a special register of every processor."""
        for cpu in self.truth["cpus"]:
            self.put_u64(
                cpu["kprcb"] + self.truth["kdbg"]["values"]["OffsetPrcbProcStateSpecialReg"] + offset, value
            )

    def found(self, **arguments):
        with self.open() as dump:
            kernel = find_kernel(dump, **arguments)
        if kernel is not None and kernel.how != "module entry":
            assert kernel.image == self.kernel.image
        return kernel and kernel.how


@pytest.mark.parametrize("machine", MACHINES)
def test_each_way_leads_there(machine):
    assert Blanked(machine).without_kdbg().found() == "module list"

    patch = Blanked(machine).without_base().without_modules()
    assert patch.found() == "system call entry"  # KiSystemCall64Shadow where there is one
    patch.special(0xC0, 0)
    assert patch.found() == "interrupt handler"
    patch.special(0x68, 0)
    assert patch.found() == "scan"  # from pointers in the header
    patch.header("context", patch.truth["cpus"][0]["idt_handlers"][14] + 3, RIP)
    assert patch.found() == "context"
    patch.header("context", 0x7FF6_0000_1000, RIP)
    assert patch.found() == "scan"  # a user address is no anchor
    stack = patch.truth["cpus"][0]["registers"]["rsp"]
    patch.put_u64(stack + 0x18, patch.truth["cpus"][0]["idt_handlers"][3] + 7)
    patch.header("context", stack, RSP)
    assert patch.found() == "stack"
    assert patch.found(max_back=0) is None


def test_shadow_of_kernel_addresses():
    """D8, F19: with KVA shadow LSTAR is KiSystemCall64Shadow; the base is right all the same."""
    truth = shareddata.truth("win11-22000-pti")
    assert truth["cpus"][0]["syscall"] == "KiSystemCall64Shadow"
    assert Blanked("win11-22000-pti").without_base().without_modules().found() == "system call entry"


@pytest.mark.parametrize(
    "field", ["ps_active_process_head", "ps_loaded_module_list", "kd_debugger_data_block"]
)
@pytest.mark.parametrize("machine", MACHINES)
def test_each_header_pointer_is_an_anchor(machine, field):
    patch = Blanked(machine).without_modules()
    anchor = {
        "ps_active_process_head": "PsActiveProcessHead",
        "ps_loaded_module_list": "PsLoadedModuleList",
        "kd_debugger_data_block": "KdDebuggerDataBlock",
    }
    patch.put(patch.truth["kdbg"]["address"], bytes(0x400))
    for other in set(anchor) - {field}:
        patch.header(other, ABSENT)
    assert patch.found() == "scan"
    assert patch.found(max_back=patch.truth["symbols"][anchor[field]] - patch.truth["kernel_base"]) == "scan"
    assert (
        patch.found(max_back=patch.truth["symbols"][anchor[field]] - patch.truth["kernel_base"] - 0x1000)
        is None
    )


@pytest.mark.parametrize("pointer", [0, 1, 0xFFF, 0x1FFFFFF, 1 << 47, (1 << 64) - 1, 0xFFFF800000000000])
def test_anchors_at_the_ends_of_memory(pointer):
    """D9: 32 MiB below a small address is no address; nothing wraps."""
    patch = Blanked("win10-19041").without_modules()
    patch.put(patch.truth["kdbg"]["address"], bytes(0x400))
    for field in ("ps_active_process_head", "ps_loaded_module_list", "kd_debugger_data_block"):
        patch.header(field, pointer)
    assert patch.found() is None
    patch.header("context", pointer, RIP)
    patch.header("context", pointer, RSP)
    assert patch.found() is None


def codeview(machine):
    """Where the CodeView record of the kernel is."""
    with kdmp.open(shareddata.machine_dump(machine, "full")) as dump:
        reader, base = dump.reader(), dump.kernel.base
        for va in range(base, base + dump.kernel.image.size, PAGE):
            place = reader.read(va, PAGE).find(b"RSDS")
            if place >= 0:
                return va + place
    raise AssertionError


def test_ages_are_not_masked():
    """D10, F20."""
    patch = Patched(shareddata.machine_dump("win10-19041", "full"))
    patch.put(codeview("win10-19041") + 20, struct.pack("<I", 0x12345))
    with patch.open() as dump:
        assert dump.kernel.image.age == 0x12345
        assert dump.kernel.image.symbol_id.endswith("12345")


def test_an_image_that_is_no_kernel():
    patch = Patched(shareddata.machine_dump("win10-19041", "full"))
    patch.put(codeview("win10-19041") + 0x18, b"ntfs.pdb\0\0\0\0\0")  # begins with "nt", too
    with patch.open() as dump:
        # The loader's list still says where it is; PE headers are not what it is known by then.
        assert find_kernel(dump).how == "module entry"
        assert find_kernel(dump).image.guid is None


@pytest.mark.parametrize("kind", ["full", "kernel"])
@pytest.mark.parametrize("machine", MACHINES)
def test_headers_that_are_not_in_the_dump(machine, kind):
    truth = shareddata.truth(machine)
    patch = Patched(shareddata.machine_dump(machine, kind))
    patch.unmap(truth["kernel_base"])
    first = truth["modules"][0]
    with patch.open() as dump:
        kernel = dump.kernel
        assert kernel.how == "module entry"
        assert (kernel.base, kernel.image.size) == (truth["kernel_base"], truth["kernel_size"])
        assert kernel.image.checksum == first["checksum"]
        assert kernel.image.timestamp == (first["timestamp"] if truth["build"] >= 10240 else 0)
        assert kernel.image.pdb is None


def test_damaged_headers_never_raise():
    rng = random.Random(7)
    plain = Patched(shareddata.machine_dump("win11-22000-pti", "kernel"))
    found = set()
    for _ in range(120):
        image = bytearray(plain.image)
        for _ in range(rng.randint(1, 12)):
            at = rng.choice(
                (rng.randrange(0x10, 0xA0), rng.randrange(0x348, 0x900), *patcheddump.HEADER.values())
            )
            image[at : at + 8] = rng.choice(
                (bytes(8), b"\xff" * 8, ABSENT, rng.randbytes(8), rng.randbytes(4))
            )[:8]
        start = time.process_time()
        try:
            with kdmp.open(bytes(image)) as dump:
                kernel = find_kernel(dump)
                assert kernel is None or kernel.base == plain.kernel.base
                found.add(kernel and kernel.how)
        except kdmp.KdmpError:
            pass
        assert time.process_time() - start < 2
    assert len(found) > 1


# ---- 32 bits

X86_BASE, X86_DATA = 0x8045_0000, 0x8060_0000
ENTRY, PRCB, IDT = X86_DATA + 0x800, X86_DATA + 0xA00, X86_DATA + 0xC00


def x86_dump(paging, without=(), **header):
    """A 32-bit kernel: image, module list, KDBG, KPRCB, IDT; `without` names what is blank."""
    content = pebuilder.image(wide=False, pdb=b"ntkrpamp.pdb")
    memory = dumpbuilder.Memory()
    root = 0x1020 if paging == "pae" else 0x1000
    tables = archtables.ArchTables(memory, paging, root=root)
    for number in range(0, len(content), PAGE):
        if not (number == 0 and "headers" in without):
            tables.map(X86_BASE + number, 0x40000 + number)
        memory.put(0x40000 + number, content[number : number + PAGE])
    tables.map(X86_DATA, 0x30000)

    def put(va, layout, *values):
        memory.put(0x30000 + va - X86_DATA, struct.pack(layout, *values))

    def extended(va):
        return va | 0xFFFFFFFF00000000

    kdbg = bytearray(0x340)
    kdbg[0x10:0x18] = b"KDBG" + struct.pack("<I", 0x340)
    struct.pack_into("<Q", kdbg, 0x18, 0 if "base" in without else extended(X86_BASE))
    struct.pack_into("<Q", kdbg, 0x218, extended(X86_DATA + 0x10))
    struct.pack_into("<H", kdbg, 0x2F2, 0x20)
    if "kdbg" not in without:
        put(X86_DATA + 0x400, f"{len(kdbg)}s", bytes(kdbg))
    put(X86_DATA + 0x10, "<I", PRCB)
    if "idt" not in without:
        put(PRCB + 0x20 + 0x34, "<I", IDT)
        put(IDT + 3 * 8, "<HHHH", (X86_BASE + 0x1234) & 0xFFFF, 8, 0x8E00, X86_BASE + 0x1234 >> 16)
    head = X86_DATA + 0x100
    put(head, "<II", *((0, 0) if "modules" in without else (ENTRY, ENTRY)))
    put(ENTRY, "<II", head, head)
    put(ENTRY + 0x18, "<III", X86_BASE, X86_BASE + 0x1010, len(content))
    put(ENTRY + 0x2C, "<HHI", 24, 26, X86_DATA + 0x200)
    put(ENTRY + 0x40, "<I", 0xABCDE)
    put(X86_DATA + 0x200, "24s", "NTOSKRNL.exe".encode("utf-16-le"))
    facts = {
        "minor_version": 7601, "number_processors": 1, "ps_loaded_module_list": head,
        "ps_active_process_head": X86_DATA + 0x180, "kd_debugger_data_block": X86_DATA + 0x400,
    } | header  # fmt: skip
    return kdmp.open(archtables.dump(memory.pages, paging, root, 1, **facts))


@pytest.mark.parametrize("paging", ["pae", "x86"])
def test_32_bit_kernels(paging):
    ways = [
        ((), "kdbg"),
        (("base",), "module list"),
        (("base", "modules"), "interrupt handler"),
        (("base", "modules", "idt"), "scan"),
        (("kdbg", "modules"), "scan"),
        (("headers",), "module entry"),
        (("headers", "kdbg"), "module entry"),
        (("headers", "modules"), None),
    ]
    for without, how in ways:
        with x86_dump(paging, without) as dump:
            found = find_kernel(dump)
            assert (found and found.how) == how, without
            if found is not None:
                assert (found.base, found.image.size, found.image.machine) == (
                    X86_BASE,
                    pebuilder.SIZE,
                    0x14C,
                )
                assert found.image.checksum == 0xABCDE
                assert found.image.pdb == (None if how == "module entry" else "ntkrpamp.pdb")
            kdbg = find_kdbg(dump)
            assert kdbg is None or kdbg.KiProcessorBlock == X86_DATA + 0x10
    with x86_dump(paging, ("base", "modules", "idt"), ps_loaded_module_list=0x1000) as dump:
        assert find_kernel(dump, max_back=X86_DATA - X86_BASE).how == "scan"
        assert find_kernel(dump, max_back=X86_DATA - X86_BASE - PAGE) is None


@pytest.mark.parametrize("machine", shareddata.MACHINES)
def test_memory_without_a_header_is_searched(machine):
    truth = shareddata.truth(machine)
    with kdmp.open_raw(shareddata.unpack("machines", machine, "memory.raw.xz")) as dump:
        assert (dump.kernel.how, dump.kernel.base) == ("search", truth["kernel_base"])
        assert dump.kernel.image.guid == truth["pdb"]["guid"]
        # With the identity come the symbols, and with them what a header would have named.
        assert dump.windows.layout.exact
        assert dump.windows.symbol("PsActiveProcessHead") == truth["symbols"]["PsActiveProcessHead"]
        assert dump.windows.kdbg.KernBase == truth["kernel_base"]
