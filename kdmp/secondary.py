"""Secondary dump data: the tagged blobs that drivers append when the system crashes.

A DUMP_BLOB_FILE_HEADER is followed by DUMP_BLOB_HEADERs, each with its data. In a triage dump they start
where SizeOfDump ends, in other kinds after the last page; the signature tells whether they are there.

SPDX-License-Identifier: MIT
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from kdmp.dump import Dump

_FILE_HEADER = struct.Struct("<8sII")
_BLOB_HEADER = struct.Struct("<I16sIII")
_SIGNATURE = b"DumpBlob"
# Blobs of no size exist, so a count is needed that ends a chain of them.
_MAX_BLOBS = 0x10000

# Tags and what their owners store, by the names that public symbols, Windows headers, the Windows Driver
# Frameworks' sources and Microsoft's bug-check pages give them.
KNOWN_TAGS: dict[UUID, str] = {
    UUID(int=0): "separator",
    UUID("65755a40-f146-43ea-8c91-36b85728fd35"): "crash dump driver (crashdmp)",
    UUID("270a33fd-3da6-460d-ba89-3c1bae21e39b"): "display adapter reset (dxgkrnl TDR data)",
    UUID("bf2297dc-34ba-11dc-868a-e19155d89593"): "NVIDIA display driver",
    UUID("54c84888-01d1-4c1e-bed6-282c98241303"): "driver framework log (WdfDumpGuid)",
    UUID("f87e4a4c-c5a1-4d2f-bff0-d5de63a5e4c3"): "driver framework drivers (WdfDumpGuid2)",
    UUID("da82441d-7142-4bc1-b844-0807c5a4b67f"): "storage port (GUID_DEVICEDUMP_DRIVER_STORAGE_PORT)",
    UUID("c939c73b-17dc-4a44-904c-e2d987f52649"): "storage port of the paging device",
    UUID("bc5c008f-1e3a-44d7-988d-86f6884c6758"): "SMBIOS tables",
    UUID("6c7ac389-4313-47dc-9f34-a8800a0fb56c"): "BIOS values of the registry",
    UUID("d03dc06f-d88e-44c5-ba2a-fae035172d19"): "processor identification and registers",
    UUID("e83b40d2-b0a0-4842-abea-71c9e3463dd1"): "ACPI tables",
    UUID("9276c055-eb87-425c-b8b5-04e4d247f6cd"): "PCI configuration records",
    UUID("2b88b710-1c93-4f7c-b06c-655ecc50decc"): "event tracing buffers (ETW)",
    UUID("2b4ae195-a64d-4f04-8ede-7e4f981bd42a"): "triage data blocks (GUID_TRIAGEDUMP_DATA)",
    UUID("f57308df-cc45-4e01-ad76-29a4ebb010ec"): "black box: boot status data",
    UUID("00afe9c4-940d-4213-8016-cd3719b5bc20"): "black box: NTFS",
    UUID("b7631941-532a-4cd6-b1b1-edb5917d4557"): "black box: plug and play",
    UUID("80cc79cf-a719-4af1-bf97-fe29ff76ebc1"): "black box: winlogon",
    UUID("4ee76bd8-3cf4-44a0-a0ac-3937643e37a3"): "black box: code integrity",
    UUID("b0692a5e-6b7b-4073-8a7c-604e35032970"): "secure kernel crash data",
    UUID("9282756a-ab95-4d24-a137-ecddc5de53f5"): "secure kernel failure log (VSM)",
    UUID("00dae7ca-6833-45c5-b147-bdaed7b61fd6"): "hypervisor boot events",
    UUID("0f1f53f3-561f-42e7-bdb4-ba8e66b726d5"): "feature configuration",
    UUID("5bc8704a-6cb7-4378-ac72-ad06e2416e4a"): "nt!CarSecondaryDataGuid",
}


@dataclass(frozen=True, slots=True)
class Blob:
    """One blob: its `tag`, the file `offset` of its data, its `size` in bytes, `truncated` if the file
    ends before it does."""

    tag: UUID
    offset: int
    size: int
    truncated: bool

    @property
    def name(self) -> str | None:
        """What is known of the tag's owner; None if nothing."""
        return KNOWN_TAGS.get(self.tag)

    def read(self, dump: "Dump") -> bytes:
        """Return the bytes of the blob that the file has."""
        return dump.read_file(self.offset, min(self.size, dump.file_size - self.offset))


def build_number(dump: "Dump", start: int) -> int | None:
    """Return the raw NtBuildNumber of the blob file header at `start`, None if there is no such header."""
    if start <= 0 or start + _FILE_HEADER.size > dump.file_size:
        return None
    signature, _size, build = _FILE_HEADER.unpack(dump.read_file(start, _FILE_HEADER.size))
    return build if signature == _SIGNATURE else None


def blobs(dump: "Dump", start: int) -> Iterator[Blob]:
    """Yield the blobs whose file header is at `start`; none if it is not there.

    Stops at the end of the file, at a header that is too small, and at a step that does not advance.
    """
    if build_number(dump, start) is None:
        return
    offset = start + int.from_bytes(dump.read_file(start + 8, 4), "little")
    for _ in range(_MAX_BLOBS):
        if offset + _BLOB_HEADER.size > dump.file_size:
            return
        head = dump.read_file(offset, _BLOB_HEADER.size)
        header_size, tag, size, pre_pad, post_pad = _BLOB_HEADER.unpack(head)
        if header_size < _BLOB_HEADER.size:
            return
        data = offset + header_size + pre_pad
        if data > dump.file_size:
            return
        yield Blob(UUID(bytes_le=tag), data, size, data + size > dump.file_size)
        offset = data + size + post_pad
