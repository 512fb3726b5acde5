/*
 * test_failures.c: every allocation and every read fails once, in the formats
 * that test_oom.c does not open and in what is asked of open dumps.
 *
 * Built with KDMP_TEST_ALLOC; leaks are left to the sanitizer or valgrind.
 *
 * SPDX-License-Identifier: MIT
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "check.h"
#include "internal.h"
#include "minidump.h"

enum { ELF_TABLE = 0x40, ELF_ENTRY = 56, ELF_DATA = 0x1000 };
enum { BLOCKS = 0x2100, BLOCK_DATA = 0x2200, BLOCK_SIZE = 0x40 };

/* An image, and one of its reads that fails (-1: none). */
struct flaky {
    struct mini_bytes bytes;
    const struct kdmp_raw *raw;
    long fail_at;
    long reads;
    int failed;
};

static int
flaky_read_at(void *context, uint64_t offset, void *buffer, size_t size)
{
    struct flaky *flaky = context;

    if (flaky->reads++ == flaky->fail_at) {
        flaky->failed = 1;
        return ENXIO;
    }
    return mini_read_at(&flaky->bytes, offset, buffer, size);
}

static enum kdmp_status
open_flaky(struct flaky *flaky, struct kdmp_dump **dump_out,
           struct kdmp_error *err)
{
    struct kdmp_stream stream = {flaky_read_at, flaky, flaky->bytes.size};
    struct kdmp_input input = {.stream = &stream};

    flaky->reads = 0;
    flaky->failed = 0;
    return kdmp_open_input(&input, flaky->raw, dump_out, err);
}

/* ---- images that minidump.h does not make; each returns its size ---- */

static size_t
elf_image(uint8_t *out)
{
    unsigned i;

    memset(out, 0, ELF_DATA);
    memcpy(out, "\177ELF\2\1\1", 7);
    store_le(out + 16, 4, 2);  /* a core */
    store_le(out + 18, 62, 2); /* x86-64 */
    store_le(out + 32, ELF_TABLE, 8);
    store_le(out + 54, ELF_ENTRY, 2);
    store_le(out + 56, 2, 2);
    for (i = 0; i < 2; i++) {
        uint8_t *entry = out + ELF_TABLE + i * ELF_ENTRY;

        store_le(entry, 1, 4);
        store_le(entry + 8, ELF_DATA + i * MINI_PAGE, 8);
        store_le(entry + 24, 0x5000 + i * 0x3000, 8);
        store_le(entry + 32, MINI_PAGE, 8);
        mini_page(out + ELF_DATA + i * MINI_PAGE, mini_frames[4 + i]);
    }
    return ELF_DATA + 2 * MINI_PAGE;
}

static size_t
triage_image(uint8_t *out)
{
    unsigned i;

    mini_dump(out, 1);
    store_le(out + 0xf98, 4, 4);
    memset(out + MINI_HEADER, 0, 0x200);
    store_le(out + MINI_HEADER + 0x78, BLOCKS, 4);
    store_le(out + MINI_HEADER + 0x7c, 2, 4);
    for (i = 0; i < 2; i++) {
        store_le(out + BLOCKS + 16 * i, 0x5000 + 0x1000 * i, 8);
        store_le(out + BLOCKS + 16 * i + 8, BLOCK_DATA + BLOCK_SIZE * i, 4);
        store_le(out + BLOCKS + 16 * i + 12, BLOCK_SIZE, 4);
    }
    for (i = 0; i < 2 * BLOCK_SIZE; i++)
        out[BLOCK_DATA + i] = (uint8_t)i;
    return BLOCK_DATA + 2 * BLOCK_SIZE;
}

/* ---- opening ---- */

static void
check_failed(enum kdmp_status status, enum kdmp_status want,
             const struct kdmp_dump *dump, const struct kdmp_error *err)
{
    CHECK_EQ(status, want);
    CHECK(dump == NULL);
    CHECK_EQ(err->status, want);
    CHECK(err->message[0] != '\0');
    CHECK_EQ(err->os_errno, want == KDMP_E_OS ? ENXIO : 0);
}

/* Each read fails, then each allocation; at last the dump opens and one byte
 * of it is read. */
static void
fail_open(struct flaky *flaky, enum kdmp_paging paging, uint64_t address,
          uint8_t want)
{
    struct kdmp_dump *dump;
    struct kdmp_space space;
    uint64_t done;
    long nth, reads = 0, allocations = 0;
    uint8_t byte;

    for (nth = 0; nth < 100; nth++) {
        struct kdmp_error err = {0};
        enum kdmp_status status;

        flaky->fail_at = nth;
        status = open_flaky(flaky, &dump, &err);
        if (!flaky->failed)
            break;
        check_failed(status, KDMP_E_OS, dump, &err);
        reads++;
    }
    kdmp_close(dump);
    flaky->fail_at = -1;
    for (nth = 0; nth < 100; nth++) {
        struct kdmp_error err = {0};
        enum kdmp_status status;

        kdmp_test_fail_alloc(nth);
        status = open_flaky(flaky, &dump, &err);
        if (!kdmp_test_alloc_failed())
            break;
        check_failed(status, KDMP_E_NOMEM, dump, &err);
        allocations++;
    }
    kdmp_test_fail_alloc(-1);
    CHECK(reads >= 1 && allocations >= 2);
    CHECK(dump != NULL);
    space = mini_space(dump, paging);
    CHECK_EQ(kdmp_read(&space, address, &byte, 1, &done, NULL), KDMP_OK);
    CHECK_EQ(byte, want);
    kdmp_close(dump);
}

static void
test_opening(uint8_t *image)
{
    static const struct kdmp_run runs[] = {{5, 1, 0x1000}, {8, 1, 0x2000}};
    const struct kdmp_raw found = {NULL, 0, KDMP_MACHINE_UNKNOWN};
    const struct kdmp_raw given = {runs, 2, KDMP_MACHINE_X64};
    struct flaky flaky = {.bytes = {image, 0}};
    size_t i;

    for (i = 0; i < sizeof(mini_types) / sizeof(mini_types[0]); i++) {
        flaky.bytes.size = mini_dump(image, mini_types[i]);
        fail_open(&flaky, KDMP_PAGING_X64, 0x6123, mini_byte(8, 0x123));
    }
    flaky.bytes.size = triage_image(image);
    fail_open(&flaky, KDMP_PAGING_TRIAGE, 0x6003, BLOCK_SIZE + 3);
    flaky.bytes.size = elf_image(image);
    flaky.raw = &found;
    fail_open(&flaky, KDMP_PAGING_PHYSICAL, 0x8123, mini_byte(8, 0x123));
    flaky.raw = &given;
    fail_open(&flaky, KDMP_PAGING_PHYSICAL, 0x8123, mini_byte(8, 0x123));
    image[0] = 0; /* no ELF: the file is physical memory */
    flaky.raw = &found;
    fail_open(&flaky, KDMP_PAGING_PHYSICAL, 0x2123, mini_byte(8, 0x123));
}

static void
check_os_error(int fd, int map, int want)
{
    struct kdmp_error err = {0};
    struct kdmp_dump *dump;

    CHECK_EQ(kdmp_open_fd(fd, map, &dump, &err), KDMP_E_OS);
    CHECK(dump == NULL);
    CHECK_EQ(err.os_errno, want);
}

/* What is no file that can be read: a pipe, one that is open for writing, one
 * that is not open, a device without an end. */
static void
test_files(const uint8_t *image)
{
    char path[] = "/tmp/kdmp-failures-XXXXXX";
    struct kdmp_dump *dump;
    int ends[2], fd;

    CHECK_EQ(pipe(ends), 0);
    check_os_error(ends[0], 1, ESPIPE);
    close(ends[0]);
    close(ends[1]);
    check_os_error(-1, 1, EBADF);
    fd = mkstemp(path);
    CHECK(fd >= 0);
    CHECK_EQ(write(fd, image, MINI_MAX), MINI_MAX);
    close(fd);
    fd = open(path, O_WRONLY);
    CHECK(fd >= 0);
    check_os_error(fd, 1, EACCES);
    check_os_error(fd, 0, EBADF);
    close(fd);
    unlink(path);
    CHECK_EQ(kdmp_open_path("/dev/zero", 1, &dump, NULL), KDMP_E_WRONG_FILE);
    CHECK(dump == NULL);
}

/* ---- what is asked of an open dump ---- */

/* A number that is no paging mode. */
static void
test_unknown_paging(const struct kdmp_dump *dump)
{
    struct kdmp_space space = mini_space(dump, (enum kdmp_paging)99);
    struct kdmp_map_cursor cursor = {.last = UINT64_MAX, .tables_left = 100};
    struct kdmp_mapping mapping;
    struct kdmp_fault fault;
    uint64_t done;
    size_t count = 1;
    uint8_t byte;

    CHECK_EQ(kdmp_read(&space, 0x6123, &byte, 1, &done, &fault),
             KDMP_E_UNSUPPORTED);
    CHECK_EQ(done, 0);
    CHECK_EQ(fault.status, KDMP_E_UNSUPPORTED);
    CHECK_EQ(fault.missing, UINT64_MAX);
    CHECK_EQ(kdmp_next_mappings(&space, &cursor, &mapping, 1, &count),
             KDMP_E_UNSUPPORTED);
    CHECK_EQ(count, 0);
    space.paging = KDMP_PAGING_X64;
    CHECK_EQ(kdmp_next_mappings(&space, &cursor, &mapping, 0, &count),
             KDMP_E_ARGUMENT);
}

/* A root that is not there is a hole in each half. */
static void
test_missing_root(const struct kdmp_dump *dump)
{
    const uint64_t half = UINT64_C(1) << 47;
    struct kdmp_space space = mini_space(dump, KDMP_PAGING_X64);
    struct kdmp_map_cursor cursor = {.last = UINT64_MAX, .tables_left = 100};
    struct kdmp_map_cursor low = {.last = half - 1, .tables_left = 100};
    struct kdmp_mapping mapping;
    size_t count;
    int i;

    space.root = 0x9000;
    for (i = 0; i < 2; i++) {
        CHECK_EQ(kdmp_next_mappings(&space, &cursor, &mapping, 1, &count),
                 KDMP_OK);
        CHECK_EQ(count, 1);
        CHECK_EQ(mapping.state, KDMP_PTE_TABLE);
        CHECK_EQ(mapping.start, i == 0 ? 0 : 0 - half);
        CHECK_EQ(mapping.size, half);
    }
    CHECK_EQ(kdmp_next_mappings(&space, &cursor, &mapping, 1, &count), KDMP_OK);
    CHECK_EQ(count, 0);
    CHECK_EQ(kdmp_next_mappings(&space, &low, &mapping, 1, &count), KDMP_OK);
    CHECK_EQ(count, 1);
    CHECK_EQ(mapping.start, 0);
    CHECK_EQ(mapping.size, half);
    CHECK_EQ(kdmp_next_mappings(&space, &low, &mapping, 1, &count), KDMP_OK);
    CHECK_EQ(count, 0);
}

/* A frame that cannot be read is one that is no page-table root. */
static void
test_find_root(struct flaky *flaky, const struct kdmp_dump *dump)
{
    uint64_t root;
    long nth;

    for (nth = 0; nth < MINI_PAGES; nth++) {
        flaky->reads = 0;
        flaky->fail_at = nth;
        CHECK_EQ(kdmp_find_root(dump, KDMP_PAGING_X64, &root),
                 KDMP_E_NOT_PRESENT);
        CHECK_EQ(flaky->reads, MINI_PAGES);
        CHECK_EQ(root, 0);
    }
    flaky->fail_at = -1;
}

/* A write that cannot copy the base's frame changes nothing. */
static void
test_overlay_write(struct flaky *flaky, const struct kdmp_dump *dump)
{
    struct kdmp_overlay *overlay;
    struct kdmp_space space = mini_space(dump, KDMP_PAGING_PHYSICAL);
    struct kdmp_fault fault;
    uint64_t done = 1;
    long nth;

    CHECK_EQ(kdmp_overlay_open(kdmp_get_source(dump), &overlay), KDMP_OK);
    space.source = kdmp_overlay_source(overlay);
    for (nth = 0; done != 0 && nth < 100; nth++) {
        flaky->reads = flaky->failed = 0;
        flaky->fail_at = nth;
        if (kdmp_overlay_write(overlay, &space, 0x8123, "xy", 2, &done, &fault)
            == KDMP_OK)
            break;
        CHECK(flaky->failed);
        CHECK_EQ(fault.status, KDMP_E_OS);
        CHECK_EQ(fault.address, 0x8123);
        CHECK_EQ(done, 0);
        CHECK_EQ(kdmp_overlay_count(overlay), 0);
        done = 1;
    }
    CHECK(nth >= 1);
    CHECK_EQ(done, 2);
    CHECK_EQ(kdmp_overlay_count(overlay), 1);
    flaky->fail_at = -1;
    kdmp_overlay_close(overlay);
}

/* A batch that finds no memory says so; a cache does without. */
static void
test_no_memory(const struct kdmp_dump *dump)
{
    static const uint64_t addresses[] = {0x5000, 0x6123};
    struct kdmp_space space = mini_space(dump, KDMP_PAGING_X64);
    struct kdmp_tlb_info info;
    uint64_t paddrs[2], done;
    uint8_t statuses[2], bytes[2];

    /* More than there can be, without multiplying into less. */
    CHECK(kdmp_calloc(UINT64_MAX / 2, 3) == NULL);
    kdmp_test_fail_alloc(0);
    CHECK_EQ(kdmp_translate_many(&space, addresses, 2, paddrs, statuses),
             KDMP_E_NOMEM);
    kdmp_test_fail_alloc(0);
    CHECK_EQ(kdmp_read_many(&space, addresses, 2, 1, bytes, statuses),
             KDMP_E_NOMEM);
    CHECK_EQ(kdmp_translate_many(&space, addresses, 2, paddrs, statuses),
             KDMP_OK);
    CHECK_EQ(paddrs[1], 0x8123);

    CHECK_EQ(kdmp_tlb_open(16, NULL, &space.tlb), KDMP_OK);
    kdmp_test_fail_alloc(0);
    CHECK_EQ(kdmp_read(&space, 0x6123, bytes, 1, &done, NULL), KDMP_OK);
    CHECK(kdmp_test_alloc_failed());
    CHECK_EQ(bytes[0], mini_byte(8, 0x123));
    kdmp_tlb_get_info(space.tlb, &info);
    CHECK_EQ(info.size, 0);
    CHECK_EQ(kdmp_read(&space, 0x6123, bytes, 1, &done, NULL), KDMP_OK);
    kdmp_tlb_get_info(space.tlb, &info);
    CHECK_EQ(info.size, 1);
    kdmp_tlb_close(space.tlb);
}

/* Pages whose tables an overlay has no memory to note are not cached: it could
 * not tell when they change. */
static void
test_no_memory_for_notes(const struct kdmp_dump *dump)
{
    struct kdmp_space space = mini_space(dump, KDMP_PAGING_X64);
    struct kdmp_overlay *overlay;
    struct kdmp_tlb_info info;
    uint64_t done;
    uint8_t byte;
    long nth;
    int failed = 1;

    for (nth = 0; failed && nth < 100; nth++) {
        CHECK_EQ(kdmp_overlay_open(kdmp_get_source(dump), &overlay), KDMP_OK);
        CHECK_EQ(kdmp_tlb_open(16, overlay, &space.tlb), KDMP_OK);
        space.source = kdmp_overlay_source(overlay);
        kdmp_test_fail_alloc(nth);
        CHECK_EQ(kdmp_read(&space, 0x6123, &byte, 1, &done, NULL), KDMP_OK);
        failed = kdmp_test_alloc_failed();
        kdmp_test_fail_alloc(-1);
        CHECK_EQ(byte, mini_byte(8, 0x123));
        kdmp_tlb_get_info(space.tlb, &info);
        CHECK_EQ(info.size, !failed);
        kdmp_tlb_close(space.tlb);
        kdmp_overlay_close(overlay);
    }
    CHECK(nth >= 3);
}

int
main(void)
{
    static uint8_t image[MINI_MAX];
    struct flaky flaky = {.fail_at = -1};
    struct kdmp_dump *dump;

    test_opening(image);
    flaky.bytes.ptr = image;
    flaky.bytes.size = mini_dump(image, 1);
    CHECK_EQ(open_flaky(&flaky, &dump, NULL), KDMP_OK);
    test_files(image);
    test_unknown_paging(dump);
    test_missing_root(dump);
    test_find_root(&flaky, dump);
    test_overlay_write(&flaky, dump);
    test_no_memory(dump);
    test_no_memory_for_notes(dump);
    kdmp_close(dump);
    return checks_passed("failures");
}
