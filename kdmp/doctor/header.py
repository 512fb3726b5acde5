"""Checks of what the dump header says: fields never written, impossible values, the registers.

SPDX-License-Identifier: MIT
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from kdmp.doctor.exam import Exam, check
from kdmp.doctor.report import Finding, error, info, warning
from kdmp.dump import Dump
from kdmp.records import DumpAttributes

_YEARS_10 = timedelta(days=3653)
_FIRST_TIME = datetime(1996, 1, 1, tzinfo=UTC)
_LAST_TIME = datetime(2100, 1, 1, tzinfo=UTC)

# Windows runs on up to 2048 logical processors.
_MAX_PROCESSORS = 2048

# ContextFlags: the machine's bit, and where the field is in a CONTEXT.
_CONTEXT_FLAGS = {"x64": (0x30, 0x100000), "x86": (0, 0x10000), "arm64": (0, 0x400000)}

_FILLER = b"PAGE"

_ATTRIBUTE_TEXT = {
    DumpAttributes.HIBER_CRASH: "it was written through the hibernation path",
    DumpAttributes.DUMP_DEVICE_POWER_OFF: "the dump device lost power",
    DumpAttributes.KERNEL_GENERATED_TRIAGE: "the kernel generated its triage data itself",
    DumpAttributes.GENERATED_OFFLINE: "it was generated offline",
    DumpAttributes.FILTER_DUMP_FILE: "pages were filtered out (an active dump)",
    DumpAttributes.EARLY_BOOT_CRASH: "the system crashed early in boot",
    DumpAttributes.DECRYPTED: "it was encrypted once and has been decrypted",
}


@check
def filler(exam: Exam) -> Iterator[Finding]:
    """Fields that should have been stored and still read as the filler `PAGE`."""
    if not exam.has_header:
        return
    with_pages = exam.dump.layout not in ("none", "triage")
    lists = "the list is then found by the debugger data block or by symbols"
    fields = (
        ("machine_image_type", "machine type", error, "the machine is not known, nothing can be translated"),
        ("dump_type", "dump type", warning, "the layout is taken from what follows the header"),
        (
            "directory_table_base",
            "page-table root (DirectoryTableBase)",
            error if with_pages else info,
            "pass dtb= to open or reader(); physical reads work without" if with_pages else "",
        ),
        ("ps_loaded_module_list", "address of the module list", warning if with_pages else info, lists),
        ("ps_active_process_head", "address of the process list", warning if with_pages else info, lists),
        ("system_time", "time of the crash", info, ""),
        ("bug_check_code", "bug check code", info, "KiBugCheckData in memory may have it"),
    )
    for name, what, severity, advice in fields:
        if exam.header[name] is None:
            text = f"The {what} was never written: the field still holds the filler PAGE"
            yield severity("filler", text, offset=exam.offset(name), found="PAGE", advice=advice)


@check
def machine(exam: Exam) -> Iterator[Finding]:
    """A machine type that does not go with the size of the header, or that nothing can be done with."""
    number, arch = exam.header["machine_image_type"], exam.dump.arch
    if number is None or not exam.has_header:
        return
    where = exam.offset("machine_image_type")
    wide = {"x64": 8, "arm64": 8, "ia64": 8, "x86": 4, "arm": 4}.get(arch)
    if wide is None:
        text = f"The machine type {number:#x} is not one of Windows"
        yield error(
            "machine", text, offset=where, found=number, advice="0x8664 is x64, 0xAA64 ARM64, 0x14C x86"
        )
    elif wide != exam.dump.pointer_size:
        text = f"The header is {8 * exam.dump.pointer_size}-bit, but the machine is {arch}"
        yield error("machine", text, offset=where, found=number, advice="the machine field is damaged")
    elif arch in ("arm", "ia64") and exam.has_pages:
        text = f"Page tables of {arch} are not walked here"
        yield info("machine", text, offset=where, found=number, advice="physical reads work")


@check
def processors(exam: Exam) -> Iterator[Finding]:
    """Number of processors 0, or more than Windows supports."""
    count = exam.header["number_processors"]
    if count is not None and not 1 <= count <= _MAX_PROCESSORS:
        text = f"The header counts {count} processors"
        yield warning(
            "processors", text, offset=exam.offset("number_processors"), found=count,
            expected=f"1 to {_MAX_PROCESSORS}", advice="the field is damaged; nothing else depends on it",
        )  # fmt: skip


@check
def times(exam: Exam) -> Iterator[Finding]:
    """A time of crash outside of the years of Windows NT, an uptime of more than ten years."""
    raw, when = exam.header["system_time"], exam.dump.system_time
    where = exam.offset("system_time")
    if raw == 0:
        yield info("system-time", "The time of the crash is 0: the writer did not know it", offset=where)
    elif raw is not None and (when is None or not _FIRST_TIME <= when < _LAST_TIME):
        text = f"The time of the crash ({when:%Y-%m-%d})" if when else "The time of the crash"
        yield warning(
            "system-time", f"{text} is implausible", offset=where, found=raw,
            expected="a FILETIME from 1996 to 2099", advice="the field is damaged or the clock was wrong",
        )  # fmt: skip
    ticks, uptime = exam.header["system_up_time"], exam.dump.uptime
    if ticks is not None and (uptime is None or uptime > _YEARS_10):
        text = "The uptime is more than ten years"
        yield warning(
            "uptime", text, offset=exam.offset("system_up_time"), found=ticks, advice="a damaged field"
        )


@check
def attributes(exam: Exam) -> Iterator[Finding]:
    """What the bits of Attributes say about the dump; encryption."""
    bits, where = exam.dump.attributes, exam.offset("attributes")
    if exam.dump.encrypted:
        yield error(
            "encrypted", "The page data is encrypted: only the header can be read", offset=where,
            expected="DecryptedDump set, or EncryptedDumpData clear", found=int(bits or 0),
            advice="decrypt the dump with the certificate's private key first",
        )  # fmt: skip
    if bits is None:
        return
    if bits & DumpAttributes.INSUFFICIENT_DUMPFILE_SIZE:
        yield warning(
            "attributes", "Windows notes that the dump file was too small: pages were left out", offset=where,
            found=int(bits), advice="give the page file (or DedicatedDumpFile) more room for the next crash",
        )  # fmt: skip
    for bit, text in _ATTRIBUTE_TEXT.items():
        if bits & bit:
            yield info("attributes", f"Windows notes that {text}", offset=where, found=int(bits))
    unknown = int(bits) & ~0x3FF
    if unknown:
        text = f"The attributes have bits without a public name ({unknown:#x})"
        yield info("attributes", text, offset=where, found=int(bits))


@check
def live(exam: Exam) -> Iterator[Finding]:
    """A dump of a system that ran on."""
    if exam.has_header and exam.dump.is_live:
        text = "The system ran on while this was written: lists may be torn, nothing has crashed"
        marked = (exam.dump.attributes or DumpAttributes(0)) & DumpAttributes.LIVE
        where = exam.offset("attributes" if marked else "bug_check_code")
        yield info("live", text, offset=where, advice="registers are those of whoever wrote the dump")


@check
def context(exam: Exam) -> Iterator[Finding]:
    """Registers absent, or ContextFlags of no machine."""
    place = _CONTEXT_FLAGS.get(exam.dump.arch)
    if place is None or not exam.has_header:
        return
    record = exam.dump.context
    offset = exam.layout.context[0] + place[0]
    if record is None:
        stored = exam.file(offset, 4)
        flags = int.from_bytes(stored, "little")
        if not flags or stored == _FILLER:
            text = "The header has no registers of the crashing processor"
            advice = "each processor's registers are in its KPRCB"
            yield info("context-absent", text, offset=offset, found=flags, advice=advice)
        else:
            yield warning(
                "context-flags", f"ContextFlags {flags:#x} does not go with {exam.dump.arch}", offset=offset,
                expected=f"bit {place[1]:#x} and no other machine's", found=flags,
                advice="the register record is damaged and not shown",
            )  # fmt: skip
    elif not record.flags & 1:
        text = "The register record does not cover the control registers"
        yield warning("context-flags", text, offset=offset, expected=place[1] | 1, found=record.flags)


@check
def exception(exam: Exam) -> Iterator[Finding]:
    """An exception record that is about another place than the registers."""
    record, registers = exam.dump.exception, exam.dump.context
    if not exam.has_header or record is None or registers is None or record.address == registers.ip:
        return
    text = f"The exception record ({record.code:#x} at {record.address:#x}) is not about the saved registers"
    yield info(
        "exception-elsewhere", text, offset=exam.layout.exception[0], expected=registers.ip,
        found=record.address, advice="normal after a bug check: its parameters tell of the first exception",
    )  # fmt: skip


@check
def required_space(exam: Exam) -> Iterator[Finding]:
    """RequiredDumpSpace that differs from the file's size, in words."""
    required, size = exam.header["required_dump_space"], exam.dump.file_size
    if required is None or required == size:
        return
    if required > size:
        text = f"The writer asked for {required - size} bytes more than the file has"
        advice = "usual for small dumps, which reserve more than they write; otherwise the file is cut"
    else:
        text = f"The file has {size - required} bytes more than the writer asked for"
        advice = "the header may not have been counted, or drivers appended data"
    yield info(
        "required-space", text, offset=exam.offset("required_dump_space"), expected=required, found=size,
        advice=advice,
    )  # fmt: skip


@check
def packed(exam: Exam) -> Iterator[Finding]:
    """A container that ended early."""
    problem = packed_problem(exam.dump)
    if problem:
        text = f"The dump was unpacked only in part: {problem}"
        yield error("packed-damage", text, advice="get the packed file again; what was unpacked works")


def packed_problem(dump: Dump) -> str | None:
    """Return what was wrong with the container the dump came in, None if nothing."""
    unpacked = dump._unpacked
    return None if unpacked is None else unpacked.problem
