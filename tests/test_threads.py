"""Many threads and one dump: reads agree, close is refused or waited for, nothing crashes.

Workers start behind a barrier and have a deadline, so that a deadlock is a failure.

SPDX-License-Identifier: MIT
"""

import sys
import textwrap
import threading
import time

import pytest
from conftest import KERNEL_VA
from dumpbuilder import PAGE, stamp

import kdmp

THREADS = 6
DEADLINE = 60  # seconds; only reached when something is wrong


def run_together(function, count=THREADS):
    """Call function(n) in `count` threads at once; re-raise what any of them raises."""
    barrier = threading.Barrier(count)
    errors = []

    def work(n):
        try:
            barrier.wait(DEADLINE)
            function(n)
        except BaseException as exc:
            errors.append(exc)

    workers = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(count)]
    for worker in workers:
        worker.start()
    end = time.monotonic() + DEADLINE
    for worker in workers:
        worker.join(max(0, end - time.monotonic()))
        assert not worker.is_alive(), "a worker did not end in time"
    if errors:
        raise errors[0]


@pytest.fixture(params=["memory", "map", "read"])
def dump(request, small_image, small_path):
    source = small_image if request.param == "memory" else small_path
    with kdmp.Dump(source, io="read" if request.param == "read" else "map") as dump:
        yield dump


def use(dump, rounds=150):
    """One of everything, with results that are known."""
    reader = dump.reader(dtb=0x1000, paging="x64")
    hello = KERNEL_VA + 0x100
    for _ in range(rounds):
        assert reader.read(KERNEL_VA + 0x1FF0, 64) == stamp(0x21)[-16:]
        assert reader.read_exact(KERNEL_VA + 0x1000, PAGE) == stamp(0x21)
        assert reader.translate(KERNEL_VA + 0x1234).pa == 0x21234
        assert reader.try_translate(KERNEL_VA + 0x2000) is None
        assert reader.read_cstr(hello) == "hello"
        assert reader.read_unicode_string(KERNEL_VA + 0x300) == "hello"
        assert dump.phys.read_u64(0x21000) == 0x21
        assert dump.pages[0x21][:8] == stamp(0x21)[:8]
        assert 0x21 in dump.pages
        assert list(dump.pages)[-1] == 0x21


def test_many_threads_one_dump(dump):
    run_together(lambda n: use(dump))


def test_many_threads_one_reader(dump):
    reader = dump.reader(dtb=0x1000, paging="x64")

    def work(n):
        target = bytearray(PAGE)
        for k in range(500):
            assert reader.read_into(KERNEL_VA + 0x1000, target) == PAGE
            assert target == stamp(0x21)
            assert reader.read_u64(KERNEL_VA + 0x1000 + 8 * (k % 512)) == 0x21 | k % 512 << 32

    run_together(work)


def test_facts_are_the_same_everywhere(dump):
    """Cached facts of the Python face, asked for the first time by all threads at once."""
    seen = []
    run_together(lambda n: seen.append((dump.kind, dump.bugcheck, dump.paging, dump.header == dump.header)))
    assert len(seen) == THREADS
    assert all(facts == seen[0] for facts in seen)


def test_close_while_others_read(dump):
    """A closed dump raises ValueError; close itself may be refused while a read runs."""
    refused = []

    def work(n):
        if n == 0:
            time.sleep(0.02)
            for _ in range(10_000):
                try:
                    dump.close()
                    return
                except BufferError:
                    refused.append(n)
                    time.sleep(0.001)
            pytest.fail("close() was refused all the time")
        while True:
            try:
                data = dump.phys.read(0x20000, 2 * PAGE)
                assert data[PAGE:] == stamp(0x21)
            except ValueError as exc:
                assert "closed" in str(exc)
                return

    run_together(work)
    assert dump.closed


def test_views_while_others_close(dump):
    def work(n):
        for _ in range(200):
            try:
                if n % 2:
                    dump.close()
                else:
                    page = dump.pages[0x21]
                    assert page[:8] == stamp(0x21)[:8]
                    page.release()
            except BufferError:
                assert n % 2
            except ValueError as exc:
                assert "closed" in str(exc)

    run_together(work)
    dump.close()
    assert dump.closed


def test_close_with_a_live_view(small_path):
    dump = kdmp.Dump(small_path)
    page = dump.pages[0x21]

    def work(n):
        with pytest.raises(BufferError):
            dump.close()

    run_together(work)
    assert page == stamp(0x21)
    page.release()
    dump.close()


def test_open_and_close_at_once(small_path):
    def work(n):
        for _ in range(50):
            with kdmp.Dump(small_path, io="map" if n % 2 else "read") as dump:
                assert dump.phys.read_u64(0x21000) == 0x21

    run_together(work)


def test_a_file_object_used_by_many_threads(small_path):
    with open(small_path, "rb") as file, kdmp.Dump(file) as dump:
        run_together(lambda n: use(dump, rounds=20), count=3)


def test_free_threaded_build_keeps_the_gil_off():
    enabled = getattr(sys, "_is_gil_enabled", None)
    if enabled is None or not __import__("sysconfig").get_config_var("Py_GIL_DISABLED"):
        pytest.skip("this interpreter is not free-threaded")
    assert not enabled(), "importing kdmp has switched the GIL on"


SUBINTERPRETER = """
    import kdmp
    image = open({path!r}, "rb").read()
    with kdmp.Dump(image) as dump:
        assert dump.phys.read_u64(0x21000) == 0x21
        try:
            dump.phys.read_u64(0x99000)
        except kdmp.NotInDumpError as exc:
            assert exc.pa == 0x99000
        else:
            raise AssertionError("frame 0x99 is not in the dump")
"""


def test_subinterpreters(small_path, instrumented):
    """Two more interpreters, each with a module and types of its own."""
    if instrumented:
        pytest.skip("the sanitizers report the interpreter's own leaks here")
    interpreters = pytest.importorskip(
        "_xxsubinterpreters" if sys.version_info < (3, 13) else "_interpreters"
    )
    code = (
        "import sys; sys.path[:] = "
        + repr(sys.path)
        + textwrap.dedent(SUBINTERPRETER.format(path=str(small_path)))
    )
    names = [interpreters.create() for _ in range(2)]
    try:
        for name in names:
            failure = interpreters.run_string(name, code)
            assert failure is None, failure
    finally:
        for name in names:
            interpreters.destroy(name)
    with kdmp.Dump(small_path) as dump:  # this one is as it was
        assert dump.phys.read_u64(0x21000) == 0x21
