/*
 * fuzz_triage.c: the virtual ranges of triage dumps, beside a search of the
 * list of ranges for every single byte.
 *
 * The input is a flag (bit 0: 64-bit), KdDebuggerDataBlock (u64), and what
 * comes after the header of the dump.  The header is made here, so that all of
 * an input counts.
 *
 * SPDX-License-Identifier: MIT
 */
#include "fuzz_use.h"

enum { HEAD = 9, MOST_RANGES = 300, PROBES = 24 };

const struct fuzz_shape fuzz_shape = {FUZZ_TRIAGE, HEAD, 0};

static size_t
make_header(uint8_t *out, int is64, uint64_t kdbg)
{
    size_t size = is64 ? 0x2000 : 0x1000, i;

    for (i = 0; i < size; i++)
        out[i] = (uint8_t)"PAGE"[i % 4];
    memcpy(out, is64 ? "PAGEDU64" : "PAGEDUMP", 8);
    fuzz_store(out + (is64 ? 0x30 : 0x20), is64 ? 0x8664 : 0x14c, 4);
    fuzz_store(out + (is64 ? 0x80 : 0x60), kdbg, is64 ? 8 : 4);
    fuzz_store(out + (is64 ? 0xf98 : 0xf88), 4, 4);
    return size;
}

/* The byte at an address as the list of ranges has it: the first that covers
 * it counts.  -1: no range; -2: beyond the end of the file. */
static int
slow_byte(const struct kdmp_va_range *ranges, uint64_t count,
          const uint8_t *file, uint64_t size, uint64_t address)
{
    uint64_t i, at;

    for (i = 0; i < count; i++) {
        if (address < ranges[i].address
            || address - ranges[i].address >= ranges[i].size)
            continue;
        at = ranges[i].file_offset + (address - ranges[i].address);
        return at < size ? file[at] : -2;
    }
    return -1;
}

static void
check_around(const struct kdmp_space *space, const struct kdmp_va_range *ranges,
             uint64_t count, const uint8_t *file, uint64_t size,
             uint64_t address)
{
    uint64_t i, done, n;
    uint8_t bytes[PROBES];
    struct kdmp_fault fault;
    struct kdmp_run below, above;
    int found;

    for (i = 0; i < PROBES && address + i >= address; i++) {
        int want = slow_byte(ranges, count, file, size, address + i);
        enum kdmp_status status =
            kdmp_read(space, address + i, bytes, 1, &done, &fault);

        REQUIRE(kdmp_probe_byte(space, address + i, &fault) == status);
        if (want >= 0) {
            REQUIRE(status == KDMP_OK && bytes[0] == want);
            continue;
        }
        REQUIRE(status == (want == -2 ? KDMP_E_TRUNCATED : KDMP_E_NOT_IN_DUMP));
        found = kdmp_nearest_va(space->dump, address + i, &below, &above);
        REQUIRE(!(found & 2) || above.pfn > address + i);
        REQUIRE(!(found & 1) || below.pfn <= address + i);
        REQUIRE(!(found & 1) || below.count <= address + i - below.pfn);
        REQUIRE(!(found & 2)
                || slow_byte(ranges, count, file, size, above.pfn) >= 0);
        REQUIRE(
            !(found & 1) || below.count == 0
            || slow_byte(ranges, count, file, size, below.pfn + below.count - 1)
                   >= 0);
        REQUIRE(fault.above_start == (found & 2 ? above.pfn : 0));
    }
    /* All at once is the same as one by one, up to the first hole. */
    (void)kdmp_read(space, address, bytes, sizeof(bytes), &done, &fault);
    for (n = 0; n < done; n++)
        REQUIRE(bytes[n] == slow_byte(ranges, count, file, size, address + n));
}

static void
check_ranges(const struct kdmp_dump *dump, const struct kdmp_dump *other,
             const uint8_t *file, uint64_t size)
{
    uint64_t count = kdmp_va_range_count(dump), i, step;
    struct kdmp_va_range ranges[MOST_RANGES];
    struct kdmp_space space = {0};

    REQUIRE(memcmp(kdmp_get_info(dump), kdmp_get_info(other),
                   sizeof(struct kdmp_info))
            == 0);
    REQUIRE(kdmp_va_range_count(other) == count);
    if (count > MOST_RANGES)
        return;
    for (i = 0; i < count; i++) {
        struct kdmp_va_range same;

        REQUIRE(kdmp_get_va_range(dump, i, &ranges[i]));
        REQUIRE(kdmp_get_va_range(other, i, &same));
        REQUIRE(memcmp(&same, &ranges[i], sizeof(same)) == 0);
    }
    space.dump = size & 1 ? dump : other;
    space.source = kdmp_get_source(space.dump);
    space.paging = KDMP_PAGING_TRIAGE;
    step = count / 24 + 1;
    for (i = 0; i < count; i += step) {
        check_around(&space, ranges, count, file, size,
                     ranges[i].address - PROBES / 2);
        check_around(&space, ranges, count, file, size,
                     ranges[i].address + ranges[i].size - PROBES / 2);
        if (ranges[i].file_offset + ranges[i].size > size) /* cut */
            check_around(&space, ranges, count, file, size,
                         ranges[i].address + (size - ranges[i].file_offset)
                             - PROBES / 2);
    }
    check_around(&space, ranges, count, file, size, 0);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t header, whole;
    struct bytes bytes;
    struct kdmp_stream stream = {read_at, &bytes, 0};
    struct kdmp_dump *dump, *other;
    struct kdmp_error err, other_err;
    enum kdmp_status status;
    uint8_t *copy;

    if (size < HEAD)
        return 0;
    header = data[0] & 1 ? 0x2000 : 0x1000;
    whole = header + size - HEAD;
    copy = malloc(whole); /* exact, so overreads show */
    REQUIRE(copy != NULL);
    make_header(copy, data[0] & 1, fuzz_load(data + 1, 8));
    memcpy(copy + header, data + HEAD, size - HEAD);
    bytes.ptr = copy;
    bytes.size = stream.size = whole;
    status = kdmp_open_memory(copy, whole, &dump, &err);
    REQUIRE(kdmp_open_stream(&stream, &other, &other_err) == status);
    if (status == KDMP_OK)
        check_ranges(dump, other, copy, whole);
    else
        REQUIRE(strcmp(err.message, other_err.message) == 0);
    kdmp_close(dump);
    kdmp_close(other);
    free(copy);
    return 0;
}
