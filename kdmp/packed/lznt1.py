"""LZNT1, the compression of RtlCompressBuffer, as [MS-XCA] 2.5 tells it: unpacking only.

The data is a row of chunks, each of which unpacks to 4096 bytes (the last one to fewer, perhaps). A chunk
has a 16-bit head: bits 0 to 11 the size of what follows minus one, bits 12 to 14 the signature 3, bit
15 set if it is compressed; a head of zero ends the data. Compressed, it is groups of a flag byte and
eight tokens, lowest bit first: 0 a literal byte, 1 a 16-bit word of displacement and length. The
further the chunk has got, the more bits of the word are displacement: a chunk refers only to itself.

Of the libraries on the index the one that was compared (dissect.util) is Python too and not faster.

SPDX-License-Identifier: MIT
"""

__all__ = ["CHUNK_SIZE", "LZNT1Error", "decompress"]

CHUNK_SIZE = 0x1000
"""Bytes that a chunk unpacks to, the last one of the data excepted."""


class LZNT1Error(ValueError):
    """Data that is not LZNT1, or that unpacks to more than allowed; the text says where."""


# How many bits of a word are length, by the bytes that the chunk has unpacked to so far: 12 for up
# to 16, one less each time that number doubles, 4 for more than 2048.
_LENGTH_BITS = bytes(16 - max(4, (position - 1).bit_length()) for position in range(1, CHUNK_SIZE + 1))
_LENGTH_BITS = b"\x0c" + _LENGTH_BITS


def decompress(data: bytes, limit: int) -> bytes:
    """Return what `data` unpacks to, at most `limit` bytes.

    A chunk before the last one that unpacks to less than 4096 bytes is filled up with zeros, as
    RtlDecompressBuffer does. Raises LZNT1Error.
    """
    out = bytearray()
    at, end = 0, len(data)
    while at < end:
        head = int.from_bytes(data[at : at + 2], "little")
        if head == 0:
            break
        start, stop = at + 2, at + 3 + (head & 0xFFF)
        if stop > end:
            raise LZNT1Error(f"the chunk at 0x{at:x} runs past the end of the data")
        if head >> 12 & 7 != 3:
            raise LZNT1Error(f"the chunk at 0x{at:x} has the signature {head >> 12 & 7}, not 3")
        out += bytes(-len(out) % CHUNK_SIZE)
        out += _chunk(data, start, stop) if head & 0x8000 else data[start:stop]
        if len(out) > limit:
            raise LZNT1Error(f"unpacks to more than {limit} bytes")
        at = stop
    return bytes(out)


def _chunk(data: bytes, at: int, stop: int) -> bytearray:
    """Return what the compressed chunk in data[at:stop], its head left out, unpacks to."""
    out = bytearray()
    size = 0
    while at < stop:
        flags = data[at]
        at += 1
        if flags == 0:
            # Eight literals: what most groups of incompressible memory are.
            out += data[at : min(at + 8, stop)]
            at += 8
            size = len(out)
            if size > CHUNK_SIZE:
                raise LZNT1Error(f"a chunk unpacks to more than {CHUNK_SIZE} bytes (before 0x{at:x})")
            continue
        for bit in range(8):
            if at >= stop:
                break
            if not flags >> bit & 1:
                if size >= CHUNK_SIZE:
                    raise LZNT1Error(f"a chunk unpacks to more than {CHUNK_SIZE} bytes (at 0x{at:x})")
                out.append(data[at])
                at += 1
                size += 1
                continue
            if at + 2 > stop:
                raise LZNT1Error(f"a chunk ends inside a token (at 0x{at:x})")
            word = data[at] | data[at + 1] << 8
            bits = _LENGTH_BITS[size]
            back = (word >> bits) + 1
            length = (word & (1 << bits) - 1) + 3
            if back > size:
                raise LZNT1Error(f"a token refers to before its chunk (at 0x{at:x})")
            if size + length > CHUNK_SIZE:
                raise LZNT1Error(f"a chunk unpacks to more than {CHUNK_SIZE} bytes (at 0x{at:x})")
            if length <= back:
                out += out[size - back : size - back + length]
            else:
                # The copy runs into what it writes: the last `back` bytes over and over.
                out += (out[-back:] * (length // back + 1))[:length]
            size += length
            at += 2
    return out
