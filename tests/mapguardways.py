"""Every way to memory of a dump whose mapped file is cut to nothing; run by test_mapguard.py.

`python mapguardways.py FOLDER` prints a line of JSON for each way as soon as it is done: if the process dies
one sees at which.

SPDX-License-Identifier: MIT
"""

import errno
import io
import json
import os
import shutil
import sys
from pathlib import Path

from conftest import KERNEL_VA, small_machine
from dumpbuilder import BITMAP, PAGE, build

import kdmp
from kdmp._kdmp import Matcher
from kdmp.convert import convert

HOLE = KERNEL_VA + 0x2000


class World:
    """A dump that is mapped, and what the ways use; made anew for each."""

    def __init__(self, path):
        self.path = path
        self.dump = kdmp.open(path)
        self.dump.kind, self.dump.bugcheck  # what is known already is not asked again
        self.reader = self.dump.reader(dtb=0x1000, paging="x64", discover=False)
        self.phys = self.dump.phys
        self.sound = kdmp.open(path.read_bytes())
        self.overlay = self.dump.overlay()
        self.over = self.overlay.reader(dtb=0x1000, paging="x64", discover=False)
        self.frames = list(self.dump.pages)
        self.pages = self.dump.pages
        self.page = self.pages[0x20]
        self.mappings = self.reader.mappings()
        self.runs = self.pages.runs()
        self.numbers = iter(self.pages)
        self.extents = self.reader.extents()

    def close(self):
        self.page.release()
        self.dump.close()


def collected(w):
    with w.dump.collect_faults():
        w.reader.read_u64(KERNEL_VA)


def scratched(w):
    with w.overlay.scratch() as ov:
        ov.write_u64(0x20000, 1)


def monitored(w):
    watch = kdmp.PageTableMonitor(w.overlay)
    watch.monitor(KERNEL_VA, 0x1000, paging="x64")


def converted(w):
    convert(w.dump, io.BytesIO(), kdmp.DumpKind.BITMAP_FULL)


def examined(w):
    """The doctor tells, once."""
    for finding in w.dump.findings:
        if finding.code == "io-error":
            raise OSError(errno.EIO, finding.message, str(w.path))


def viewed(w):
    assert bytes(w.page) == bytes(PAGE)  # nobody can raise here
    w.reader.read_u8(KERNEL_VA)


def exported(w):
    assert bytes(memoryview(w.dump)[-PAGE:]) == bytes(PAGE)
    w.dump.pages[0x20]


# What meets the loss itself.
WAYS = {
    "read": lambda w: w.reader.read(KERNEL_VA, 16),
    "read_exact": lambda w: w.reader.read_exact(KERNEL_VA, 16),
    "try_read_exact": lambda w: w.reader.try_read_exact(KERNEL_VA, 16),
    "read_into": lambda w: w.reader.read_into(KERNEL_VA, bytearray(64)),
    "read_gaps": lambda w: w.reader.read_gaps(KERNEL_VA, 0x4000),
    "is_readable": lambda w: w.reader.is_readable(KERNEL_VA),
    "read_u8": lambda w: w.reader.read_u8(KERNEL_VA),
    "read_u64": lambda w: w.reader.read_u64(KERNEL_VA),
    "read_f64": lambda w: w.reader.read_f64(KERNEL_VA),
    "read_ptr": lambda w: w.reader.read_ptr(KERNEL_VA),
    "read_uint": lambda w: w.reader.read_uint(KERNEL_VA, 4),
    "read_cstr": lambda w: w.reader.read_cstr(KERNEL_VA + 0x100),
    "read_cstr_bytes": lambda w: w.reader.read_cstr_bytes(KERNEL_VA + 0x100, strict=False),
    "read_wstr": lambda w: w.reader.read_wstr(KERNEL_VA + 0x200),
    "read_unicode_string": lambda w: w.reader.read_unicode_string(KERNEL_VA + 0x300),
    "read_struct": lambda w: w.reader.read_struct(KERNEL_VA, "<QQ"),
    "of a context": lambda w: w.phys.read_u64(kdmp.AccessContext(KERNEL_VA, 0x1000)),
    "a hole": lambda w: w.reader.read(HOLE, 16),
    "physical": lambda w: w.phys.read(0x20000, 16),
    "long": lambda w: w.phys.read_gaps(0, 0x100000),
    "translate": lambda w: w.reader.translate(KERNEL_VA),
    "try_translate": lambda w: w.reader.try_translate(KERNEL_VA),
    "is_resident": lambda w: w.reader.is_resident(KERNEL_VA),
    "pte": lambda w: w.reader.pte(KERNEL_VA),
    "explain": lambda w: w.reader.explain(KERNEL_VA),
    "translate_many": lambda w: w.reader.translate_many([KERNEL_VA, HOLE]),
    "read_many": lambda w: w.reader.read_many([KERNEL_VA] * 1000, 8),
    "read_u64_many": lambda w: w.reader.read_u64_many([KERNEL_VA, HOLE]),
    "mappings": lambda w: list(w.mappings),
    "mappings_buffer": lambda w: w.reader.mappings_buffer(),
    "find_frame": lambda w: list(w.reader.find_frame(0x20)),
    "owners": lambda w: w.reader.owners(0x20),
    "read_file": lambda w: w.dump.read_file(0, 16),
    "context_bytes": lambda w: w.dump.context_bytes(),
    "context": lambda w: w.dump.context,
    "compare": lambda w: w.dump.compare(w.sound, 0, 1 << 20),
    "be compared": lambda w: w.sound.compare(w.dump, 0, 1 << 20),
    "series": lambda w: kdmp.SnapshotSeries([w.sound, w.dump]).diff().frames,
    "overlay read": lambda w: w.over.read_u64(KERNEL_VA),
    "overlay write": lambda w: w.over.write_u64(KERNEL_VA, 1),
    "overlay physical": lambda w: w.overlay.write_u8(0x20000, 1),
    "overlay scratch": scratched,
    "overlay save_as": lambda w: w.overlay.save_as(w.path.with_suffix(".saved")),
    "monitor": monitored,
    "convert": converted,
    "collect_faults": collected,
    "check": lambda w: w.dump.check(),
    "memoryview": viewed,
    "buffer": exported,
    "find_root": lambda w: w.dump.find_root("x64"),
    "kernel": lambda w: w.dump.kernel,
    "processes": lambda w: list(w.dump.windows.processes()),
    "modules": lambda w: list(w.dump.windows.modules()),
    "doctor": examined,
    "large read": lambda w: w.reader.read(KERNEL_VA, 0x40000),
    "large read_into": lambda w: w.reader.read_into(KERNEL_VA, bytearray(0x40000)),
    "large overlay read": lambda w: w.over.read(KERNEL_VA, 0x40000),
    "extents": lambda w: list(w.reader.extents()),
    "skip": lambda w: w.reader.extents().skip(1 << 20),
    "buffers": lambda w: list(w.reader.buffers()),
    "reader buffer": lambda w: w.reader.buffer(KERNEL_VA, 16),
    "missing": lambda w: w.reader.missing(HOLE),
    "extract": lambda w: w.reader.extract(KERNEL_VA, 0x3000, w.path.with_suffix(".bin")),
    "scan": lambda w: w.reader.scan(Matcher([b"hello"])),
    "scan text": lambda w: w.phys.scan(Matcher(text=(4, 3))),
    "search": lambda w: list(w.reader.search("hello")),
    "search in threads": lambda w: list(w.phys.search("hello", threads=2)),
    "search in file order": lambda w: list(w.phys.search("hello", order="file")),
    "search a regular expression": lambda w: list(w.phys.search(kdmp.Pattern.regex(b"hel+o"))),
    "strings": lambda w: list(w.reader.strings()),
}

# What meets it if the table of frames is in the mapping.
TABLE = {
    "in": lambda w: 0x20 in w.pages,
    "slice": lambda w: w.pages[0x20:],
    "page": lambda w: w.pages[0x20],
    "list": lambda w: list(w.pages),
    "next run": lambda w: next(w.runs),
    "create_frame": lambda w: w.overlay.create_frame(),
    "remap": lambda w: w.overlay.remap(0x21, 0x20),
    "pages buffer": lambda w: w.pages.buffer(0x20, 2),
}

# What need not look at the file, but raises once it is known to be lost.
AFTER = {
    "header": lambda w: w.dump.header,
    "figures": lambda w: w.dump.figures,
    "layout": lambda w: w.dump.layout,
    "file_size": lambda w: w.dump.file_size,
    "truncated": lambda w: w.dump.truncated,
    "pages": lambda w: w.dump.pages,
    "len": lambda w: len(w.pages),
    "in": lambda w: 0x20 in w.pages,
    "slice": lambda w: w.pages[0x20:],
    "page": lambda w: w.pages[0x20],
    "list": lambda w: list(w.pages),
    "next frame": lambda w: next(w.numbers),
    "next run": lambda w: next(w.runs),
    "next mapping": lambda w: next(w.mappings),
    "runs": lambda w: list(w.pages.runs()),
    "va_ranges": lambda w: w.dump.va_ranges(),
    "triage_header": lambda w: w.dump.triage_header,
    "choose_paging": lambda w: w.dump.choose_paging(0x1000),
    "memoryview": lambda w: memoryview(w.dump),
    "enter": lambda w: w.dump.__enter__(),
    "reader": lambda w: w.dump.reader(dtb=0x1000, paging="x64"),
    "overlay": lambda w: w.dump.overlay(),
    "snapshot": lambda w: w.overlay.snapshot(),
    "frames": lambda w: w.overlay.frames(),
    "create_frame": lambda w: w.overlay.create_frame(),
    "remap": lambda w: w.overlay.remap(0x21, 0x20),
    "reset": lambda w: w.overlay.reset(),
    "overlay runs": lambda w: list(w.overlay.runs()),
    "diff": lambda w: list(w.overlay.diff()),
    "triage": lambda w: w.dump.triage,
    "blobs": lambda w: list(w.dump.blobs()),
    "windows": lambda w: w.dump.windows.processes(),
    "next extent": lambda w: next(w.extents),
    "skip": lambda w: w.extents.skip(1),
    "pages buffer": lambda w: w.pages.buffer(0x20),
}


def outcome(call, world):
    """What became of a call: the errno and the file name of OSError, else what it was."""
    try:
        found = call(world)
    except OSError as error:
        return [error.errno, str(error.filename), str(error)]
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return f"gave {found!r:.80}"


def images():
    """Dumps of the small machine whose frame tables are, and are not, in the mapping."""
    memory = small_machine()
    yield "runs", memory.dump(minor_version=19041, bug_check_code=0xD1)
    yield "bitmap", build(BITMAP, memory.pages, minor_version=19041, directory_table_base=0x1000)


def go_through(folder):
    for kind, image in images():
        original = Path(folder, kind)
        original.write_bytes(image)
        for name, call in (WAYS | (TABLE if kind == "bitmap" else {})).items():
            path = Path(folder, f"{kind}.dmp")
            shutil.copyfile(original, path)
            world = World(path)
            os.truncate(path, 0)
            first = outcome(call, world)
            lost = world.dump.lost
            again = [outcome(call, world), repr(world.dump)]
            world.close()
            print(json.dumps([kind, name, first, lost, *again]), flush=True)
        shutil.copyfile(original, path)
        world = World(path)
        next(world.mappings), next(world.numbers)
        os.truncate(path, 0)
        outcome(WAYS["read"], world)
        for name, call in AFTER.items():
            print(json.dumps([kind, f"after: {name}", outcome(call, world), world.dump.lost]), flush=True)
        world.close()
    print(json.dumps(["end", kdmp._kdmp._guarded()]), flush=True)


if __name__ == "__main__":
    go_through(sys.argv[1])
