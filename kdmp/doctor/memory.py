"""Checks of the way into memory: the page-table root, the paging mode, the debugger data block.

SPDX-License-Identifier: MIT
"""

from collections.abc import Iterator

from kdmp._kdmp import KdmpError, NotInDumpError, TruncatedError
from kdmp.doctor.exam import Exam, check, reason, reason_kind
from kdmp.doctor.report import Finding, error, info, warning

# Bits of DirectoryTableBase that make the address of the root.
_ROOT_MASKS = {
    "x64": 0x000FFFFFFFFFF000,
    "la57": 0x000FFFFFFFFFF000,
    "arm64": 0x0000FFFFFFFFF000,
    "x86": 0xFFFFF000,
    "pae": 0xFFFFFFE0,
}

# Sizes of KDDEBUGGER_DATA64 from XP to Windows 11; later ones are larger.
_KDBG_SIZES = (0x290, 0x318, 0x328, 0x330, 0x340, 0x360, 0x368, 0x380)
_KDBG_LARGEST = 0x1000

# Kernel images are smaller.
_KERNEL_SIZE = 0x2000000

# An encoded block has many equal words: all its zeros become the same word. A plain one of another kind
# has few.
_ENCODED_REPEATS = 6

_WHAT_FAILS = {
    "truncated": "page tables lie beyond the end of the cut file",
    "table": "page tables of it are not in the dump",
    "frame": "the frames were not captured",
    "absent": "it has no entries for the kernel, as the table of another system or KVA shadow's user table",
    "wrong": "its entries make no sense as page tables",
}


def _root(exam: Exam) -> tuple[int, int] | None:
    """Return the stored root and the address it stands for; None if there is nothing to check."""
    dump = exam.dump
    if not exam.has_pages or exam.reader is None or dump.dtb is None:
        return None
    mask = _ROOT_MASKS.get(exam.reader.paging)
    return None if mask is None else (dump.dtb, dump.dtb & mask)


@check
def root(exam: Exam) -> Iterator[Finding]:
    """A root that is not in the dump, or that does not lead to what the header names."""
    place = _root(exam)
    if place is None or exam.reader is None:
        return
    stored, address = place
    where = exam.offset("directory_table_base")
    try:
        exam.dump.phys.read_exact(address, 8)
    except KdmpError as exc:
        yield error(
            "dtb-frame", f"The page-table root {stored:#x} is not in the dump: {_frame(exam, address, exc)}",
            offset=where, found=stored,
            advice=_other_root(exam, "no virtual address can be translated by it"),
        )  # fmt: skip
        return
    if not exam.anchors:
        text = "The header names no kernel address to try the page-table root on"
        yield info("dtb-untested", text, offset=where, found=stored)
    elif not exam.maps_kernel:
        kinds = {reason_kind(exc) for exc in exam.unmapped.values()}
        kind = next(kind for kind in _WHAT_FAILS if kind in kinds)
        what, cause = next((w, e) for w, e in exam.unmapped.items() if reason_kind(e) == kind)
        yield error(
            "dtb", f"The page-table root {stored:#x} does not map the kernel: {_WHAT_FAILS[kind]} "
            f"({what} at {exam.anchors[what]:#x}: {reason(cause)})",
            offset=where, expected=f"a mapping of {exam.anchors[what]:#x}", found=stored,
            advice=_other_root(exam, "the root of another process or the System process may do"),
        )  # fmt: skip


def _frame(exam: Exam, address: int, exc: KdmpError) -> str:
    pfn = address >> 12
    if isinstance(getattr(exc, "reason", None) or exc, TruncatedError):
        return f"frame {pfn:#x} lies beyond the end of the cut file"
    end = exam.figures["pfn_end"]
    if pfn >= end:
        return f"frame {pfn:#x} is above the highest one described, {max(end - 1, 0):#x}"
    return f"frame {pfn:#x} was not captured"


def _other_root(exam: Exam, otherwise: str) -> str:
    """Look for a root by trial, if that was asked for."""
    paging = exam.reader.paging if exam.reader is not None else None
    if not len(exam.dump.pages):
        return "the file has no pages to translate by"
    if exam.deep and paging is not None:
        found = exam.dump.find_root(paging)
        if found is not None:
            return f"another root was found at {found:#x}: open with dtb={found:#x}"
        return f"{otherwise}; no other root was found in the pages that are there"
    return f"{otherwise}; a deep examination looks for another root"


@check
def root_flags(exam: Exam) -> Iterator[Finding]:
    """Flag bits in the root: PCID, KVA shadow, and bits that no root has."""
    place = _root(exam)
    if place is None or exam.dump.arch != "x64":
        return
    stored = place[0]
    where, low = exam.offset("directory_table_base"), stored & 0xFFF
    if stored >> 52:
        text = f"The page-table root {stored:#x} has bits above physical memory"
        yield warning("dtb-flags", text, offset=where, found=stored, advice="they are ignored")
    if low & 1:
        text = f"The page-table root {stored:#x} is marked as a user table of KVA shadow (bit 0)"
        advice = "kernel addresses need the process' kernel table, often the frame before"
        severity = info if exam.maps_kernel else warning
        yield severity("dtb-flags", text, offset=where, found=stored, advice=advice)
    elif low & 2:
        text = f"The page-table root {stored:#x} is marked as a kernel table of KVA shadow (bit 1)"
        yield info("dtb-flags", text, offset=where, found=stored, advice="normal: the flags are ignored")
    elif low:
        text = f"The page-table root {stored:#x} has flag bits"
        yield info("dtb-flags", text, offset=where, found=stored, advice="they are ignored")


@check
def paging(exam: Exam) -> Iterator[Finding]:
    """A paging mode that nothing confirms, or that the header contradicts."""
    if not exam.has_pages or exam.reader is None:
        return
    mode = exam.reader.paging
    try:
        source = exam.dump.paging_source
    except KdmpError:
        return
    if source == "default" and exam.maps_kernel is bool(exam.anchors):
        text = f"Nothing in the dump tells its paging mode; {mode} is taken as the usual one"
        yield info("paging-default", text, found=mode, advice="pass paging= if you know better")
    pae = exam.header["pae_enabled"]
    if exam.dump.arch == "x86" and pae in (0, 1) and pae != (mode == "pae") and source != "argument":
        text = f"PaeEnabled says {pae}, but only {mode} tables map the kernel"
        where = exam.offset("pae_enabled")
        yield warning(
            "pae", text, offset=where, expected=int(mode == "pae"), found=pae, advice="tables are trusted"
        )


@check
def debugger_data(exam: Exam) -> Iterator[Finding]:
    """The debugger data block: absent, out of reach, encoded, or something else."""
    if not exam.has_pages or not exam.has_header:
        return
    va, where = exam.header["kd_debugger_data_block"], exam.offset("kd_debugger_data_block")
    if not va:
        yield warning(
            "kdbg-absent", "The header has no address of the debugger data block (KDBG)",
            offset=where, found=va,
            advice="symbols of the kernel give it (KdDebuggerDataBlock), or a search for the text KDBG",
        )  # fmt: skip
    elif exam.maps_kernel and not exam.kdbg:
        exc = exam.why(va, 0x18)
        text = f"The debugger data block (KDBG) at {va:#x} cannot be read: {reason(exc)}"
        yield warning(
            "kdbg-unreadable", text, offset=where, found=va, advice="symbols have what it would tell"
        )
    elif exam.kdbg and not exam.kdbg_plain:
        yield _not_plain(exam, va, where)


def _not_plain(exam: Exam, va: int, where: int | None) -> Finding:
    tag = exam.kdbg[0x10:0x14]
    if exam.kdbg_repeats >= _ENCODED_REPEATS and (exam.dump.build or 9200) >= 9200:
        return warning(
            "kdbg-encoded", f"The debugger data block (KDBG) at {va:#x} is encoded: its tag is not KDBG, and "
            f"one word, an encoded zero, stands there {exam.kdbg_repeats} times",
            offset=where, expected=b"KDBG", found=tag,
            advice="Windows decodes the block in dumps of its own, other writers do not; the kernel's "
            "KiWaitNever, KiWaitAlways and the address of KdpDataBlockEncoded decode it",
        )  # fmt: skip
    what = "zeros" if not any(exam.kdbg) else "something else"
    return warning(
        "kdbg-invalid", f"There is no debugger data block (KDBG) at {va:#x} but {what}", offset=where,
        expected=b"KDBG", found=tag, advice="the address is wrong, or the page was overwritten",
    )  # fmt: skip


@check
def debugger_data_values(exam: Exam) -> Iterator[Finding]:
    """A plain block whose values do not fit the dump."""
    if not exam.kdbg_plain:
        return
    where = exam.offset("kd_debugger_data_block")
    size = int.from_bytes(exam.kdbg[0x14:0x18], "little")
    if size not in _KDBG_SIZES and not (_KDBG_SIZES[-1] < size <= _KDBG_LARGEST and size % 8 == 0):
        text = f"The debugger data block says it has {size:#x} bytes, as no Windows has"
        yield warning(
            "kdbg-size", text, offset=where, expected=0x380, found=size, advice="its fields are doubtful"
        )
    yield from _kernel_base(exam, where)
    levels = exam.kdbg_number(0x36, 2)
    pae = exam.header["pae_enabled"]
    if levels is not None and exam.dump.arch == "x86" and pae in (0, 1) and levels & 1 != pae:
        text = f"PaeEnabled is {pae} in the header and {levels & 1} in the debugger data block"
        yield info("kdbg-pae", text, offset=exam.offset("pae_enabled"), expected=levels & 1, found=pae)
    for name, offset, what in (
        ("ps_loaded_module_list", 0x48, "module list"),
        ("ps_active_process_head", 0x50, "process list"),
    ):
        own, stored = exam.kdbg_pointer(offset), exam.header[name]
        if own and stored and own != stored:
            yield warning(
                "kdbg-lists", f"The header has the {what} at {stored:#x}, the debugger data block has it at "
                f"{own:#x}", offset=exam.offset(name), expected=own, found=stored,
                advice="the debugger data block is more reliable",
            )  # fmt: skip


def _kernel_base(exam: Exam, where: int | None) -> Iterator[Finding]:
    base = exam.kdbg_pointer(0x18)
    if not base or not exam.has_pages:
        return
    head = exam.peek(base, 2)
    if head is None:
        text = f"The first page of the kernel at {base:#x} cannot be read: {reason(exam.why(base, 2))}"
        advice = "its PE header tells the version of the kernel; the module list may have it"
        yield info("kernel-base", text, offset=where, found=base, advice=advice)
    elif head != b"MZ":
        text = f"The debugger data block has the kernel at {base:#x}, where no image begins"
        yield warning(
            "kernel-base", text, offset=where, expected=b"MZ", found=head, advice="one of the two is damaged"
        )


@check
def pfn_database(exam: Exam) -> Iterator[Finding]:
    """PfnDataBase is the database for some writers and the variable's address for others: which here."""
    value = exam.header["pfn_database"]
    if not value:
        return
    where, variable = exam.offset("pfn_database"), exam.kdbg_pointer(0xC0)
    stored = exam.pointer(variable) if variable else None
    if variable and value not in (variable, stored) and stored is not None:
        yield warning(
            "pfn-database", f"PfnDataBase ({value:#x}) is neither MmPfnDatabase ({variable:#x}) nor its "
            "value", offset=where, expected=stored, found=value, advice="take the value of MmPfnDatabase",
        )  # fmt: skip
    elif value == variable or (not variable and _near(value, exam.header["ps_loaded_module_list"])):
        pointed = exam.pointer(value)
        tail = "" if pointed is None else f", which is at {pointed:#x}"
        text = f"PfnDataBase is the address of MmPfnDatabase ({value:#x}), not the PFN database itself{tail}"
        yield info("pfn-database", text, offset=where, found=value, advice="dereference it once")
    elif exam.anchors:
        text = f"PfnDataBase is the PFN database itself ({value:#x})"
        yield info("pfn-database", text, offset=where, found=value, advice="use it as it is")


def _near(value: int, other: int | None) -> bool:
    """Whether both may be in one kernel image."""
    return other is not None and abs(value - other) < _KERNEL_SIZE


@check
def missing_tables(exam: Exam) -> Iterator[Finding]:
    """Some of the header's addresses translate and others do not."""
    if not exam.maps_kernel or not exam.has_pages:
        return
    for what, exc in exam.unmapped.items():
        if what == "the debugger data block":
            continue
        head = "ps_loaded_module_list" if "module" in what else "ps_active_process_head"
        kind = (
            "a missing table" if isinstance(exc, NotInDumpError) else "the wrong address, or a damaged table"
        )
        yield error(
            "list-unreadable", f"The head of {what} at {exam.anchors[what]:#x} cannot be read: {reason(exc)}",
            offset=exam.offset(head), found=exam.anchors[what], advice=f"the cause is {kind}",
        )  # fmt: skip
