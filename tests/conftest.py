"""Fixtures and hypothesis profiles that several test files share.

SPDX-License-Identifier: MIT
"""

import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from dumpbuilder import Memory, P, Tables, U, W

ROOT = Path(__file__).resolve().parents[1]
CSRC = ROOT / "csrc"

try:
    from hypothesis import HealthCheck, settings
except ImportError:  # tests that need it skip by themselves
    pass
else:
    slow = [HealthCheck.too_slow]
    settings.register_profile("default", max_examples=60, deadline=None, suppress_health_check=slow)
    settings.register_profile(
        "ci", max_examples=100, deadline=None, derandomize=True, suppress_health_check=slow
    )
    settings.register_profile(
        "asan", max_examples=15, deadline=None, derandomize=True, suppress_health_check=slow
    )
    settings.register_profile("long", max_examples=5000, deadline=None, suppress_health_check=slow)
    settings.load_profile(
        os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "default")
    )


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """What kdmp caches goes to a folder of this run: neither read from the user's nor left there."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


def pytest_report_header():
    import kdmp

    return f"kdmp: {kdmp.build_info()} from {Path(kdmp.__file__).parent}"


def pytest_sessionstart(session):
    """A run that believes it is instrumented, and is not, finds nothing."""
    expected = os.environ.get("KDMP_EXPECT_SANITIZE")
    if expected:
        import kdmp

        found = str(kdmp.build_info()["sanitize"])
        if expected not in found:
            pytest.exit(f"the extension should be built with {expected!r}, but says {found!r}", returncode=3)


@pytest.fixture(scope="session")
def instrumented():
    """Whether the extension is built with a sanitizer: not just to count the lines that are executed."""
    import kdmp

    return kdmp.build_info()["sanitize"] not in ("", "coverage")


@pytest.fixture(scope="session")
def cc():
    """The C compiler as a list of words; skips without one."""
    words = os.environ.get("CC", "cc").split()
    if shutil.which(words[0]) is None:
        pytest.skip(f"no C compiler: {words[0]} is not installed")
    return words


@pytest.fixture(scope="session")
def core(cc, tmp_path_factory):
    """The core alone, driven through cffi: a module with `ffi` and `lib`.

    ffi.cdef() gets the text between the markers of kdmp.h as it is.
    """
    cffi = pytest.importorskip("cffi")
    pytest.importorskip("setuptools")
    text = (CSRC / "kdmp.h").read_text("utf-8")
    cdef = re.search(r"/\* <cdef> \*/(.*)/\* </cdef> \*/", text, re.DOTALL)[1]
    ffi = cffi.FFI()
    ffi.cdef(cdef)
    ffi.cdef(
        """
        extern "Python" int test_read_at(void *, uint64_t, void *, size_t);
        extern "Python" enum kdmp_status test_locate(const struct kdmp_source *, uint64_t, uint64_t,
                                                     struct kdmp_extent *);
        extern "Python" int test_next_run(const struct kdmp_source *, uint64_t, struct kdmp_run *);
        void kdmp_test_fail_alloc(long nth);
        int kdmp_test_alloc_failed(void);
        """
    )
    folder = tmp_path_factory.mktemp("core")
    ffi.set_source(
        "_kdmp_core",
        '#include "internal.h"',
        sources=[str(path) for path in sorted(CSRC.glob("*.c"))],
        include_dirs=[str(CSRC)],
        define_macros=[("KDMP_TEST_ALLOC", None)],
        extra_compile_args=["-std=c11", "-O1"],
    )
    ffi.compile(tmpdir=str(folder))
    sys.path.insert(0, str(folder))
    try:
        import _kdmp_core
    finally:
        sys.path.remove(str(folder))
    return _kdmp_core


KERNEL_VA = 0xFFFF_F800_0000_0000


def small_machine():
    """A few pages that have one of everything a read can meet.

    +0x0000 data frame 0x20, +0x1000 frame 0x21, +0x2000 nothing, +0x3000 frame 0x99 (not in the
    dump); "hello" at +0x100 (UTF-8) and +0x200 (UTF-16), a UNICODE_STRING for it at +0x300.
    """
    memory = Memory()
    tables = Tables(memory)
    memory.fill(0x20, 0x21)
    for k, pa in enumerate((0x20000, 0x21000, None, 0x99000)):
        if pa is not None:
            tables.map(KERNEL_VA + 0x1000 * k, pa, flags=P | W | U)
    memory.put(0x20100, b"hello\0")
    memory.put(0x20200, "hello".encode("utf-16-le") + bytes(2))
    memory.put(0x20300, (10).to_bytes(2, "little") + (12).to_bytes(2, "little") + bytes(4))
    memory.put_u64(0x20308, KERNEL_VA + 0x200)
    return memory


@pytest.fixture(scope="session")
def small_image():
    """The bytes of a small dump (type 1) of small_machine()."""
    return small_machine().dump(number_processors=2, minor_version=19041, bug_check_code=0xD1)


@pytest.fixture
def small_path(small_image, tmp_path):
    """The same as a file."""
    path = tmp_path / "small.dmp"
    path.write_bytes(small_image)
    return path
