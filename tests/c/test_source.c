/*
 * test_source.c: reads over a page source that is not a dump.
 *
 * The source is 8 frames of memory given out in odd pieces, by pointer or by
 * read_file(); frame 3 is absent, frame 5 is cut off.
 *
 * SPDX-License-Identifier: MIT
 */
#include "check.h"
#include "internal.h"

enum {
    FRAMES = 8,
    SIZE = FRAMES * PAGE_SIZE,
    ABSENT = 3,
    CUT = 5,
    PIECE = 1000
};

struct memory {
    uint8_t bytes[SIZE];
    int by_file;
};

static enum kdmp_status
locate(const struct kdmp_source *self, uint64_t paddr, uint64_t want,
       struct kdmp_extent *out)
{
    const struct memory *memory = self->context;
    uint64_t pfn = paddr >> PAGE_SHIFT;

    CHECK(want > 0);
    out->length = min_u64(want, PAGE_SIZE - (paddr & (PAGE_SIZE - 1)));
    if (pfn >= FRAMES || pfn == ABSENT)
        return KDMP_E_NOT_IN_DUMP;
    if (pfn == CUT)
        return KDMP_E_TRUNCATED;
    out->length = min_u64(out->length, PIECE);
    out->file_offset = paddr;
    out->ptr = memory->by_file ? NULL : memory->bytes + paddr;
    return KDMP_OK;
}

static enum kdmp_status
read_file(const struct kdmp_source *self, uint64_t file_offset, void *buffer,
          size_t size)
{
    const struct memory *memory = self->context;

    CHECK(memory->by_file);
    CHECK(file_offset <= SIZE && size <= SIZE - file_offset);
    memcpy(buffer, memory->bytes + file_offset, size);
    return KDMP_OK;
}

static int
next_run(const struct kdmp_source *self, uint64_t pfn, struct kdmp_run *out)
{
    (void)self;
    for (; pfn < FRAMES; pfn++)
        if (pfn != ABSENT && pfn != CUT)
            break;
    out->pfn = pfn;
    out->count = 1;
    out->file_offset = pfn << PAGE_SHIFT;
    return pfn < FRAMES;
}

static void
test_physical(const struct kdmp_space *space, const struct memory *memory)
{
    uint8_t *buffer = malloc(SIZE);
    struct kdmp_fault fault;
    uint64_t done, size;

    CHECK(buffer != NULL);
    for (size = 1; size <= 3 * PAGE_SIZE; size += 997) {
        memset(buffer, 0xcc, SIZE);
        CHECK_EQ(
            kdmp_read(space, 3 * PAGE_SIZE - size, buffer, size, &done, &fault),
            KDMP_OK);
        CHECK_EQ(done, size);
        CHECK(memcmp(buffer, memory->bytes + 3 * PAGE_SIZE - size, size) == 0);
        CHECK_EQ(buffer[size], 0xcc);
    }
    /* Short at the hole, and the rest of the buffer is left alone. */
    memset(buffer, 0xcc, SIZE);
    CHECK_EQ(kdmp_read(space, 0x2ff0, buffer, 0x40, &done, &fault),
             KDMP_E_NOT_IN_DUMP);
    CHECK_EQ(done, 0x10);
    CHECK_EQ(buffer[0x10], 0xcc);
    CHECK_EQ(fault.status, KDMP_E_NOT_IN_DUMP);
    CHECK_EQ(fault.address, 0x3000);
    CHECK_EQ(fault.paddr, 0x3000);
    CHECK(fault.missing >= 1 && fault.missing <= PAGE_SIZE);
    CHECK_EQ(kdmp_read(space, 0x4fff, buffer, 2, &done, &fault),
             KDMP_E_TRUNCATED);
    CHECK_EQ(done, 1);
    CHECK_EQ(fault.address, 0x5000);
    /* No fault wanted; nothing asked for. */
    CHECK_EQ(kdmp_read(space, 0x3000, buffer, 1, &done, NULL),
             KDMP_E_NOT_IN_DUMP);
    CHECK_EQ(kdmp_read(space, 0x3000, buffer, 0, &done, NULL), KDMP_OK);
    CHECK_EQ(done, 0);
    /* Past the last address. */
    CHECK_EQ(kdmp_read(space, UINT64_MAX, buffer, 2, &done, &fault),
             KDMP_E_NOT_IN_DUMP);
    CHECK_EQ(done, 0);
    free(buffer);
}

static void
put_u64(struct memory *memory, uint64_t paddr, uint64_t value)
{
    unsigned i;

    for (i = 0; i < 8; i++)
        memory->bytes[paddr + i] = (uint8_t)(value >> 8 * i);
}

/* Frames 0, 1, 2, 4 are the tables; the last virtual page is frame 6, the one
 * before it frame 7, and the one before that is not present. */
static void
test_last_page(struct kdmp_space space, struct memory *memory)
{
    uint8_t buffer[64];
    struct kdmp_fault fault;
    uint64_t done;

    put_u64(memory, 0x0000 + 8 * 511, 0x1000 | 3);
    put_u64(memory, 0x1000 + 8 * 511, 0x2000 | 3);
    put_u64(memory, 0x2000 + 8 * 511, 0x4000 | 3);
    put_u64(memory, 0x4000 + 8 * 511, 0x6000 | 3);
    put_u64(memory, 0x4000 + 8 * 510, 0x7000 | 3);
    put_u64(memory, 0x4000 + 8 * 509, 0);
    space.paging = KDMP_PAGING_X64;
    /* F3: up to the last byte, and not around to 0. */
    CHECK_EQ(kdmp_read(&space, UINT64_MAX - 31, buffer, 32, &done, &fault),
             KDMP_OK);
    CHECK_EQ(done, 32);
    CHECK(memcmp(buffer, memory->bytes + 0x6fe0, 32) == 0);
    CHECK_EQ(kdmp_read(&space, UINT64_MAX - 31, buffer, 33, &done, &fault),
             KDMP_E_ADDRESS_END);
    CHECK_EQ(done, 32);
    CHECK_EQ(fault.status, KDMP_E_ADDRESS_END);
    CHECK_EQ(
        kdmp_read(&space, UINT64_MAX - 0xfff - 16, buffer, 32, &done, &fault),
        KDMP_OK);
    CHECK(memcmp(buffer, memory->bytes + 0x7ff0, 16) == 0);
    CHECK(memcmp(buffer + 16, memory->bytes + 0x6000, 16) == 0);
    CHECK_EQ(kdmp_read(&space, UINT64_MAX - 0x2fff, buffer, 8, &done, &fault),
             KDMP_E_NOT_PRESENT);
    CHECK_EQ(fault.address, UINT64_MAX - 0x2fff);
    CHECK_EQ(fault.missing, PAGE_SIZE);
    CHECK_EQ(fault.walk.depth, 4);
    CHECK_EQ(fault.walk.state, KDMP_PTE_ZERO);
}

static void
test_strings(const struct kdmp_space *space, struct memory *memory)
{
    uint8_t buffer[256];
    struct kdmp_fault fault;
    uint64_t done;

    memcpy(memory->bytes + 0x1ffc, "across\0x", 8);
    CHECK_EQ(kdmp_read_string(space, 0x1ffc, 1, buffer, sizeof(buffer), &done,
                              &fault),
             KDMP_OK);
    CHECK_EQ(done, 6);
    CHECK(memcmp(buffer, "across", 6) == 0);
    CHECK_EQ(kdmp_read_string(space, 0x1ffc, 1, buffer, 6, &done, &fault),
             KDMP_E_LIMIT);
    CHECK_EQ(done, 6);
    CHECK_EQ(kdmp_read_string(space, 0x1ffc, 1, buffer, 7, &done, &fault),
             KDMP_OK);
    CHECK_EQ(kdmp_read_string(space, 0x1ffc, 3, buffer, 7, &done, &fault),
             KDMP_E_ARGUMENT);
    /* A wide string whose units lie across the page boundary. */
    memcpy(memory->bytes + 0x1ffd, "h\0i\0\0\0", 6);
    CHECK_EQ(kdmp_read_string(space, 0x1ffd, 2, buffer, sizeof(buffer), &done,
                              &fault),
             KDMP_OK);
    CHECK_EQ(done, 4);
    CHECK(memcmp(buffer, "h\0i\0", 4) == 0);
    /* No terminator before the hole. */
    memset(memory->bytes + 0x2ff0, 'x', 16);
    CHECK_EQ(kdmp_read_string(space, 0x2ff0, 1, buffer, sizeof(buffer), &done,
                              &fault),
             KDMP_E_NOT_IN_DUMP);
    CHECK_EQ(done, 16);
    CHECK_EQ(fault.address, 0x3000);
    CHECK_EQ(kdmp_read_string(space, 0x1000, 1, buffer, 0, &done, &fault),
             KDMP_E_LIMIT);
    CHECK_EQ(done, 0);
}

/* Comparing is for sources of whole frames. */
static void
test_compare(const struct kdmp_source *source)
{
    struct kdmp_comparison state = {.end = FRAMES};
    struct kdmp_frame_run run;
    size_t count = 1;

    CHECK_EQ(kdmp_compare_frames(source, source, &state, &run, 1, &count),
             KDMP_E_ARGUMENT);
    CHECK_EQ(count, 0);
    CHECK_EQ(state.next, 0);
}

int
main(void)
{
    static struct memory memory;
    struct kdmp_source source = {.locate = locate,
                                 .read_file = read_file,
                                 .next_run = next_run,
                                 .context = &memory};
    struct kdmp_space space = {0};
    unsigned i;

    space.source = &source;
    space.paging = KDMP_PAGING_PHYSICAL;
    for (memory.by_file = 0; memory.by_file < 2; memory.by_file++) {
        for (i = 0; i < SIZE; i++)
            memory.bytes[i] = (uint8_t)(i * 7 + (i >> 8));
        test_physical(&space, &memory);
        test_compare(&source);
        test_strings(&space, &memory);
        for (i = 0; i < SIZE; i++)
            memory.bytes[i] = (uint8_t)(i * 7 + (i >> 8));
        test_last_page(space, &memory);
    }
    return checks_passed("source");
}
