"""Headers that real Windows machines wrote: twelve triage dumps, and the first pages of full dumps.

SPDX-License-Identifier: MIT
"""

from datetime import UTC, datetime, timedelta

import pytest
import shareddata

import kdmp

TRIAGE = (
    "rtech_116_1 rtech_13a rtech_1a rtech_3b_0 rtech_7e_0 rtech_7e_1 rtech_9f rtech_be_0 rtech_d1 rtech_ef "
    "triage_arm64 triage_x64"
).split()
LIVEKD = "memflow-coredump_coredump_win10_64bit_stripped.dmp.xz"
DUMPIT = "imhex_dmp64.hexpat.dmp.xz"
WIN7_X86 = "memflow-coredump_coredump_win7_32bit_stripped.dmp.xz"
EPOCH = datetime(1601, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module", params=TRIAGE)
def triage(request):
    facts = next(f for f in shareddata.triage_index() if f["file"] == f"{request.param}.dmp.xz")
    with kdmp.open(shareddata.unpack("triage", facts["file"])) as dump:
        yield dump, facts


def test_triage_header(triage):
    dump, facts = triage
    assert (dump.kind, dump.layout) == (kdmp.DumpKind.TRIAGE, "triage")
    assert (dump.arch, dump.build, dump.processors) == (facts["arch"], facts["build"], facts["processors"])
    assert dump.dtb == facts["dtb"]
    assert dump.ps_loaded_module_list == facts["ps_loaded_module_list"]
    assert dump.ps_active_process_head == facts["ps_active_process_head"]
    assert dump.kd_debugger_data_block == facts["kd_debugger_data_block"]
    assert dump.file_size == facts["size"]
    assert not dump.checked_build


def test_triage_bug_check(triage):
    dump, facts = triage
    assert dump.bugcheck.code == facts["bugcheck"]
    assert [p.value for p in dump.bugcheck.parameters] == facts["parameters"]


def test_triage_times(triage):
    dump, facts = triage
    # The index was written through floating point: compare to the millisecond.
    assert abs(dump.system_time - datetime.fromisoformat(facts["system_time"])) < timedelta(milliseconds=1)
    assert dump.uptime == timedelta(microseconds=facts["system_up_time_100ns"] // 10)


def test_triage_exception_and_context(triage):
    dump, facts = triage
    assert dump.exception.code == facts["exception_code"]
    assert dump.exception.address == facts["exception_address"]
    pc, sp = ("pc", "sp") if dump.arch == "arm64" else ("rip", "rsp")
    assert getattr(dump.context, pc) == facts["rip_or_pc"]
    assert getattr(dump.context, sp) == facts["rsp_or_sp"]


def test_triage_has_no_physical_pages(triage):
    dump, _ = triage
    assert len(dump.pages) == 0
    assert list(dump.pages.runs()) == []
    assert 0 not in dump.pages
    assert dump.truncated == 0


def test_triage_filler_is_absent():
    """Sample A and B of the format description: VersionUser, SecondaryDataState, Attributes, BootId."""
    with kdmp.open(shareddata.unpack("triage", "triage_x64.dmp.xz")) as x64:
        assert x64.version_user is x64.secondary_data_state is x64.attributes is x64.boot_id is None
        assert (x64.product_type, x64.suite_mask, x64.writer_status) == (1, 0x110, 0)
        assert (x64.required_dump_space, x64.mini_dump_fields) == (0x197915, 0xCFF)
        assert x64.header["number_of_runs"] is x64.header["number_of_pages"] is None
        assert (
            x64.bugcheck.name == "SYSTEM_THREAD_EXCEPTION_NOT_HANDLED_M"
            or "0x1000007e" in repr(x64.bugcheck).lower()
        )
    with kdmp.open(shareddata.unpack("triage", "triage_arm64.dmp.xz")) as arm64:
        assert (arm64.attributes, arm64.boot_id) == (None, 0xD)


def test_livekd_full_dump_without_pages():
    with kdmp.open(shareddata.unpack("headers", LIVEKD)) as dump:
        assert (dump.kind, dump.layout, dump.arch) == (1, "runs", "x64")
        assert (dump.build, dump.dtb, dump.processors) == (9200, 0x3E6B1A000, 8)
        assert dump.comment == "LiveKD live system view"
        assert dump.kd_debugger_data_block == 0xFFFFF80510A00B20
        assert dump.bugcheck.code == 0
        assert dump.system_time == EPOCH + timedelta(microseconds=0x1D64CB3A523A374 // 10)
        assert dump.header["number_of_runs"] == 4
        assert dump.truncated == 4193391
        assert len(dump.pages) == 0
        with pytest.raises(kdmp.TruncatedError):
            dump.phys.read_u8(0x1000)
        with pytest.raises(kdmp.NotInDumpError) as caught:  # frame 0 is in no run
            dump.phys.read_u8(0)
        assert type(caught.value) is kdmp.NotInDumpError


def test_dumpit_full_dump_with_two_pages():
    with kdmp.open(shareddata.unpack("headers", DUMPIT)) as dump:
        assert (dump.kind, dump.layout, dump.build, dump.processors) == (1, "runs", 19045, 4)
        assert dump.dtb == 0x1AD002
        assert dump.bugcheck.code == 0x5454414D  # "MATT", with "MOON" "SOLS" as parameters
        assert len(dump.pages) == 2
        assert list(dump.pages) == [2, 3]
        assert dump.truncated == 523910 - 2
        image = shareddata.unpack("headers", DUMPIT).read_bytes()
        assert dump.phys.read_exact(0x2000, 0x2000) == image[0x2000:0x4000]
        assert dump.phys.read(0x3FF0, 0x100) == image[0x3FF0:0x4000]


def test_x86_header_decodes():
    """A PAE Windows 7 dump; what cannot be read yet must say so rather than give wrong bytes."""
    with kdmp.open(shareddata.unpack("headers", WIN7_X86)) as dump:
        assert (dump.kind, dump.arch, dump.pointer_size) == (1, "x86", 4)
        assert (dump.build, dump.processors) == (7601, 2)
        assert dump.header["pae_enabled"] == 1
        assert dump.truncated == 786301
        assert len(dump.pages) == 0
