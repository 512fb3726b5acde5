"""kdmp.doctor: each finding has a dump that provokes it, healthy dumps give none, nothing ever raises.

SPDX-License-Identifier: MIT
"""

import gzip
import json
import random
import re
import struct
import time
from pathlib import Path

import pytest
import shareddata
from doctordumps import (
    ERROR,
    INFO,
    WARNING,
    Machine,
    bad,
    codes,
    only,
    poke,
    triage,
    with_context,
)
from dumpbuilder import (
    ALL_KINDS,
    BITMAP,
    COMPLETE,
    FULL,
    HEADER,
    KERNEL,
    PAGE,
    RANGES8,
    SUMMARY,
    WRITER_KINDS,
    bitmap_dump,
    header_page,
    patched,
    ranges_dump,
    runs_dump,
)
from test_real_headers import DUMPIT, LIVEKD, TRIAGE, WIN7_X86

import kdmp
from kdmp import doctor, sample
from kdmp.cli import main
from kdmp.doctor import Finding, Report, examine
from kdmp.doctor.exam import CHECKS

SECONDS = 1.0
SEED = 20_240_314
MUTATIONS = 500


# ---- what findings and reports are ----


def test_finding():
    finding = Finding(ERROR, "truncated", "The file ends.", 0x2000, 0x3000, b"\x01\xff", "get it again")
    assert str(finding) == "error: The file ends. (file offset 0x2000)"
    assert finding.to_dict() == {
        "severity": "error", "code": "truncated", "message": "The file ends.", "offset": 0x2000,
        "expected": 0x3000, "found": "01ff", "advice": "get it again",
    }  # fmt: skip
    assert Finding(INFO, "live", "x").to_dict() == {"severity": "info", "code": "live", "message": "x"}
    assert str(Finding(INFO, "live", "x")) == "info: x"
    assert INFO < WARNING < ERROR
    with pytest.raises(AttributeError):
        finding.code = "other"


def test_report():
    report = Report(True, [Finding(INFO, "live", "x")], ["header facts"])
    assert report.healthy
    assert report.to_dict() == {
        "dump_opens": True, "healthy": True, "works": ["header facts"],
        "findings": [{"severity": "info", "code": "live", "message": "x"}],
    }  # fmt: skip
    broken = Report(False, [Finding(ERROR, "raw", "x")], [], "no", [(1, 2, 3)])
    assert not broken.healthy
    assert (broken.to_dict()["runs"], broken.to_dict()["error"]) == ([[1, 2, 3]], "no")


@pytest.mark.parametrize(
    "value, text",
    [(3, "3"), (0x20, "32 (0x20)"), (1 << 40, "0x10000000000"), (b"\x01\xff", "01 ff"), ("a", "a")],
)  # fmt: skip
def test_values_as_people_read_them(value, text):
    assert doctor.shown(value) == text


def test_worst_first():
    severities = [f.severity for f in examine(patched(Machine().dump()[:-PAGE], processors=0)).findings]
    assert severities == sorted(severities, reverse=True)
    assert {ERROR, WARNING, INFO} == set(severities)


# ---- healthy dumps ----


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_healthy(kind):
    report = examine(Machine().dump(kind))
    assert report.dump_opens
    assert report.healthy, report.findings
    assert report.error is None
    assert "the list of 3 modules" in report.works
    assert "the list of 3 processes" in report.works
    assert any(text.startswith("virtual reads through dtb 0x1000 (x64)") for text in report.works)


@pytest.mark.parametrize("paging", ["pae", "x86", "arm64"])
@pytest.mark.parametrize("kind", [FULL, BITMAP, KERNEL])
def test_healthy_on_other_machines(paging, kind):
    report = examine(Machine(paging).dump(kind))
    assert report.healthy, report.findings
    assert f"virtual reads through dtb 0x1000 ({paging})" in report.works
    assert "the list of 3 processes" in report.works


@pytest.mark.parametrize("machine", ["x64", "arm64", "x86"])
def test_healthy_triage(machine):
    report = examine(triage(machine))
    assert report.healthy, report.findings
    assert "the list of 2 drivers" in report.works
    assert "1 piece of secondary data" in report.works


@pytest.mark.parametrize("kind", WRITER_KINDS)
def test_the_sample_has_no_findings(kind, tmp_path):
    sample.build(tmp_path / "sample.dmp", kind=kind)
    with kdmp.open(tmp_path / "sample.dmp") as dump:
        assert dump.findings == []
    report = examine(tmp_path / "sample.dmp", io="read")
    assert report.findings == []
    assert "physical reads of 794 of 794 pages" in report.works


def test_findings_of_a_closed_dump():
    dump = kdmp.open(Machine().dump())
    dump.close()
    with pytest.raises(ValueError, match="closed"):
        dump.findings


def test_header_only():
    report = examine(with_context(header_page(3, **Machine().header)))
    assert report.healthy, report.findings
    assert [text.split(" (")[0] for text in report.works] == [
        "header facts",
        "registers of the crashing processor",
    ]


def test_memory_without_a_header():
    with kdmp.open_raw(bytes(4 * PAGE), dtb=0x1000) as dump:
        found = {(f.code, f.severity) for f in dump.findings}
        assert found == {("dtb-untested", INFO), ("paging-default", INFO)}
    with kdmp.open_raw(bytes(4 * PAGE)) as dump:
        assert dump.findings == []
    with kdmp.open_raw(bytes(4 * PAGE), dtb=0x100000) as dump:
        assert only(dump.findings, "dtb-frame").severity == ERROR


# ---- the header ----


@pytest.mark.parametrize(
    "field, value, code, severity",
    [
        ("number_processors", 0, "processors", WARNING),
        ("number_processors", 2049, "processors", WARNING),
        ("system_time", 1, "system-time", WARNING),
        ("system_time", 1 << 63, "system-time", WARNING),
        ("system_time", 0, "system-time", INFO),
        ("system_time", None, "filler", INFO),
        ("system_up_time", 1 << 62, "uptime", WARNING),
        ("system_up_time", (1 << 64) - 1, "uptime", WARNING),
        ("bug_check_code", None, "filler", INFO),
        ("directory_table_base", None, "filler", ERROR),
        ("ps_loaded_module_list", None, "filler", WARNING),
        ("ps_active_process_head", None, "filler", WARNING),
        ("kd_debugger_data_block", None, "kdbg-absent", WARNING),
        ("kd_debugger_data_block", 0, "kdbg-absent", WARNING),
        ("machine_image_type", 0x1234, "machine", ERROR),
        ("machine_image_type", 0x200, "machine", INFO),
        ("attributes", 4, "attributes", WARNING),
        ("attributes", 1, "attributes", INFO),
        ("attributes", 1 << 20, "attributes", INFO),
        ("attributes", 0x100, "encrypted", ERROR),
        ("attributes", 0x300, "attributes", INFO),
        ("attributes", 0x10, "live", INFO),
        ("bug_check_code", 0x161, "live", INFO),
        ("ps_loaded_module_list", 0, "list-head", WARNING),
    ],
)
@pytest.mark.parametrize("kind", [FULL, KERNEL, RANGES8])
def test_header_field(kind, field, value, code, severity):
    machine = Machine()
    image = machine.dump(kind, **{field: value})
    report = examine(image)
    finding = only(report.findings, code)
    assert finding.severity == severity
    if code not in ("live", "encrypted"):
        offset = only_offset(field)
        assert finding.offset == offset
        stored = image[offset : offset + 4]
        assert stored == (b"PAGE" if value is None else (value & 0xFFFFFFFF).to_bytes(4, "little"))
    assert report.dump_opens
    assert "internal" not in codes(report)


def only_offset(field):
    from kdmp._headers import LAYOUT64

    return LAYOUT64.fields[field][0]


@pytest.mark.parametrize("offset, size, code", [(0x30, 4, "filler"), (0xF98, 4, "filler")])
def test_filler_that_the_writer_does_not_leave(offset, size, code):
    report = examine(poke(Machine().dump(BITMAP), (offset, f"{size}s", b"PAGE")))
    assert only(report.findings, code).offset == offset


def test_encrypted_pages_are_not_looked_at():
    report = examine(Machine().dump(attributes=0x100))
    assert bad(report) == {"encrypted"}
    assert not any("reads" in text for text in report.works)


def test_a_64_bit_header_of_a_32_bit_machine():
    report = examine(poke(Machine().dump(), (0x30, "<I", 0x14C)))
    finding = only(report.findings, "machine")
    assert (finding.severity, finding.offset, finding.found) == (ERROR, 0x30, 0x14C)


def test_context():
    image = Machine().dump()
    absent = only(examine(poke(image, (0x348 + 0x30, "<I", 0))).findings, "context-absent")
    assert (absent.severity, absent.offset) == (INFO, 0x378)
    odd = only(examine(poke(image, (0x348 + 0x30, "<I", 0x400007))).findings, "context-flags")
    assert (odd.severity, odd.found) == (WARNING, 0x400007)
    empty = only(examine(poke(image, (0x348 + 0x30, "<I", 0x100008))).findings, "context-flags")
    assert empty.found == 0x100008


def test_exception_of_another_place():
    image = poke(
        Machine().dump(), (0xF00, "<IIQQI", 0x80000003, 1, 0, 0x1234, 0), (0x348 + 0xF8, "<Q", 0x5678)
    )
    finding = only(examine(image).findings, "exception-elsewhere")
    assert (finding.severity, finding.expected, finding.found) == (INFO, 0x5678, 0x1234)
    same = poke(image, (0xF10, "<Q", 0x5678))
    assert "exception-elsewhere" not in codes(examine(same))


@pytest.mark.parametrize(
    "change, words", [(-4096, "bytes more than the writer asked"), (4096, "asked for 4096")]
)
def test_required_space(change, words):
    image = Machine().dump()
    finding = only(examine(poke(image, (0xFA0, "<Q", len(image) + change))).findings, "required-space")
    assert (finding.severity, finding.found) == (INFO, len(image))
    assert words in finding.message


# ---- where pages are ----


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_truncated(kind):
    image = Machine().dump(kind)
    report = examine(image[: -PAGE - 100])
    finding = only(report.findings, "truncated")
    pages = len(Machine().pages)
    assert finding.severity == ERROR
    assert finding.message == f"The file ends at page {pages - 1} of {pages}: 2 of {pages} pages are missing"
    assert (finding.offset, finding.expected) == (len(image) - PAGE - 100, len(image))
    assert f"physical reads of {pages - 2} of {pages} pages" in report.works


def test_truncated_raw_image():
    with kdmp.open_raw(bytes(2 * PAGE), [(0, 4, 0)]) as dump:
        assert only(dump.findings, "truncated").message == "The file is cut: 2 of 4 pages are missing"


@pytest.mark.parametrize(
    "image, where",
    [
        (patched(Machine().dump(FULL), pages=77), 0x90),
        (patched(Machine().dump(BITMAP), stored=77), 0x2028),
        (poke(Machine().dump(SUMMARY), (0x2014, "<I", 77)), 0x2014),
        (patched(ranges_dump([(1, 2)], kind=COMPLETE), range_total=77), 0x2028),
    ],
)
def test_counts_that_disagree(image, where):
    finding = only(examine(image).findings, "page-count")
    assert (finding.severity, finding.offset, finding.found) == (WARNING, where, 77)
    assert finding.expected in (len(Machine().pages), 2)


def test_a_bitmap_with_a_bit_too_many():
    image = bitmap_dump(64, [1, 2, 3])
    more = poke(image, (0x2038, "<B", 0b11110))
    finding = only(examine(more).findings, "page-count")
    assert (finding.expected, finding.found) == (4, 3)
    assert "bits too many" in finding.advice


def test_a_run_list_without_room():
    runs = [(2 * k + 1, 1) for k in range(43)]
    finding = only(examine(patched(runs_dump(runs), pages=100)).findings, "page-count")
    assert "MmPhysicalMemoryBlock" in finding.advice


def test_a_run_list_that_is_not_used():
    image = Machine().dump(BITMAP)
    finding = only(examine(patched(image, runs=44)).findings, "run-list")
    assert (finding.severity, finding.offset, finding.found) == (INFO, 0x88, 44)
    finding = only(examine(patched(image, runs=1, pages=5, run0=(1, 4))).findings, "run-list")
    assert (finding.severity, finding.expected, finding.found) == (INFO, 4, 5)


@pytest.mark.parametrize("image", [runs_dump([(1, 3), (2, 2)]), ranges_dump([(1, 3), (2, 2)])])
def test_overlap(image):
    """pitfalls.md R6."""
    finding = only(examine(image).findings, "overlap")
    assert (finding.severity, finding.found) == (WARNING, 2)
    assert "page-count" not in codes(examine(image))


@pytest.mark.parametrize(
    "image, expected",
    [
        (patched(Machine().dump(BITMAP), kind=1), "runs"),
        (patched(Machine().dump(BITMAP), kind=8), "ranges"),
        (patched(Machine().dump(RANGES8), kind=6), "bitmap"),
        (patched(Machine().dump(KERNEL), kind=4), "triage"),
        (patched(Machine().dump(FULL), kind=77), None),
    ],
)
def test_a_type_that_lies(image, expected):
    """pitfalls.md R14."""
    report = examine(image)
    finding = only(report.findings, "dump-type")
    assert (finding.severity, finding.offset, finding.expected) == (WARNING, 0xF98, expected)
    assert bad(report) == {"dump-type"}


@pytest.mark.parametrize(
    "image, right",
    [
        (patched(Machine().dump(FULL), kind=3), 1),
        (patched(Machine().dump(FULL), kind=4), 1),
        (patched(triage(), kind=3), 4),
    ],
)
def test_a_type_that_is_obeyed_wrongly(image, right):
    report = examine(image)
    finding = only(report.findings, "dump-type")
    assert (report.dump_opens, finding.severity, finding.expected) == (True, ERROR, right)


def test_a_header_alone_with_something_behind():
    finding = only(examine(header_page(3, **Machine().header) + bytes(5000)).findings, "dump-type")
    assert (finding.severity, finding.offset, finding.found) == (WARNING, HEADER, HEADER + 5000)


def test_signature_of_the_other_bitmap():
    finding = only(examine(poke(Machine().dump(KERNEL), (HEADER, "4s", b"FDMP"))).findings, "signature")
    assert (finding.severity, finding.expected, finding.found) == (INFO, "SDMP", "FDMP")


def test_the_summary_layout_is_noted():
    assert only(examine(Machine().dump(SUMMARY)).findings, "legacy-summary").severity == INFO


@pytest.mark.parametrize("kind, severity", [(FULL, WARNING), (BITMAP, INFO)])
def test_bytes_behind_the_last_page(kind, severity):
    image = Machine().dump(kind)
    finding = only(examine(image + bytes(2 * PAGE)).findings, "trailing")
    assert (finding.severity, finding.offset) == (severity, len(image))
    assert "trailing" not in codes(examine(image + bytes(0x100)))


def blob_chain(size, there):
    return (
        struct.pack("<8sII", b"DumpBlob", 0x10, 0xF0004A61)
        + struct.pack("<I16sIII", 0x20, bytes(16), size, 0, 0)
        + bytes(there)
    )


def test_secondary_data():
    image = Machine().dump(FULL)
    whole = examine(image + blob_chain(0x2000, 0x2000))
    assert whole.healthy
    assert "1 piece of secondary data" in whole.works
    cut = only(examine(image + blob_chain(0x2000, 0x1000)).findings, "blob-cut")
    assert (cut.severity, cut.offset, cut.expected, cut.found) == (WARNING, len(image) + 0x30, 0x2000, 0x1000)
    cut = only(examine(triage()[:-4]).findings, "blob-cut")
    assert (cut.expected, cut.found) == (8, 4)


# ---- triage dumps ----

FIELD = {"size": 0x2004, "valid": 0x2008, "mm": 0x2014, "prcb": 0x201C, "stack": 0x2028, "stack_size": 0x202C}
FIELD |= {"drivers": 0x2030, "driver_count": 0x2034, "options": 0x2044, "kdbg": 0x2070, "kdbg_size": 0x2074}
FIELD |= {"blocks": 0x2078, "block_count": 0x207C}


def test_triage_cut():
    image = triage(blobs=())
    finding = only(examine(image[:-8]).findings, "truncated")
    assert (finding.severity, finding.expected, finding.found) == (ERROR, len(image), len(image) - 8)


def test_triage_mark():
    image = triage()
    valid = struct.unpack_from("<I", image, FIELD["valid"])[0]
    finding = only(examine(poke(image, (valid, "4s", b"DGRT"))).findings, "triage-mark")
    assert (finding.severity, finding.offset, finding.found) == (WARNING, valid, b"DGRT")


def test_triage_overflow():
    assert only(examine(triage(triage_options=0x141)).findings, "triage-overflow").severity == WARNING
    assert "triage-overflow" not in codes(examine(triage(triage_options=0x41)))
    assert "triage-overflow" not in codes(examine(triage(triage_options=0xFFFFFFFF)))


@pytest.mark.parametrize("part", ["mm", "prcb", "stack", "drivers", "kdbg", "blocks"])
def test_triage_part_beyond_the_file(part):
    image = poke(triage(), (FIELD[part], "<I", 0x7FFFFFF0))
    finding = only(examine(image).findings, "triage-part")
    assert (finding.severity, finding.offset) == (ERROR, FIELD[part])


def test_triage_part_inside_the_header():
    finding = only(examine(poke(triage(), (FIELD["mm"], "<I", 0x100))).findings, "triage-part")
    assert (finding.offset, finding.found) == (FIELD["mm"], 0x100)
    assert "inside the dump header" in finding.message


def test_triage_blocks_beyond_the_file():
    image = triage()
    table = struct.unpack_from("<I", image, FIELD["blocks"])[0]
    finding = only(examine(poke(image, (table + 16 + 8, "<I", 0x7FFFFFF0))).findings, "triage-blocks")
    assert (finding.severity, finding.offset, finding.found) == (ERROR, table + 16, 1)


def test_triage_names():
    image = triage()
    drivers = struct.unpack_from("<I", image, FIELD["drivers"])[0]
    finding = only(examine(poke(image, (drivers, "<I", 0x7FFFFFF0))).findings, "driver-names")
    assert (finding.severity, finding.found) == (WARNING, 1)


def test_triage_drivers_missing():
    report = examine(poke(triage(), (FIELD["driver_count"], "<I", 0xFFFFFFFF)))
    finding = only(report.findings, "driver-list")
    assert (finding.severity, finding.expected) == (WARNING, 0xFFFFFFFF)
    assert only(examine(triage(drivers=())).findings, "driver-list").severity == INFO


def test_triage_kdbg():
    absent = only(examine(triage(debugger_data=None)).findings, "kdbg-absent")
    assert (absent.severity, absent.offset) == (WARNING, FIELD["kdbg"])
    odd = only(examine(triage(debugger_data=bytes(0x380))).findings, "kdbg-invalid")
    assert (odd.severity, odd.found) == (WARNING, bytes(4))


def test_triage_32_bit_damage():
    image = triage("x86")
    table = struct.unpack_from("<I", image, 0x1060)[0]
    report = examine(poke(image, (table + 8, "<I", 0x7FFFFFF0), (0x1058, "<I", 0x7FFFFFF0)))
    assert {"triage-blocks", "triage-part"} <= bad(report)


# ---- the examination itself ----


def test_every_code_is_listed():
    """The docstring of kdmp.doctor lists the codes that the sources use, and no others."""
    topics = doctor.__doc__.split("by topic:")[1].split("SPDX")[0]
    topics = re.sub(r"\(.*?\)", "", topics, flags=re.DOTALL)
    listed = {code.strip() for part in topics.split("*")[1:] for code in part.split(":")[1].split(",")}
    used = set()
    for path in Path(doctor.__file__).parent.glob("*.py"):
        used |= set(re.findall(r'(?:info|warning|error|severity)\(\s*"([a-z-]+)"', path.read_text("utf-8")))
    assert used == listed


def test_a_check_that_fails_is_a_finding(monkeypatch):
    def broken(exam):
        yield Finding(INFO, "live", "before")
        raise ZeroDivisionError("oops")

    def unreadable(exam):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(doctor, "CHECKS", [broken])
    report = examine(Machine().dump())
    assert "broken failed: ZeroDivisionError: oops" in only(report.findings, "internal").message
    monkeypatch.setattr(doctor, "CHECKS", [unreadable, broken])
    assert [f.code for f in examine(Machine().dump()).findings] == ["io-error"]


def test_checks_are_registered_once():
    assert len(CHECKS) == len(set(CHECKS)) > 20


# ---- real and synthetic dumps ----


@pytest.mark.parametrize("kind", shareddata.KINDS)
@pytest.mark.parametrize("machine", shareddata.MACHINES)
def test_machines(machine, kind):
    report = examine(shareddata.machine_dump(machine, kind))
    assert "internal" not in codes(report)
    expected = {
        "win11-22000-pti": {"kdbg-encoded"},
        "win10-19041-damaged": {"list-broken"},
    }.get(machine, set())
    assert bad(report) == expected
    truth = shareddata.truth(machine)
    if machine != "win10-19041-damaged":
        assert f"the list of {len(truth['modules'])} modules" in report.works
    else:
        # A cycle in one list, a wild pointer in the other.
        assert len([f for f in report.findings if f.code == "list-broken"]) == 2
    assert ("dtb-flags" in codes(report)) == truth["kva_shadow"]
    assert "the address of MmPfnDatabase" in only(report.findings, "pfn-database").message


@pytest.mark.parametrize("name", TRIAGE)
def test_real_triage_dumps(name):
    report = examine(shareddata.unpack("triage", f"{name}.dmp.xz"))
    assert report.healthy, report.findings
    facts = next(f for f in shareddata.triage_index() if f["file"] == f"{name}.dmp.xz")
    assert f"the list of {len(facts['drivers'])} drivers" in report.works
    assert codes(report) <= {
        "required-space", "pfn-database", "attributes", "trailing", "exception-elsewhere",
    }  # fmt: skip
    assert ("attributes" in codes(report)) == (facts["build"] == 26100)
    assert ("required-space" in codes(report)) == (facts["build"] != 26100)
    direct = only(report.findings, "pfn-database").advice == "use it as it is"
    assert direct == (facts["build"] == 26100)


@pytest.mark.parametrize("name, pages, expected", [
    (LIVEKD, 0, {"truncated", "dtb-frame"}),
    (DUMPIT, 2, {"truncated", "dtb-frame"}),
    (WIN7_X86, 0, {"truncated", "dtb-frame", "kdbg-absent"}),
])  # fmt: skip
def test_real_headers(name, pages, expected):
    report = examine(shareddata.unpack("headers", name))
    assert bad(report) == expected
    total = only(report.findings, "truncated").message.split(" of ")[1].split(":")[0]
    assert f"physical reads of {pages} of {total} pages" in report.works
    assert ("live" in codes(report)) == (name == DUMPIT)


# ---- mutations ----


def seeds():
    images = [Machine().dump(kind) for kind in ALL_KINDS]
    images += [Machine(paging).dump(BITMAP) for paging in ("pae", "x86", "arm64")]
    return [*images, triage(), triage("x86"), gzip.compress(Machine().dump(), 1)]


def mutate(rng, image):
    out = bytearray(image)
    for _ in range(rng.randrange(1, 6)):
        what = rng.randrange(6)
        if what == 0:
            del out[rng.randrange(len(out)) :]
            out = out or bytearray(b"P")
        else:
            # Mostly where layouts and the kernel's data are.
            starts = (0, HEADER, 0xF90, rng.randrange(len(out)), max(0, len(out) - 5 * PAGE))
            at = min(starts[what - 1] + rng.randrange(0x120), len(out) - 1) & ~3
            value = rng.choice((0, 1, 3, 44, 0x1000, 0x45474150, 0x7FFFFFFF, 0xFFFFFFFF, rng.getrandbits(32)))
            data = value.to_bytes(4, "little") * rng.choice((1, 1, 2))
            out[at : at + len(data)] = data[: len(out) - at]
    return bytes(out)


@pytest.mark.parametrize("part", range(5))
def test_mutations(part):
    rng = random.Random(SEED + part)
    images = seeds()
    for number in range(MUTATIONS // 5):
        image = mutate(rng, images[number % len(images)])
        started = time.process_time()
        report = examine(image)
        spent = time.process_time() - started
        assert spent < SECONDS, (number, spent)
        assert "internal" not in codes(report), (number, report.findings)
        assert report.dump_opens or report.findings
        json.dumps(report.to_dict())
        for finding in report.findings:
            assert not finding.message[:1].islower() or finding.code == "format", finding
            assert finding.offset is None or finding.offset >= 0
        if report.runs:
            with kdmp.open_raw(image, report.runs) as dump:
                assert len(dump.pages) > 0


@pytest.mark.parametrize("name", TRIAGE[::4])
def test_mutations_of_real_triage_dumps(name):
    image = shareddata.unpack("triage", f"{name}.dmp.xz").read_bytes()
    rng = random.Random(SEED)
    for number in range(20):
        started = time.process_time()
        report = examine(mutate(rng, image))
        assert time.process_time() - started < SECONDS, number
        assert "internal" not in codes(report), (number, report.findings)


# ---- the command ----


@pytest.fixture
def run(capsys):
    def run(*argv):
        code = main(["doctor", *map(str, argv)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_command(run, tmp_path):
    path = tmp_path / "a.dmp"
    path.write_bytes(Machine().dump())
    code, out, err = run(path)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "notes:"
    assert "nothing is wrong but for the notes" in out
    assert "  the list of 3 modules" in out.splitlines()
    path.write_bytes(patched(Machine().dump(), processors=0)[:-PAGE])
    code, out, err = run(path, "--io", "read")
    assert code == 1
    lines = out.splitlines()
    assert lines[0] == "errors:"
    assert lines[1].startswith("  [truncated] The file ends at page")
    assert f"(file offset {path.stat().st_size:#x})" in lines[1]
    assert lines[2].startswith("      expected ")
    assert lines[3].startswith("      advice: ")
    assert (
        lines.index("errors:") < lines.index("warnings:") < lines.index("notes:") < lines.index("what works:")
    )


def test_command_on_a_healthy_dump(run, tmp_path):
    sample.build(tmp_path / "sample.dmp")
    code, out, _ = run(tmp_path / "sample.dmp")
    assert (code, out.splitlines()[:2]) == (0, ["nothing is wrong", "what works:"])


def test_command_on_what_does_not_open(run, tmp_path):
    path = tmp_path / "\x1bfile"
    path.write_bytes(b"MDMP" + bytes(100))
    code, out, err = run(path, "--deep")
    assert (code, err) == (1, "")
    assert out.startswith("does not open: not a kernel dump: this is a user-mode minidump")
    assert "what works: nothing" in out
    code, _, err = run(tmp_path / "missing")
    assert code == 1
    assert "No such file" in err


def test_command_as_json(run, tmp_path):
    path = tmp_path / "a.dmp"
    path.write_bytes(patched(Machine().dump(FULL), runs=44))
    code, out, _ = run(path, "--json")
    facts = json.loads(out)
    assert (code, facts["dump_opens"], facts["healthy"]) == (1, False, False)
    assert facts["findings"][0] == examine(path).findings[0].to_dict()
    assert (facts["file"], facts["error"]) == (str(path), examine(path).error)


def test_command_shows_no_control_characters(run, tmp_path):
    path = tmp_path / "a.dmp"
    path.write_bytes(b"PAGE\x1b[2J" + bytes(100))
    _, out, _ = run(path)
    assert "\x1b" not in out
