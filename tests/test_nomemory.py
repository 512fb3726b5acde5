"""Every allocation of the interpreter fails once under each call: MemoryError, and nothing worse.

Runs in a process of its own: the interpreter may not survive what is tested here.

SPDX-License-Identifier: MIT
"""

import subprocess
import sys

import pytest
from conftest import KERNEL_VA

SCRIPT = """
import copy, importlib.util, io, pickle, struct, sys, _imp, _testcapi, kdmp
from kdmp._kdmp import AccessContext, DumpBase, OverlayBase, ReaderBase, _fault_collector

path, name = sys.argv[1:]
image = open(path, "rb").read()
base = {base}
dump = DumpBase(image)
reader = ReaderBase(dump, paging="x64", dtb=0x1000)
target = bytearray(64)
overlay = OverlayBase(dump)
writer = ReaderBase(dump, paging="x64", dtb=0x1000, overlay=overlay)
told = OverlayBase(dump)
told.on_write = lambda reader, address, size, places: places
hooked = ReaderBase(dump, paging="x64", dtb=0x1000, overlay=told)
data = bytes(range(200)) * 2  # its size is no int that CPython has ready


def changed(reader):
    reader.write(base + 0xFF8, data)
    reader.write_u64(base, 5)
    reader.overlay.frames()
    assert reader.read(base + 0xFF8, len(data)) == data


def restored():
    snapshot = overlay.snapshot()
    writer.write_u64(base, 5)
    overlay.restore(snapshot)
    overlay.forget(snapshot)


def made_up():
    fresh = OverlayBase(dump)
    fresh.create(0x3000)  # numbers so large are no ints that CPython has ready
    fresh.remap(0x3001, 0x3000)
    assert len(fresh.frames()) == 2 and len(fresh.remaps()) == 1 and fresh.frame(0x3001)


def watched():
    writer.write(base, data)
    found = overlay.take_dirty()
    assert found in ([], list(range(0x20000, 0x20000 + len(data), 8))), found


def imported():
    module = _imp.create_dynamic(spec)
    _imp.exec_dynamic(module)
    assert module.DumpBase is not DumpBase


class Asking(ReaderBase):
    def _load_views(self):
        return views


class Sink:
    def _sink(self, dump):
        return self

    def _add(self, *fault):
        pass


def collected():
    dump._collect(True)
    try:
        token = _fault_collector.set(sink)
        try:
            reader.strict = False
            return [call() for call in told]
        finally:
            reader.strict = True
            _fault_collector.reset(token)
    finally:
        dump._collect(False)


def many():
    reader.translate_into(addresses, wide, narrow)
    reader.read_many_into(addresses, 4, wide, narrow)


def triage():
    return small.triage_header, small.va_ranges(), small.layout


def mapped():
    return [repr(mapping) for mapping in reader.mappings()], reader.mappings_buffer()


spec = importlib.util.spec_from_file_location("kdmp._kdmp", kdmp._kdmp.__file__)
views = struct.pack("<3Q", base + 0x4000, base + 0x5000, base + 0x400)
sink = Sink()
streamed = DumpBase(io.BytesIO(image))
context = AccessContext(base + 0x100, 0x1000)
walk = reader.translate(base)
missing = base + 0x2000
told = [lambda: reader.read(missing, 8), lambda: reader.read_u64(base + 0x1FFC),
        lambda: reader.translate(missing), lambda: reader.read_cstr(missing),
        lambda: reader.read_gaps(missing, 8)]
addresses, wide, narrow = struct.pack("<2Q", base, missing), memoryview(bytearray(16)).cast("Q"), bytearray(2)
runs = [(0, 1, 0), (2, 1, 0x1000)]
image4 = bytearray(image[:0x2000] + bytes(0x300))
struct.pack_into("<I", image4, 0xF98, 4)
struct.pack_into("<II", image4, 0x2078, 0x2100, 1)
struct.pack_into("<QII", image4, 0x2100, 0x5000, 0x2200, 0x40)
small = DumpBase(image4)
needle = kdmp._kdmp.Matcher([data[:4]], pointers=[(1 << 62, (1 << 64) - 1, 8)])
large = ReaderBase(DumpBase(b"x" * (5 << 20), raw=("x64", [])), paging="physical")
# The PTE of base + 0x5000 names a page of a page file, and so does a prototype PTE.
paged = OverlayBase(dump)
entry, in_pagefile = walk.entries[-1].pa, 0x12345_00000080
tables = ReaderBase(dump, paging="physical", overlay=paged)
tables.write_u64(entry + 8 * 4, 0xFFFFFFFF_00000480)
tables.write_u64(entry + 8 * 5, in_pagefile)
softer = ReaderBase(dump, paging="x64", dtb=0x1000, overlay=paged)
softest = Asking(dump, paging="x64", dtb=0x1000, overlay=paged)
softer.write_u64(base + 0x400, in_pagefile)
assert len(small.va_ranges()) == 1
overlay.watch_frame(0x20)

calls = {{
    "open": lambda: DumpBase(image).close(),
    "open path": lambda: DumpBase(path).close(),
    "wrong file": lambda: DumpBase(b"text"),
    "reader": lambda: ReaderBase(dump, paging="x64", dtb=0x1000),
    "header": lambda: dump.header,
    "figures": lambda: dump.figures,
    "pages": lambda: list(dump.pages),
    "page": lambda: dump.pages[0x21].release(),
    "frames": lambda: dump.pages.buffer(0x20, 2).release(),
    "no frames": lambda: dump.pages.buffer(0x20, 3),
    "missing": lambda: reader.missing(base + 0x2000, 1 << 40),
    "runs": lambda: list(dump.pages.runs()),
    "translate": lambda: reader.translate(base).entries,
    "no page": lambda: reader.translate(base + 0x2000),
    "read": lambda: reader.read(base, 0x2000),
    "read_exact": lambda: reader.read_exact(base + 0x1FF8, 64),
    "read_gaps": lambda: reader.read_gaps(base, 0x4000),
    "read_into": lambda: reader.read_into(base, target),
    "read_u64": lambda: reader.read_u64(base),
    "read_cstr": lambda: reader.read_cstr(base + 0x100),
    "read_wstr": lambda: reader.read_wstr(base + 0x200),
    "read_unicode_string": lambda: reader.read_unicode_string(base + 0x300),
    "context": lambda: kdmp.AccessContext(base, 1) + 5,
    "overlay": lambda: OverlayBase(dump).frames(),
    "write": lambda: changed(writer),
    "hooked write": lambda: changed(hooked),
    "restore": lambda: restored(),
    "import": imported,
    "context text": lambda: repr(context),
    "context copies": lambda: pickle.loads(pickle.dumps(context)),
    "context read": lambda: reader.read(context, 8),
    "translation copies": lambda: pickle.loads(pickle.dumps(walk)),
    "translation text": lambda: repr(walk.entries) + repr(walk),
    "made up": made_up,
    "watched": watched,
    "from a stream": lambda: DumpBase(io.BytesIO(image)).pages[0x21],
    "file bytes": lambda: streamed.read_file(0, 64),
    "raw": lambda: DumpBase(image, raw=("x64", runs)).find_root("x64"),
    "compare": lambda: dump.compare(streamed, 0, 100),
    "ask VADs": lambda: Asking(dump, paging="x64", dtb=0x1000, overlay=paged).read(base + 0x4000, 8),
    "collected": collected,
    "many": many,
    "mappings": mapped,
    "triage": triage,
    "matcher": lambda: kdmp._kdmp.Matcher([b"a", (b"bc", b"\\xff\\xff")], pointers=[(1 << 40, 1 << 41, 8)]),
    "scan": lambda: reader.scan(needle).matches,
    "extents": lambda: [repr(extent) for extent in reader.extents()],
    "pages slice": lambda: repr(dump.pages[0x20:0x22]),
    "wrong number": lambda: fails(lambda: reader.read(-1, 1)),
    "long string": lambda: large.read_cstr(0, 4096, strict=False),
    "long read": lambda: len(large.read(0, 5 << 20)),
    "page file": lambda: fails(lambda: softer.read_u8(base + 0x5000)),
    "prototype": lambda: fails(lambda: softest.read_u8(base + 0x4000)),
    "cut number": lambda: fails(lambda: reader.read_u64(base + 0x1FFC)),
    "damage": lambda: fails(lambda: DumpBase(image[:0x1000])),
    "facts": lambda: (dump.layout, dump.arch, dump.io, reader.pte_format, reader.cache_figures, reader.dtb),
}}
if name == "?":
    print("\\n".join(calls))
    sys.exit()
call = calls[name]


def fails(call):
    try:
        call()
    except (OverflowError, kdmp.KdmpError):
        return
    raise AssertionError("it did not fail")


def outcome():
    try:
        call()
    except MemoryError:
        return "no memory"
    except SystemError as exc:
        # CPython 3.11 says this where it has no room for the lambda's own frame. An extension
        # that forgets its exception reads "... returned NULL without setting an exception".
        if str(exc) == "error return without exception set":
            return "no memory"
        # Nor does it say anything where making a type finds no memory for its cached keys.
        if name == "import" and str(exc).endswith("failed without setting an exception"):
            return "no memory"
        raise
    except kdmp.KdmpError as exc:
        return type(exc).__name__
    return "done"


normal = outcome()
failures = quiet = 0
for nth in range(5000):  # how many succeed before one fails
    _testcapi.set_nomemory(nth, nth + 1)
    try:
        got = outcome()
    finally:
        _testcapi.remove_mem_hooks()
    if got == "no memory":
        failures += 1
        quiet = 0
    else:
        assert got == normal, (nth, got, normal)
        quiet += 1
        if quiet > 60:  # the calls take fewer allocations than that
            break
else:
    raise AssertionError("no end of allocations")
assert outcome() == normal
print(failures, "failures")
"""

NAMES = """open|open path|wrong file|reader|header|figures|pages|page|frames|no frames|missing|runs|translate|
no page|read|read_exact|read_gaps|read_into|read_u64|read_cstr|read_wstr|read_unicode_string|context|overlay|
write|hooked write|restore|import|context text|context copies|context read|translation copies|
translation text|made up|watched|from a stream|file bytes|raw|compare|ask VADs|collected|many|mappings|triage|
matcher|scan|extents|
pages slice|wrong number|long string|long read|page file|prototype|cut number|damage|facts""".replace(
    "\n", ""
).split("|")


def run(path, name):
    script = SCRIPT.format(base=KERNEL_VA)
    command = [sys.executable, "-W", "ignore", "-c", script, str(path), name]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module", autouse=True)
def _hooks():
    testcapi = pytest.importorskip("_testcapi", reason="this interpreter has no _testcapi")
    if not hasattr(testcapi, "set_nomemory"):
        pytest.skip("this interpreter has no set_nomemory")


@pytest.mark.parametrize("name", NAMES)
def test_no_memory(name, small_path):
    done = run(small_path, name)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("failures\n")


def test_all_calls_are_named(small_path):
    assert run(small_path, "?").stdout.split("\n")[:-1] == NAMES
