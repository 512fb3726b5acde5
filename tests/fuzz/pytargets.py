"""The targets of pyfuzz.py: what is fuzzed, what it begins with, and which errors it may raise.

SPDX-License-Identifier: MIT
"""

import contextlib
import copy
import functools
import gzip
import json
import lzma
import os
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import differential
import doctordumps
import dumpbuilder
import isftables
import make_corpus
import packers
import pebuilder
import shareddata
import spaces
import vadtrees
from pyfuzz import Bytes, Patches

import kdmp
from kdmp import sample
from kdmp.doctor import examine
from kdmp.packed import unpack
from kdmp.packed.lznt1 import LZNT1Error, decompress
from kdmp.symbols import SymbolError, isf, store
from kdmp.symbols.layouts import Catalogue
from kdmp.windows import handletable, vads
from kdmp.windows.image import Image
from kdmp.windows.modules import Module
from kdmp.windows.pe import identify
from kdmp.windows.version import parse_version

PAGE = 0x1000
KERNEL_BASE = 0xFFFFF80012340000
FILE_ERRORS = (kdmp.KdmpError, OSError)
WALKED = ("windows", "views", "symbols")


@dataclass
class Target:
    """`use` gets what `inputs` make of an input; any exception but those `allowed` is a finding."""

    inputs: Any
    use: Any
    allowed: tuple = FILE_ERRORS


def attributes(thing, *, skip=()):
    """Ask for every public attribute that is not a method; those of kdmp say themselves what is wrong."""
    for name in dir(type(thing)):
        if name.startswith("_") or name in skip or callable(getattr(type(thing), name, None)):
            continue
        with contextlib.suppress(*FILE_ERRORS):
            getattr(thing, name)


def first(things, limit=8):
    """The first few of something that may be long, or may fail on the way."""
    with contextlib.suppress(*FILE_ERRORS):
        for _, thing in zip(range(limit), things, strict=False):
            yield thing


# ---- dumps ----


@functools.cache
def small_dumps():
    """Dumps of all kinds and machines, a few pages each."""
    seeds = make_corpus.open_seeds()
    dumps = [seeds[name] for name in seeds if len(seeds[name]) > 0x100]
    dumps += [doctordumps.Machine(paging).dump() for paging in doctordumps.BASES]
    dumps += [doctordumps.Machine().dump(kind) for kind in (dumpbuilder.FULL, dumpbuilder.SUMMARY)]
    return dumps


def use_dump(image):
    with kdmp.open(image) as dump:
        attributes(dump, skip=(*WALKED, "structure_layout", "pfns", "pte_layout"))
        for run in first(dump.pages.runs()):
            dump.phys.read(run.pfn * PAGE, 64)
        for _ in first(dump.blobs(), 20):
            pass
        for name in ("ps_loaded_module_list", "kd_debugger_data_block"):
            va = getattr(dump, name)
            if va is None:
                continue
            with contextlib.suppress(*FILE_ERRORS):
                reader = dump.reader()
                str(reader.explain(va))
                reader.read_gaps(va, 0x2000)
                list(first(reader.mappings(), 30))
        [str(finding) for finding in dump.findings]


def use_doctor(image):
    str(examine(image))


def use_triage(image):
    with kdmp.open(image) as dump:
        triage = dump.triage
        if triage is not None:
            attributes(triage)
        str(dump.ranges)
        list(first(dump.blobs(), 50))
        use_windows(dump)


def triage_dumps():
    return [
        *(doctordumps.triage(machine) for machine in ("x64", "x86", "arm64")),
        *(make_corpus.small_triage(bits) for bits in (64, 32)),
    ]


def use_raw(image):
    machine = image[0] % 3 if image else 0
    with kdmp.open_raw(bytes(image[1:]), arch=("x64", "x86", "arm64")[machine]) as dump:
        attributes(dump, skip=WALKED)
        dump.phys.read_gaps(0, 0x3000)


def raw_images():
    return [seed[:1] + seed[2:] for seed in make_corpus.raw_seeds().values() if seed[1] == 0]


# ---- what is packed ----


def packed_files():
    content = packers.make_dump(pages=2)
    files = [packers.PACKERS[kind](content) for kind in packers.PACKERS if kind != "zstd"]
    files.append(packers.make_cab({"readme.txt": b"x" * 400, "a.dmp": content}, 0, reserve=b"abc", flags=1))
    files.append(packers.make_zip({"a.txt": b"text", "b.dmp.gz": gzip.compress(content)}))
    files.append(packers.make_zdmp(content, 0x1000))
    return files


def use_packed(image):
    unpacked = unpack(bytes(image), max_size=1 << 26)
    if unpacked is not None:
        with unpacked:
            str(unpacked)


def use_lznt1(data):
    assert len(decompress(bytes(data), 0x10000)) <= 0x10000


def lznt1_streams():
    texts = (b"abc" * 2000, bytes(range(256)) * 30, b"", b"x" * 0x2001)
    return [packers.lznt1(text) for text in texts]


# ---- symbols ----


def use_isf(data):
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        file.write(data)
        file.flush()
        use_layout(isf.load(file.name))


def use_layout(layout):
    """Ask a layout for a little of everything."""
    for name in first(layout.structs, 40):
        with contextlib.suppress(SymbolError):
            for field in first(layout.struct(name).fields.values(), 60):
                attributes(field)
                str(field)
    for name in first(layout.enums, 10):
        layout.enum(name)
    for name, rva in first(layout.symbols.items(), 20):
        layout.nearest_symbol(rva)
        layout.symbol(name)
    layout.find_symbols("*")


class Json(Bytes):
    """JSON: half of the time a value in the tree is changed."""

    def mutate(self, data, rng):
        try:
            tree = json.loads(data)
        except (ValueError, RecursionError):
            return rng.choice(self.bases)
        if rng.random() < 0.1:
            return super().mutate(data, rng)
        holders = [tree]
        for holder in holders:
            inner = holder.values() if isinstance(holder, dict) else holder
            holders += [value for value in inner if isinstance(value, dict | list) and value]
        for _ in range(rng.randint(1, 3)):
            holder = rng.choice(holders)
            if not holder:
                continue
            key = rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
            other = copy.deepcopy(rng.choice(holders)) or {"": 0}
            values = [
                None, True, 0, 1, -1, 2**31, 2**32, 2**63, 2**64, 1e308, 0.5, "", "x", "base", "struct", [],
                {},
                other,
                "9" * 30, {"kind": "pointer", "subtype": other}, next(iter(other)),
            ]  # fmt: skip
            choice = rng.random()
            if choice < 0.15:
                del holder[key]
            elif choice < 0.3 and isinstance(holder, dict):
                holder[rng.choice((*other, "new", ""))] = holder[key]
            else:
                holder[key] = rng.choice(values)
        out = json.dumps(tree).encode()
        return out if len(out) < 1 << 16 else data


def compiled_tables():
    """The compiled form of a symbol file, without its checksum line."""
    meta = {"of": ["x", [1, 2, 3]], "guid": None, "age": None, "arch": "x64", "pdb": None, "version": "0"}
    structs = {"_A": (8, "x 0 4 u4"), "_B": (16, "y 0 8 u8;z 8 4 u4")}
    data = store.compiled(meta, structs, {"E": {"a": 1, "b": 2}}, {"S": 0x1000, "T": 0x2000, "U": 5})
    return [data.partition(b"\n")[2]]


def use_compiled(data):
    """What only its checksum protects: to be told apart from damage only by the checksum, so that any
    error of reading is allowed, but no crash and no endless loop."""
    from zlib import crc32

    data = bytes(data)
    table = store.Compiled(b"%s %08x %d\n" % (store._MAGIC, crc32(data), len(data)) + data)
    for part in (table.structs, table.enums, table.symbols):
        for name in first(part, 20):
            part.get(name)
        part.get("nothing")
    table.symbols.items()


# ---- images ----


def images():
    export_data = pebuilder.exports([0x1000, 0x1010, "NTDLL.RtlFoo", 0, 0x1F00], {"A": 0, "Bcd": 1, "F": 2})
    resource_data = pebuilder.resources(pebuilder.version_resource([("CompanyName", "x"), ("Empty", "")]))
    options = {"export_data": export_data, "resource_data": resource_data}
    return [
        pebuilder.image(**options), pebuilder.image(wide=False, **options),
        pebuilder.image(nb10=True, reproducible=True, **options),
    ]  # fmt: skip


def use_image(data):
    reader = pebuilder.FakeReader()
    reader.put(KERNEL_BASE, bytes(data))
    with contextlib.suppress(*FILE_ERRORS):
        str(identify(reader, KERNEL_BASE))
    image = Image(reader, KERNEL_BASE)
    attributes(image)
    str(image)
    json.dumps(image.to_dict(), default=str)
    for name in ("A", "Bcd", "nothing", 5, 99):
        image.export(name)
    if image.exports is not None:
        attributes(image.exports)
        for rva in (0, 0x1008, 1 << 31):
            image.exports.nearest(rva)
    for va in (0, 0x1000, 0x8FFF):
        image.section_at(KERNEL_BASE + va)


def use_version(data):
    str(parse_version(bytes(data)))


# ---- Windows' objects ----


def use_windows(dump):
    """Walk everything there is."""
    with contextlib.suppress(*FILE_ERRORS):
        windows = dump.windows
        attributes(windows)
        for listing in ("processes", "threads", "modules", "unloaded_modules"):
            with contextlib.suppress(*FILE_ERRORS):
                for one in first(getattr(windows, listing)(), 20):
                    use_entity(one)
        json.dumps(windows.to_dict(), default=str)


def use_entity(one):
    attributes(one)
    str(one)
    one.to_dict()
    one.examine()
    for name in ("threads", "modules", "vads"):
        if hasattr(one, name) and not isinstance(one, Module):
            with contextlib.suppress(*FILE_ERRORS):
                for inner in first(getattr(one, name)(), 10):
                    attributes(inner)
                    str(inner)


@functools.cache
def machines():
    """Machines with processes and modules; those of the shared data come last, if they are there."""
    out = []
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "sample.dmp")
        sample.build(path)
        out.append(Path(path).read_bytes())
    out.append(doctordumps.Machine().dump())
    for name in ("win10-19041", "win7-7601", "win11-22000-pti"):
        packed = shareddata.SHARED / "data" / "machines" / name / "kernel.dmp.xz"
        if packed.exists():
            out.append(lzma.decompress(packed.read_bytes()))
    return out


def use_machine(image):
    with kdmp.open(image) as dump:
        use_windows(dump)


class Spaces(Patches):
    """Memory made of pages: the bases are their pages one after the other."""

    def __init__(self, made):
        self.places = [sorted(space.pages) for space, _ in made]
        self.extras = [extra for _, extra in made]
        super().__init__([b"".join(bytes(space.pages[n]) for n in sorted(space.pages)) for space, _ in made])

    def apply(self, data):
        image = super().apply(data)
        if image is None or len(image) % PAGE:
            return None
        number = data[0]
        space = spaces.Space()
        for k, page in enumerate(self.places[number][: len(image) // PAGE]):
            space.pages[page] = image[k * PAGE : (k + 1) * PAGE]
        return space, self.extras[number]


def vad_spaces():
    out = []
    for layout in spaces.known_layouts():
        if (layout.build.number, layout.arch) not in ((7601, "x64"), (19041, "x64"), (2600, "x86")):
            continue
        space, build, arch = spaces.Space(), layout.build.number, layout.arch
        mades = [vadtrees.Made(0x10000 * k, 0x10000 * k + 0xFFF * (k % 3)) for k in range(1, 9)]
        address = 0xFFFF_8000_0010_0000 if arch == "x64" else 0x8010_0000
        root = address + layout.offset("_EPROCESS", "VadRoot")
        space.put(address, bytes(layout.size("_EPROCESS")))
        vadtrees.tree(space, mades, root, build, arch)
        out.append((space, (layout, address)))
    return out


def use_vads(made):
    space, (layout, address) = made
    windows = spaces.fake_windows(layout, space)
    process = spaces.FakeProcess(windows, space, address=address)
    for vad in first(vads.vads(process), 200):
        attributes(vad)
        vad.examine()
    for va in (0x20000, 0x20FFF, 0x7FFF0000):
        with contextlib.suppress(*FILE_ERRORS):
            vads.find(process, va)
            vads.resolve(process, va)
            vads.read_page(process, va)


def handle_spaces():
    out, base = [], 0xFFFF_8000_0000_0000
    for shift, width, attribute in ((None, None, None), (23, 41, 20), (20, 44, 17)):
        space = spaces.Space()
        space.put(base, bytes(PAGE))
        space.put_uint(base + 8, base + 0x1000 | 1)
        for k in range(3):
            space.put_uint(base + 0x1000 + 8 * k, base + 0x2000 + 0x1000 * k)
            space.put(base + 0x2000 + 0x1000 * k, bytes(PAGE))
            for entry in range(1, 9):
                space.put_uint(base + 0x2000 + 0x1000 * k + 16 * entry, base + 0x100 * entry | 1)
                space.put_uint(base + 0x2000 + 0x1000 * k + 16 * entry + 8, 0x1F0003)
        bits = {"ObjectPointerBits": (shift, width), "Attributes": (attribute, 3)} if shift else {}
        out.append((space, (base, bits)))
    return out


def use_handles(made):
    space, (base, bits) = made
    layout = SimpleNamespace(
        pointer_size=8,
        has=lambda name, field="": field in bits,
        field=lambda name, path: SimpleNamespace(bit_start=bits[path][0], bit_width=bits[path][1]),
        size=lambda name: 16,
        offset=lambda name, field: 8,
    )
    windows = SimpleNamespace(layout=layout, reader=space, pointer_size=8)
    table = handletable.HandleTable(windows, base)
    attributes(table)
    for _ in first(table.entries(), 2000):
        pass
    for _ in first(table.objects(), 2000):
        pass
    for handle in (0, 4, 8, 0x400, 0x7FC, 1 << 20):
        table.find(handle)


# ---- all of them ----


def _targets():
    json_seed = json.dumps(isftables.table()).encode()
    return {
        "reference": lambda: differential.target(Patches),
        "dump": lambda: Target(Patches(small_dumps()), use_dump),
        "doctor": lambda: Target(Patches(small_dumps() + triage_dumps()), use_doctor),
        "triage": lambda: Target(Patches(triage_dumps()), use_triage),
        "raw": lambda: Target(Patches(raw_images()), use_raw),
        "packed": lambda: Target(Patches(packed_files()), use_packed),
        "lznt1": lambda: Target(Bytes(lznt1_streams()), use_lznt1, (LZNT1Error,)),
        "isf": lambda: Target(Json([json_seed]), use_isf, (SymbolError,)),
        "cache": lambda: Target(
            Patches(compiled_tables()), use_compiled, (ValueError, LookupError, TypeError, MemoryError)
        ),
        "pe": lambda: Target(Patches(images()), use_image),
        "version": lambda: Target(
            Bytes([pebuilder.version_resource([("CompanyName", "x"), ("Empty", "")])]), use_version
        ),
        "machine": lambda: Target(Patches(machines()), use_machine),
        "vads": lambda: Target(Spaces(vad_spaces()), use_vads),
        "handles": lambda: Target(Spaces(handle_spaces()), use_handles),
    }


@contextlib.contextmanager
def make(name):
    """A target, with a cache folder of its own. Layouts are read once, not for each input."""
    warnings.simplefilter("error")
    Catalogue.layout = functools.cache(Catalogue.layout)
    Catalogue._kernel = functools.cache(Catalogue._kernel)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        yield _targets()[name]()
