"""Every allocation of the interpreter fails once under each call: MemoryError, and nothing worse.

Runs in a process of its own: the interpreter may not survive what is tested here.

SPDX-License-Identifier: MIT
"""

import subprocess
import sys

import pytest
from conftest import KERNEL_VA

SCRIPT = """
import sys, _testcapi, kdmp
from kdmp._kdmp import DumpBase, OverlayBase, ReaderBase

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
data = bytes(range(16))


def changed(reader):
    reader.write(base + 0xFF8, data)
    reader.write_u64(base, 5)
    reader.overlay.frames()
    assert reader.read(base + 0xFF8, 16) == data


def restored():
    snapshot = overlay.snapshot()
    writer.write_u64(base, 5)
    overlay.restore(snapshot)
    overlay.forget(snapshot)


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
}}
if name == "?":
    print("\\n".join(calls))
    sys.exit()
call = calls[name]


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
        raise
    except kdmp.KdmpError as exc:
        return type(exc).__name__
    return "done"


normal = outcome()
failures = quiet = 0
for nth in range(1, 5000):
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

NAMES = """open|open path|wrong file|reader|header|figures|pages|page|frames|no frames|missing|runs|
translate|no page|read|read_exact|read_gaps|read_into|read_u64|read_cstr|read_wstr|read_unicode_string|
context|overlay|write|hooked write|restore""".replace("\n", "").split("|")


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
