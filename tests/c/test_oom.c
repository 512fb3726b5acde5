/*
 * test_oom.c: every allocation of every way to open fails once.
 *
 * Built with KDMP_TEST_ALLOC; leaks are left to the sanitizer or valgrind.
 *
 * SPDX-License-Identifier: MIT
 */
#define _POSIX_C_SOURCE 200809L

#include <unistd.h>

#include "check.h"
#include "internal.h"
#include "minidump.h"

enum way { BY_MEMORY, BY_STREAM, BY_FD_MAP, BY_FD_READ, BY_PATH, WAYS };

struct input {
    struct mini_bytes bytes;
    int fd;
    const char *path;
};

static enum kdmp_status
open_by(enum way way, struct input *input, struct kdmp_dump **dump_out,
        struct kdmp_error *err)
{
    struct kdmp_stream stream = {mini_read_at, &input->bytes,
                                 input->bytes.size};

    switch (way) {
    case BY_MEMORY:
        return kdmp_open_memory(input->bytes.ptr, input->bytes.size, dump_out,
                                err);
    case BY_STREAM:
        return kdmp_open_stream(&stream, dump_out, err);
    case BY_FD_MAP:
        return kdmp_open_fd(input->fd, 1, dump_out, err);
    case BY_FD_READ:
        return kdmp_open_fd(input->fd, 0, dump_out, err);
    default:
        return kdmp_open_path(input->path, 1, dump_out, err);
    }
}

/* A dump that opened is complete. */
static void
check_dump(const struct kdmp_dump *dump)
{
    struct kdmp_space space = mini_space(dump, KDMP_PAGING_X64);
    uint64_t done;
    uint8_t byte;

    CHECK_EQ(kdmp_get_info(dump)->pages_available, MINI_PAGES);
    CHECK_EQ(kdmp_count_frames(dump, 0, UINT64_MAX), MINI_PAGES);
    CHECK_EQ(kdmp_read(&space, 0x6123, &byte, 1, &done, NULL), KDMP_OK);
    CHECK_EQ(byte, mini_byte(8, 0x123));
}

/* Returns how many allocations the opening takes. */
static long
fail_each_allocation(enum way way, struct input *input, int with_error)
{
    long nth;

    for (nth = 0; nth < 1000; nth++) {
        struct kdmp_error err = {0};
        struct kdmp_dump *dump = (struct kdmp_dump *)&err;
        enum kdmp_status status;

        kdmp_test_fail_alloc(nth);
        status = open_by(way, input, &dump, with_error ? &err : NULL);
        if (!kdmp_test_alloc_failed()) {
            kdmp_test_fail_alloc(-1);
            CHECK_EQ(status, KDMP_OK);
            check_dump(dump);
            kdmp_close(dump);
            return nth;
        }
        CHECK_EQ(status, KDMP_E_NOMEM);
        CHECK(dump == NULL);
        CHECK(!with_error || err.status == KDMP_E_NOMEM);
        CHECK(!with_error || err.message[0] != '\0');
    }
    CHECK(!"the number of allocations has an end");
    return 0;
}

/* An enumeration copies tables that are not in memory; without the room for
 * that it stops, and can go on later. */
static void
fail_enumeration(enum way way, struct input *input)
{
    struct kdmp_map_cursor cursor = {.last = UINT64_MAX, .tables_left = 100};
    int in_memory = way != BY_STREAM && way != BY_FD_READ;
    struct kdmp_dump *dump;
    struct kdmp_mapping mapping;
    struct kdmp_space space;
    size_t count = 1;

    CHECK_EQ(open_by(way, input, &dump, NULL), KDMP_OK);
    space = mini_space(dump, KDMP_PAGING_X64);
    kdmp_test_fail_alloc(0);
    CHECK_EQ(kdmp_next_mappings(&space, &cursor, &mapping, 1, &count),
             in_memory ? KDMP_OK : KDMP_E_NOMEM);
    CHECK_EQ(count, (size_t)in_memory);
    kdmp_test_fail_alloc(-1);
    if (!in_memory)
        CHECK_EQ(kdmp_next_mappings(&space, &cursor, &mapping, 1, &count),
                 KDMP_OK);
    CHECK_EQ(count, 1);
    CHECK_EQ(mapping.state, KDMP_PTE_VALID);
    CHECK_EQ(cursor.tables_left < 100, 1);
    kdmp_close(dump);
}

static void
fail_pagefile(const struct input *input)
{
    struct kdmp_input file = {.data = input->bytes.ptr,
                              .size = input->bytes.size};
    struct kdmp_pagefile *pagefile = (struct kdmp_pagefile *)&file;

    kdmp_test_fail_alloc(0);
    CHECK_EQ(kdmp_pagefile_open(&file, &pagefile, NULL), KDMP_E_NOMEM);
    CHECK(pagefile == NULL);
    kdmp_test_fail_alloc(-1);
}

/* A session with an overlay; KDMP_OK or the first failure. */
static enum kdmp_status
use_overlay(const struct kdmp_dump *dump, struct kdmp_overlay *overlay,
            struct kdmp_tlb *tlb)
{
    struct kdmp_space space = mini_space(dump, KDMP_PAGING_X64);
    uint8_t data[0x1000 + 16] = {0};
    uint64_t done, snapshot, frames, pfn;
    enum kdmp_status status = KDMP_OK;

    space.source = kdmp_overlay_source(overlay);
    space.tlb = tlb;
    status = kdmp_overlay_snapshot(overlay, &snapshot);
    if (status == KDMP_OK)
        status = kdmp_overlay_watch(overlay, 5);
    if (status == KDMP_OK)
        status =
            kdmp_overlay_write(overlay, &space, 0x5ff8, data, 16, &done, NULL);
    for (pfn = 0x100; pfn < 0x140 && status == KDMP_OK; pfn++)
        status = kdmp_overlay_create(overlay, pfn);
    for (pfn = 0x200; pfn < 0x240 && status == KDMP_OK; pfn++)
        status = kdmp_overlay_remap(overlay, pfn, 0x100);
    if (status == KDMP_OK)
        status = kdmp_overlay_revert(overlay, 5);
    kdmp_overlay_unwatch(overlay, 5);
    if (status == KDMP_OK)
        status = kdmp_overlay_restore(overlay, snapshot, &frames);
    CHECK(status != KDMP_OK || kdmp_overlay_count(overlay) == 0);
    return status;
}

/* Whatever allocation fails, the overlay stays whole and can be reset. */
static void
fail_in_overlays(const struct input *input)
{
    struct kdmp_dump *dump;
    long nth;
    int failed = 1;

    CHECK_EQ(kdmp_open_memory(input->bytes.ptr, input->bytes.size, &dump, NULL),
             KDMP_OK);
    for (nth = 0; failed && nth < 1000; nth++) {
        struct kdmp_overlay *overlay = NULL;
        struct kdmp_tlb *tlb = NULL;
        struct kdmp_space space = mini_space(dump, KDMP_PAGING_X64);
        uint64_t done;
        uint8_t byte;
        enum kdmp_status status;

        kdmp_test_fail_alloc(nth);
        status = kdmp_overlay_open(kdmp_get_source(dump), &overlay);
        if (status == KDMP_OK)
            status = kdmp_tlb_open(16, overlay, &tlb);
        if (status == KDMP_OK)
            status = use_overlay(dump, overlay, tlb);
        failed = kdmp_test_alloc_failed();
        kdmp_test_fail_alloc(-1);
        /* A cache that finds no memory does without. */
        CHECK(status == KDMP_OK || (failed && status == KDMP_E_NOMEM));
        if (tlb != NULL) {
            kdmp_overlay_reset(overlay);
            CHECK_EQ(kdmp_overlay_count(overlay), 0);
            space.source = kdmp_overlay_source(overlay);
            CHECK_EQ(kdmp_read(&space, 0x6123, &byte, 1, &done, NULL), KDMP_OK);
            CHECK_EQ(byte, mini_byte(8, 0x123));
            CHECK_EQ(use_overlay(dump, overlay, tlb), KDMP_OK);
        }
        kdmp_tlb_close(tlb);
        kdmp_overlay_close(overlay);
    }
    CHECK(nth > 20);
    kdmp_close(dump);
}

int
main(void)
{
    static uint8_t image[MINI_MAX];
    char path[] = "/tmp/kdmp-oom-XXXXXX";
    struct input input;
    unsigned type;
    int way;

    input.fd = mkstemp(path);
    input.path = path;
    CHECK(input.fd >= 0);
    for (type = 0; type < sizeof(mini_types) / sizeof(mini_types[0]); type++) {
        size_t size = mini_dump(image, mini_types[type]);

        input.bytes.ptr = image;
        input.bytes.size = size;
        CHECK_EQ(ftruncate(input.fd, 0), 0);
        CHECK_EQ(pwrite(input.fd, image, size, 0), size);
        for (way = 0; way < WAYS; way++) {
            long count = fail_each_allocation((enum way)way, &input, 1);

            CHECK(count >= 2);
            CHECK_EQ(fail_each_allocation((enum way)way, &input, 0), count);
            fail_enumeration((enum way)way, &input);
        }
        fail_pagefile(&input);
        fail_in_overlays(&input);
    }
    close(input.fd);
    unlink(path);
    return checks_passed("oom");
}
