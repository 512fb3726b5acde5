"""Symbol files (ISF): packed ones, the folders they are in, and the compiled cache.

SPDX-License-Identifier: MIT
"""

import bz2
import gzip
import json
import lzma
import os
import random
import threading
import zipfile
import zlib
from pathlib import Path

import pytest
from isftables import GUID, isf_error, table

from kdmp.symbols import SymbolError, isf, store
from kdmp.symbols import cache as disk
from kdmp.symbols.isf_file import MAX_SIZE

pytest_plugins = ["isffixtures"]
pytestmark = pytest.mark.usefixtures("isf_cache")

# --- packed ------------------------------------------------------------------------------------------------

PACKERS = {"xz": lzma.compress, "gz": gzip.compress, "bz2": bz2.compress}


def write_zip(path, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize("kind", PACKERS)
def test_packed_files(tmp_path, kind):
    data = json.dumps(table()).encode()
    pack = PACKERS[kind]
    path = tmp_path / f"table.json.{kind}"
    path.write_bytes(pack(data))
    assert isf.load(path).size("_POINT") == 8
    path = tmp_path / "no ending"  # the content tells, not the name
    path.write_bytes(pack(data[:100]) + pack(data[100:]))
    assert isf.load(path).size("_POINT") == 8
    for cut in (5, 20, 100, len(pack(data)) // 2):
        path.write_bytes(pack(data)[:cut])
        with pytest.raises(SymbolError, match="no ending"):
            isf.load(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_zip_archives(tmp_path, method):
    data = json.dumps(table()).encode()
    path = tmp_path / "table.zip"
    write_zip(path, {"readme.txt": b"no", "a/table.json": data}, method)
    assert isf.load(path).size("_POINT") == 8
    write_zip(path, {"table.JSON.xz": lzma.compress(data)}, method)
    assert isf.load(path).size("_POINT") == 8
    write_zip(path, {"readme.txt": b"no"}, method)
    with pytest.raises(SymbolError, match=r"without a \.json"):
        isf.load(path)


def test_damaged_zip_archives(tmp_path):
    data = json.dumps(table()).encode()
    path = write_zip(tmp_path / "table.zip", {"table.json": data})
    whole = path.read_bytes()
    rng = random.Random(3)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole[: rng.randrange(4, len(whole))] if rng.random() < 0.3 else whole)
        for _ in range(rng.randrange(1, 6)):
            place = rng.choice([rng.randrange(len(damaged)), -rng.randrange(1, min(120, len(damaged)))])
            damaged[place] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            isf.load(path)
        except SymbolError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 75
    write_zip(path, {"table.json": data}, zipfile.ZIP_LZMA)
    with pytest.raises(SymbolError, match="method 14"):
        isf.load(path)


@pytest.mark.parametrize("kind", [*PACKERS, "zip", "plain"])
def test_bombs_are_refused(tmp_path, kind):
    bomb = b" " * (MAX_SIZE + 1)
    path = tmp_path / "bomb.json"
    if kind == "zip":
        write_zip(path, {"table.json": bomb})
    elif kind == "plain":
        path.write_bytes(bomb)
    else:
        path.write_bytes(PACKERS[kind](bomb))
    with pytest.raises(SymbolError, match="larger than 64 MiB"):
        isf.load(path)


def test_xz_that_wants_much_memory(tmp_path):
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 20}]
    data = bytearray(lzma.compress(b"{}", filters=filters))
    assert isf_error(tmp_path, bytes(data)).endswith("no symbol file: it has no metadata")
    # The block header's byte for the size of the dictionary (40: 4 GiB - 1) and its checksum.
    header = data[12:24]
    at = header.index(b"\x21\x01") + 2
    header[at] = 40
    header[8:12] = zlib.crc32(header[:8]).to_bytes(4, "little")
    data[12:24] = header
    assert "damaged: Memory usage limit" in isf_error(tmp_path, bytes(data))


# --- where files are ---------------------------------------------------------------------------------------


def put(path, guid=GUID, age=10, **changes):
    """Write a symbol file of this identity."""
    value = table(**changes)
    value["metadata"]["windows"]["pdb"] |= {"GUID": guid, "age": age}
    data = json.dumps(value).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lzma.compress(data) if path.suffix == ".xz" else data)
    return path


@pytest.mark.parametrize(
    "name",
    [
        f"{GUID}-10.json",
        f"{GUID}-10.json.xz",
        f"{GUID.lower()}-10.JSON",
        f"ntkrnlmp.pdb/{GUID}-10.json.xz",
        f"NTKRNLMP.PDB/{GUID.lower()}-10.json",
        f"windows/ntkrnlmp.pdb/{GUID}-10.json.xz",
        f"Symbols/Windows/ntkrnlmp.PDB/{GUID}-10.json",
    ],
)
def test_folders(tmp_path, name):
    places = tmp_path / "places"
    path = put(places / name)
    put(places / f"{'0' * 32}-10.json", guid="0" * 32)
    layout = isf.find(GUID, 10, places)
    assert layout.source.file == str(path)
    assert layout.source.exact
    dashed = f"{{{GUID[:8]}-{GUID[8:12]}-{GUID[12:16]}-{GUID[16:20]}-{GUID[20:]}}}".lower()
    assert isf.find(dashed, 10, [tmp_path / "places"]).build == layout.build
    assert isf.find(GUID, 11, places) is None
    assert isf.find("1" * 32, 10, places) is None
    assert isf.find(None, None, places) is None
    if "/" in name:
        assert isf.find(GUID, 10, places, pdb="ntkrnlpa.pdb") is None


def test_named_files(tmp_path):
    path = put(tmp_path / "any name.bin")
    assert isf.find(GUID, 10, str(path)).exact
    with pytest.raises(
        SymbolError, match=rf"any name\.bin: is ntkrnlmp\.pdb {GUID}-10, not .* {GUID}-1"
    ) as error:
        isf.find(GUID, 1, path)
    assert error.value.pdb == f"ntkrnlmp.pdb {GUID}-1"
    other = put(tmp_path / "other.json", age=1)
    assert isf.find(GUID, 1, [path, other]).source.file == str(other)
    assert isf.find(GUID, 1, [path, put(tmp_path / "folder" / f"{GUID}-1.json", age=1).parent]).build.age == 1
    with pytest.raises(SymbolError, match="No such file"):
        isf.find(GUID, 10, tmp_path / "nothing")
    with pytest.raises(SymbolError, match="not a GUID"):
        isf.find("nonsense", 10, path)


def test_a_file_that_was_named_without_an_identity_is_not_exact(tmp_path):
    """Structures may be used, addresses not."""
    layout = isf.find(None, None, put(tmp_path / "file.json"))
    assert layout.source.other
    assert not layout.exact
    assert not layout.complete_symbols
    assert layout.size("_POINT") == 8
    assert layout.symbols == {}
    assert layout.nearest_symbol(0x1000) is None
    assert layout.find_symbols("*") == []
    assert "not known to be of this kernel" in str(layout.source)
    with pytest.raises(SymbolError, match="not exactly this kernel"):
        layout.symbol("Start")


def test_wrong_and_damaged_files_in_folders(tmp_path):
    put(tmp_path / f"{GUID}-10.json", age=9)  # the name lies: skipped
    assert isf.find(GUID, 10, tmp_path) is None
    put(tmp_path / "windows" / "ntkrnlmp.pdb" / f"{GUID}-10.json")
    assert isf.find(GUID, 10, tmp_path).exact
    damaged = tmp_path / "ntkrnlmp.pdb" / f"{GUID}-10.json.xz"
    damaged.parent.mkdir()
    damaged.write_bytes(b"\xfd7zXZ\0 and no more")
    assert isf.find(GUID, 10, tmp_path).exact  # there is a good one
    (tmp_path / "windows" / "ntkrnlmp.pdb" / f"{GUID}-10.json").unlink()
    with pytest.raises(SymbolError, match=damaged.name):
        isf.find(GUID, 10, tmp_path)


def test_archives_of_many_kernels(tmp_path):
    """Volatility's packs: all symbol files in one archive."""
    members = {}
    for age in range(1, 5):
        value = table()
        value["metadata"]["windows"]["pdb"]["age"] = age
        members[f"windows/ntkrnlmp.pdb/{GUID}-{age}.json.xz"] = lzma.compress(json.dumps(value).encode())
    pack = write_zip(tmp_path / "windows.zip", members)
    for place in (pack, tmp_path):
        for age in (3, 1):
            layout = isf.find(GUID, age, place)
            assert (layout.build.age, layout.exact, layout.source.file) == (age, True, str(pack))
    assert isf.find(GUID, 9, tmp_path) is None
    with pytest.raises(SymbolError):
        isf.find(GUID, 9, pack)


def test_environment_variable(tmp_path, monkeypatch):
    path, folder = put(tmp_path / "a.json"), put(tmp_path / "b" / f"{GUID}-3.json", age=3).parent
    assert isf.default_places() == []
    assert isf.find(GUID, 10, None) is None
    monkeypatch.setenv("KDMP_SYMBOLS", os.pathsep.join(["", str(tmp_path / "gone"), str(path), str(folder)]))
    assert isf.default_places() == [str(path), str(folder)]
    assert isf.find(GUID, 10, isf.default_places()).source.file == str(path)
    assert isf.find(GUID, 3, None).build.age == 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_what_is_no_plain_file(tmp_path):
    os.mkfifo(tmp_path / f"{GUID}-10.json")
    assert isf.find(GUID, 10, tmp_path) is None
    with pytest.raises(SymbolError, match="not a plain file"):
        isf.find(GUID, 10, tmp_path / f"{GUID}-10.json")
    with pytest.raises(SymbolError):
        isf.load(tmp_path)


# --- the cache ---------------------------------------------------------------------------------------------


def cached(home):
    return sorted(path for path in Path(home).rglob("*") if path.is_file() and path.parent.name == "isf-1")


@pytest.fixture
def no_parsing(monkeypatch):
    """Call it, and from then on reading a symbol file's JSON fails the test."""

    def forbid():
        monkeypatch.setattr("kdmp.symbols.isf_parse.parse", lambda data: pytest.fail("was parsed"))

    return forbid


def works(layout):
    return layout.field("_ALL", "matrix").size == 48 and layout.symbol("Start") == 0x1000


def test_second_use_reads_only_the_cache(isf_cache, make_isf, no_parsing):
    path = make_isf()
    assert works(isf.load(path))
    assert len(cached(isf_cache)) == 1
    no_parsing()
    layout = isf.load(path)
    assert works(layout)
    assert dict(layout.enum("_COLOR"))["None"] == -1
    assert layout.nearest_symbol(0x1001) == ("Real", 1)
    assert isf.find(GUID, 10, path).exact


def test_changed_file_is_read_again(make_isf):
    assert works(isf.load(make_isf()))
    path = make_isf(symbols={"Start": {"address": 0x1000}, "New": {"address": 0x7777}})
    assert isf.load(path).symbol("New") == 0x7777
    text = path.read_text()
    before = path.stat()
    path.write_text(text.replace("30583", "30584"))  # of the same size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert isf.load(path).symbol("New") == 0x7778


def test_files_of_one_name_do_not_mix(tmp_path, isf_cache):
    ours = put(tmp_path / "a" / f"{GUID}-10.json")
    theirs = put(tmp_path / "b" / f"{GUID}-10.json", symbols={"Start": {"address": 5}})
    for _ in range(2):
        assert isf.load(ours).symbol("Start") == 0x1000
        assert isf.load(theirs).symbol("Start") == 5
    assert len(cached(isf_cache)) == 2


def test_cache_entry_of_another_file_is_not_used(tmp_path, isf_cache, monkeypatch):
    """Even if both have one name in the cache."""
    monkeypatch.setattr(store, "_name", lambda key: "isf-1/same.bin")
    ours = put(tmp_path / "a" / f"{GUID}-10.json")
    theirs = put(tmp_path / "b" / f"{GUID}-10.json", symbols={"Start": {"address": 5}})
    for _ in range(2):
        assert isf.load(ours).symbol("Start") == 0x1000
        assert isf.load(theirs).symbol("Start") == 5
    assert len(cached(isf_cache)) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda old: b"",
        lambda old: old[:20],
        lambda old: old[:-1],
        lambda old: old + b"\0",
        lambda old: old[: len(old) // 2] + b"\xff" + old[len(old) // 2 + 1 :],
        lambda old: old.replace(b"kdmp-symbols-1", b"kdmp-symbols-0"),
        lambda old: b"\n" * 100,
    ],
    ids=["empty", "head", "cut", "longer", "changed", "version", "lines"],
)
def test_damaged_cache_files_are_replaced(make_isf, isf_cache, damage):
    path = make_isf()
    assert works(isf.load(path))
    (entry,) = cached(isf_cache)
    good = entry.read_bytes()
    entry.write_bytes(damage(good))
    assert works(isf.load(path))
    assert entry.read_bytes() == good


def test_cache_with_a_good_checksum_and_a_bad_body(make_isf, isf_cache):
    path = make_isf()
    assert works(isf.load(path))
    (entry,) = cached(isf_cache)
    magic = entry.read_bytes().split(b" ", 1)[0]
    for body in (b"", b"00000005", b"00000002{}", b"00000002[]", b"xxxxxxxx{}", b'00000013{"sections":1}'):
        entry.write_bytes(b"%s %08x %d\n" % (magic, zlib.crc32(body), len(body)) + body)
        assert works(isf.load(path)), body


def test_without_a_cache(make_isf, isf_cache, monkeypatch):
    path = make_isf()
    isf_cache.write_bytes(b"")  # a file where the folder should be
    assert works(isf.load(path))
    monkeypatch.setattr(disk, "folder", lambda: None)
    assert works(isf.load(path))


def test_failed_writes_leave_nothing(make_isf, isf_cache, monkeypatch):
    def refuse(*args):
        raise PermissionError(13, "no")

    monkeypatch.setattr(os, "replace", refuse)
    assert works(isf.load(make_isf()))
    assert cached(isf_cache) == []


def test_many_threads(make_isf):
    """Some compile the same file at once, all look things up in one layout."""
    path, found = make_isf(), []
    gate = threading.Barrier(8)
    shared = isf.load(put(path.with_name("shared.json")))

    def run(seed):
        rng = random.Random(seed)
        gate.wait(10)
        own = isf.load(path)
        names = list(shared.structs) * 20
        rng.shuffle(names)
        sizes = [shared.struct(name).size for name in names]
        fields = [field.size for field in shared.struct("_ALL")]
        hits = [shared.nearest_symbol(rng.randrange(0x1000, 0x2000))[0] for _ in range(200)]
        found.append((works(own), works(shared), sorted(sizes), fields, set(hits)))

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 8
    assert all(one == found[0] for one in found)
    assert found[0][:2] == (True, True)
