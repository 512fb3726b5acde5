"""A mapped file that shrinks is an exception, in whatever call, and foreign faults stay what they are.

All of it runs in processes of its own, which end with SIGBUS if the guard does not work.

SPDX-License-Identifier: MIT
"""

import errno
import functools
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import mapguardways
import pytest
import shareddata
from conftest import small_machine
from dumpbuilder import FULL, HEADER, PAGE, build, stamp

import kdmp
from kdmp._kdmp import DumpBase, _guarded

pytestmark = pytest.mark.skipif(not kdmp.build_info()["map_guard"], reason="nothing guards mappings here")

HERE = Path(__file__).resolve().parent
PRELUDE = """
import ctypes, errno, faulthandler, mmap, os, random, signal, sys, threading, time
import kdmp
from dumpbuilder import FULL, PAGE, build, stamp

path = sys.argv[1]


def lost(call, dump):
    try:
        found = call()
    except OSError as error:
        assert error.errno == errno.EIO, error
        assert dump.lost is not None
    else:
        raise AssertionError(f"gave {found!r:.60}")


def foreign_fault():
    with open(path + ".other", "w+b") as file:
        file.write(bytes(PAGE))
        file.flush()
        view = mmap.mmap(file.fileno(), PAGE)
        os.truncate(file.fileno(), 0)
        view[0]
"""


def start(*command):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(kdmp.__file__).parents[1]), str(HERE)])}
    return subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=env,
    )


@pytest.fixture
def run(tmp_path):
    """Run a script on a dump of 64 frames, 1 to 64, each its stamp; it must live to the end."""
    path = tmp_path / "whole.dmp"
    image = build(FULL, {pfn: stamp(pfn) for pfn in range(1, 65)})

    def call(script, *arguments, alive=True):
        path.write_bytes(image)
        done = start("-c", PRELUDE + textwrap.dedent(script) + "\nprint('alive')", path, *arguments)
        assert (done.stdout.endswith("alive\n") and done.returncode == 0) == alive, done
        return done

    return call


def by_sigbus(done, instrumented):
    """A sanitizer's own handler reports and exits."""
    return done.returncode == -signal.SIGBUS or (instrumented and "BUS" in done.stderr)


# ---- every way to memory ----


@functools.cache
def outcomes(folder):
    done = start(HERE / "mapguardways.py", folder)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {tuple(line[:2]): line[2:] for line in lines if line[0] != "end"}, lines[-1:], done


@pytest.fixture(scope="module")
def ways(tmp_path_factory):
    return outcomes(tmp_path_factory.mktemp("ways"))


def test_the_process_lives_to_the_end(ways):
    found, last, done = ways
    assert done.returncode == 0, (list(found)[-1:], done.stderr)
    assert last == [["end", 0]]  # nothing is on the list when all dumps are closed
    each = len(mapguardways.WAYS) + len(mapguardways.AFTER)
    assert len(found) == 2 * each + len(mapguardways.TABLE)


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in ("runs", "bitmap") for name in mapguardways.WAYS]
    + [("bitmap", name) for name in mapguardways.TABLE],
)
def test_the_call_that_meets_the_loss_raises_and_so_does_the_next(ways, kind, name):
    first, where, again, text = ways[0][kind, name]
    for number, filename, message in (first, again):
        assert (number, Path(filename).name) == (errno.EIO, f"{kind}.dmp")
        if name != "doctor" or message is not first[2]:
            assert "open the dump again" in message
    assert where is not None and where % PAGE == 0
    assert "lost" in text


@pytest.mark.parametrize("kind", ["runs", "bitmap"])
@pytest.mark.parametrize("name", mapguardways.AFTER)
def test_all_else_raises_from_then_on(ways, kind, name):
    found, where = ways[0][kind, f"after: {name}"]
    assert found[0] == errno.EIO, found
    assert f"{where:#x}" in found[2]


@pytest.mark.parametrize("kind", ["full", "rdmp9"])
def test_windows_objects_never_show_zeros(run, kind, instrumented):
    """Cut the file at several places: a list is the one of the whole file, or OSError."""
    if instrumented:
        pytest.skip("is Python alone, and long under a sanitizer")
    source = shareddata.machine_dump("win10-19041", kind)
    run(
        """
        data = open(sys.argv[2], "rb").read()
        def listed(dump):
            windows = dump.windows
            found = [(p.pid, p.name, p.create_time, p.problems) for p in windows.processes()]
            return found + [(m.name, m.base, m.problems) for m in windows.modules()]
        with kdmp.open(data) as dump:
            whole = listed(dump)
        raised = 0
        for tenth in range(10):
            open(path, "wb").write(data)
            dump = kdmp.open(path)
            os.truncate(path, len(data) * tenth // 10 // PAGE * PAGE)
            try:
                assert listed(dump) == whole, tenth
            except OSError as error:
                assert error.errno == errno.EIO and dump.lost is not None
                raised += 1
                lost(lambda: list(dump.windows.processes()), dump)
                assert "lost" in repr(dump.windows)
            dump.close()
        assert raised >= 3, raised
        """,
        source,
    )


def test_random_cuts_and_reads(run):
    """A read gives the true bytes or raises; once it raised, everything raises."""
    run(
        """
        chance = random.Random(7)
        data = open(path, "rb").read()
        for _ in range(150):
            open(path, "wb").write(data)
            with kdmp.open(path) as dump:
                cut = chance.randrange(len(data) // PAGE + 1) * PAGE
                if chance.random() < 0.9:
                    os.truncate(path, cut)
                else:
                    cut = len(data)
                gone = False
                for _ in range(10):
                    first = chance.randrange(1 << 12, 64 << 12)
                    size = chance.choice([1, 8, 4096, 70000, 200000])
                    size = min(size, (65 << 12) - first)
                    place = 0x2000 + first - PAGE
                    try:
                        got = dump.phys.read_exact(first, size)
                    except OSError as error:
                        assert error.errno == errno.EIO and dump.lost >= cut // PAGE * PAGE
                        assert gone or place + size > cut or size >= 0x10000  # or it looked at the size
                        gone = True
                    else:
                        assert not gone and got == data[place : place + size]
        """
    )


# ---- at work ----


def test_two_threads_read_while_the_file_shrinks(run):
    run(
        """
        frames = 4096
        image = build(FULL, {pfn: stamp(pfn) for pfn in range(1, 1 + frames)})
        ends = []

        def scalars(phys):
            chance = random.Random(1)
            while True:
                pfn = chance.randrange(1, 1 + frames)
                assert phys.read_u64(pfn << 12) & 0xFFFFFFFF == pfn

        def whole(phys):
            while True:
                data = phys.read_exact(1 << 12, frames << 12)
                assert data == image[0x2000:], "zeros were given"

        def guarded(function, dump):
            try:
                function(dump.phys)
            except OSError as error:
                ends.append(error.errno)
            except BaseException as error:
                ends.append(repr(error))

        for cut in (0, 0x2000 + 1000 * PAGE, len(image) - 1):
            open(path, "wb").write(image)
            dump = kdmp.open(path)
            threads = [threading.Thread(target=guarded, args=(f, dump)) for f in (scalars, whole)]
            for thread in threads:
                thread.start()
            time.sleep(0.05)
            os.truncate(path, cut)
            for thread in threads:
                thread.join()
            lost(lambda: dump.phys.read_u8(0x1000), dump)
            dump.close()
        assert ends == [errno.EIO] * 6, ends
        """
    )


def test_a_file_that_shrinks_while_it_is_opened(run):
    run(
        """
        image = open(path, "rb").read()

        class Cutting:
            def __fspath__(self):
                os.truncate(path, 0x3000)
                return path

        try:
            kdmp._kdmp.DumpBase(path, pagefiles=[Cutting()])
        except OSError as error:
            assert error.errno == errno.EIO and "0x3000" in str(error)
        else:
            raise AssertionError("opened")
        assert kdmp._kdmp._guarded() == 0
        done = False

        def cut():
            file = os.open(path, os.O_RDWR)
            while not done:
                os.ftruncate(file, 0)
                os.pwrite(file, image, 0)

        thread = threading.Thread(target=cut)
        thread.start()
        for _ in range(1500):
            try:
                kdmp.open(path).close()
            except (kdmp.KdmpError, OSError):
                pass
        done = True
        thread.join()
        """
    )


def test_a_page_file_is_named(run):
    run(
        """
        paging = path + ".paging"
        open(paging, "wb").write(bytes(3 * PAGE))
        dump = kdmp.open(path, pagefiles={3: paging})
        assert kdmp._kdmp._guarded() == 2
        dump.check()
        os.truncate(paging, PAGE)
        try:
            dump.check()
        except OSError as error:
            assert "page file 3 " in str(error) and "0x1000" in str(error)
        lost(lambda: dump.phys.read_u8(0x1000), dump)
        assert dump.lost == PAGE
        dump.close()
        assert kdmp._kdmp._guarded() == 0
        """
    )


def test_a_child_has_the_guard_too(run):
    run(
        """
        dump = kdmp.open(path)
        child = os.fork()
        os.truncate(path, 0)
        lost(lambda: dump.phys.read_u8(0x1000), dump)
        if child == 0:
            os._exit(42)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42
        """
    )


def test_a_subinterpreter(run):
    run(
        """
        try:
            import _interpreters as interpreters
        except ImportError:
            import _xxsubinterpreters as interpreters
        code = f'''
        import errno, os, sys
        sys.path[:0] = {sys.path!r}
        from kdmp._kdmp import DumpBase
        dump = DumpBase({path!r})
        os.truncate({path!r}, 0)
        try:
            dump.read_file(0, 8)
        except OSError as error:
            assert error.errno == errno.EIO
        else:
            raise AssertionError
        '''
        made = interpreters.create()
        assert interpreters.run_string(made, code) is None
        interpreters.destroy(made)
        assert kdmp._kdmp._guarded() == 0
        """
    )


# ---- who else wants SIGBUS ----


@pytest.mark.parametrize("when", ["never", "before", "after", "both", "again"])
def test_faulthandler(run, when, instrumented):
    """Before the dump it is not asked; after it, it writes its traceback and the process goes on."""
    script = f"""
    when = {when!r}
    if when in ("before", "both", "again"):
        faulthandler.enable()
    dump = kdmp.open(path)
    if when == "again":
        faulthandler.disable()
    if when in ("after", "both", "again"):
        faulthandler.enable()
    if when == "again":  # faulthandler took its handler away, and ours with it
        kdmp.open(path).close()
    os.truncate(path, 0)
    lost(lambda: dump.phys.read_u8(0x1000), dump)
    lost(lambda: dump.phys.read_u8(0x1000), dump)
    print("so far")
    sys.stdout.flush()
    if sys.argv[2] == "foreign":
        dump.close()
        foreign_fault()
    """
    done = run(script, "")
    assert ("Bus error" in done.stderr) == (when == "after")
    done = run(script, "foreign", alive=False)
    assert done.stdout == "so far\n"
    assert by_sigbus(done, instrumented)
    if when not in ("never", "after"):  # it tells of one fault
        assert "Bus error" in done.stderr and "foreign_fault" in done.stderr


@pytest.mark.parametrize("dumps", ["open", "closed"])
def test_an_earlier_handler_gets_what_is_not_ours(run, dumps):
    done = run(
        f"""
        @ctypes.CFUNCTYPE(None, ctypes.c_int)
        def handler(number):
            os.write(1, b"called\\n")
            os._exit(42)

        ctypes.CDLL(None).signal(signal.SIGBUS, handler)
        dump = kdmp.open(path)
        if {dumps!r} == "closed":
            dump.close()
        foreign_fault()
        """,
        alive=False,
    )
    assert (done.returncode, done.stdout) == (42, "called\n")


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_signal_that_is_sent_goes_to_the_handler_in_python(run, when):
    run(
        f"""
        called = []
        if {when!r} == "before":
            signal.signal(signal.SIGBUS, lambda *what: called.append(1))
        dump = kdmp.open(path)
        if {when!r} == "after":
            signal.signal(signal.SIGBUS, lambda *what: called.append(1))
        os.kill(os.getpid(), signal.SIGBUS)
        signal.raise_signal(signal.SIGBUS)
        assert len(called) == 2
        assert dump.lost is None
        """
    )


def test_a_signal_that_is_ignored(run, instrumented):
    done = run(
        """
        signal.signal(signal.SIGBUS, signal.SIG_IGN)
        dump = kdmp.open(path)
        os.kill(os.getpid(), signal.SIGBUS)
        signal.raise_signal(signal.SIGBUS)
        os.truncate(path, 0)
        lost(lambda: dump.phys.read_u8(0x1000), dump)
        print("so far")
        sys.stdout.flush()
        foreign_fault()  # cannot be ignored
        """,
        alive=False,
    )
    assert done.stdout == "so far\n" and by_sigbus(done, instrumented)


@pytest.mark.parametrize("how", ["os.kill(os.getpid(), signal.SIGBUS)", "signal.raise_signal(signal.SIGBUS)"])
def test_a_signal_that_is_sent_ends_the_process(run, how, instrumented):
    done = run(f"dump = kdmp.open(path)\nsignal.signal(signal.SIGBUS, signal.SIG_DFL)\n{how}", alive=False)
    assert done.returncode == -signal.SIGBUS
    done = run(f"dump = kdmp.open(path)\n{how}", alive=False)
    assert by_sigbus(done, instrumented)


def test_a_handler_that_was_reset_comes_back_with_the_next_dump(run):
    run(
        """
        first = kdmp.open(path)
        signal.signal(signal.SIGBUS, signal.SIG_DFL)
        second = kdmp.open(path)
        os.truncate(path, 0)
        for dump in (first, second):
            lost(lambda: dump.phys.read_u8(0x1000), dump)
        """
    )


# ---- the list of mappings ----


def test_nothing_stays_on_the_list(small_path, tmp_path):
    before = _guarded()
    wrong = tmp_path / "wrong"
    wrong.write_bytes(b"no dump" * 1000)
    for _ in range(1000):
        DumpBase(small_path, pagefiles=[wrong]).close()
        with pytest.raises(kdmp.WrongFileError):
            DumpBase(wrong)
        with pytest.raises(OSError):
            DumpBase(small_path, pagefiles=[wrong, tmp_path / "absent"])
    assert _guarded() == before


def test_more_dumps_than_the_list_has_room_for(run):
    run(
        """
        image = open(path, "rb").read()
        dumps = []
        for number in range(150):
            name = f"{path}{number}"
            open(name, "wb").write(image)
            dumps.append((name, kdmp.open(name)))
        assert kdmp._kdmp._guarded() == 150
        for name, _ in dumps[::3]:
            os.truncate(name, 0)
        for number, (_, dump) in enumerate(dumps):
            if number % 3 == 0:
                lost(lambda: dump.phys.read_u64(0x1000), dump)
            else:
                assert dump.phys.read_u64(0x2000) == 2 and dump.lost is None
        for _, dump in random.Random(3).sample(dumps, len(dumps)):
            dump.close()
        assert kdmp._kdmp._guarded() == 0
        """
    )


# ---- what a file can look like ----


def test_a_file_of_one_page(run):
    run(
        """
        open(path, "wb").write(stamp(1))
        dump = kdmp.open_raw(path, arch="x64")
        assert dump.phys.read(0, PAGE) == stamp(1)
        os.truncate(path, 0)
        lost(lambda: dump.phys.read(0, PAGE), dump)
        assert dump.lost == 0
        dump.close()
        assert dump.lost == 0 and dump.closed
        """
    )


def test_views_keep_what_is_before_the_loss(run):
    run(
        """
        dump = kdmp.open(path)
        kept, gone = dump.pages[1], dump.pages[64]
        os.truncate(path, 0x2000 + PAGE)
        assert bytes(kept) == stamp(1) and dump.lost is None
        assert bytes(gone) == bytes(PAGE)
        assert dump.lost == 0x2000 + 63 * PAGE  # what the fault told, not where the file ends
        lost(lambda: dump.check(), dump)
        assert bytes(kept) == stamp(1)
        assert (dump.closed, dump.io) == (False, "map")
        try:
            dump.close()
        except BufferError:
            pass
        del kept, gone
        dump.close()
        """
    )


def test_a_cut_within_a_page(tmp_path, instrumented):
    """The system shows zeros behind the end of the file up to the end of its page, without a word."""
    image = build(FULL, {pfn: stamp(pfn) for pfn in range(1, 65)})
    path = tmp_path / "cut.dmp"

    def mapped(**options):
        path.write_bytes(image)
        dump = kdmp.open(path, **options)
        os.truncate(path, HEADER + 63 * PAGE + 0x800)
        return dump

    with mapped() as dump:
        assert dump.phys.read(64 << 12, PAGE) == stamp(64)[:0x800] + bytes(0x800)  # documented
        with pytest.raises(OSError, match=f"from offset {HEADER + 63 * PAGE:#x} on"):
            dump.check()
        assert dump.lost == HEADER + 63 * PAGE
        with pytest.raises(OSError, match="open the dump again"):
            dump.phys.read(64 << 12, PAGE)
    for long in (  # the first long call always looks
        lambda d: d.phys.read_exact(1 << 12, 64 * PAGE),
        lambda d: d.phys.read_into(1 << 12, bytearray(64 * PAGE)),
        lambda d: d.read_file(HEADER, 64 * PAGE),
        lambda d: d.find_root("x64"),
        lambda d: d.compare(kdmp.open(image), 0, 1 << 20),
    ):
        with mapped() as dump:
            with pytest.raises(OSError) as caught:
                long(dump)
            assert caught.value.errno == errno.EIO and caught.value.filename == str(path)
    with mapped(io="read") as dump:
        assert dump.phys.read(63 << 12, PAGE) == stamp(63)
        with pytest.raises(OSError) as caught:
            dump.phys.read(64 << 12, PAGE)
        assert caught.value.errno == errno.EIO
        assert dump.lost is None and dump.check() is None


def test_other_sources_are_not_concerned(small_path):
    image = small_path.read_bytes()
    for source in (image, bytearray(image)):
        with kdmp.open(source) as dump:
            assert dump.check() is None and dump.lost is None
    dump = kdmp.open(small_path)
    assert dump.check() is None
    dump.close()
    with pytest.raises(ValueError, match="closed"):
        dump.check()
    grown = small_path.with_suffix(".grown")
    grown.write_bytes(small_machine().dump())
    with kdmp.open(grown) as dump, open(grown, "ab") as file:
        file.write(bytes(PAGE))
        file.flush()
        assert dump.check() is None
