/*
 * fuzz_pte.c: entries that are not valid, in formats of any build, beside a
 * decoding of single bits; prototype PTEs, views, page files, zero pages.
 *
 * The input is a program for fuzz_memory.h with a longer head: then come a
 * flag (1: zeros for demand-zero, 2: page files, 4: do not follow prototype
 * PTEs, 8: views, 16: a kernel root), the 7 positions of the format, its frame
 * mask (u64) and the kernel root (u64).  A command that is no store looks at
 * its u64; the low 13 bits of its u32 are a size.
 *
 * SPDX-License-Identifier: MIT
 */
#include "fuzz_memory.h"

enum { HEAD = MEMORY_HEAD + 8 + 16, MAX_USES = 60, PAGEFILE = 3 * PAGE - 7 };

const struct fuzz_shape fuzz_shape = {FUZZ_PROGRAM, HEAD, MEMORY_COMMAND};

struct slow {
    enum kdmp_pte_state state;
    unsigned protection;
    unsigned pagefile;
    uint64_t page;
};

static uint64_t
bits_at(uint64_t value, unsigned at, unsigned count)
{
    uint64_t out = 0;
    unsigned i;

    for (i = 0; i < count && at + i < 64; i++)
        out |= (value >> (at + i) & 1) << i;
    return out;
}

/* What an invalid entry says, as the format has it. */
static struct slow
slow_decode(const struct kdmp_pte_format *format, uint64_t value,
            unsigned width)
{
    struct slow out = {KDMP_PTE_PAGEFILE, 0, 0, 0};
    unsigned high = width - format->pagefile_high, i;
    int all_ones = 1;

    out.protection = (unsigned)bits_at(value, format->protection, 5);
    out.pagefile = (unsigned)bits_at(value, format->pagefile_low, 4);
    out.page = bits_at(value, format->pagefile_high, high);
    for (i = 0; i < high; i++)
        all_ones &= (int)(out.page >> i & 1);
    if (value == 0) {
        out.state = KDMP_PTE_ZERO;
    } else if (value >> 10 & 1) {
        out.state = all_ones ? KDMP_PTE_VAD : KDMP_PTE_PROTOTYPE;
        out.protection =
            (unsigned)bits_at(value, format->prototype_protection, 5);
    } else if (value >> 11 & 1) {
        out.state = KDMP_PTE_TRANSITION;
    } else if (all_ones) {
        out.state = KDMP_PTE_VAD;
    } else if (out.page == 0 && out.pagefile == 0) {
        out.state = KDMP_PTE_DEMAND_ZERO;
    }
    return out;
}

/* A walk that ended at an invalid entry of the last level. */
static void
check_entry(const struct kdmp_space *space, const struct kdmp_translation *walk,
            unsigned width)
{
    uint64_t value, mask;
    struct slow want;

    if (walk->level != 1 || walk->depth == 0 || walk->state == KDMP_PTE_VALID
        || walk->state == KDMP_PTE_TABLE || walk->state == KDMP_PTE_BAD)
        return;
    value = walk->entries[walk->depth - 1].value;
    REQUIRE(!(value & 1) || space->paging == KDMP_PAGING_ARM64);
    want = slow_decode(&space->format, value, width);
    mask = space->mask_known ? space->invalid_pte_mask : UINT64_C(1) << 45;
    if (want.state == KDMP_PTE_PAGEFILE && space->format.swizzle != 0
        && !(value >> space->format.swizzle & 1))
        want = slow_decode(&space->format, value & ~mask, width);
    REQUIRE(walk->protection == want.protection);
    if (walk->prototype != 0) {
        REQUIRE(want.state == KDMP_PTE_PROTOTYPE || want.state == KDMP_PTE_VAD);
        REQUIRE(!space->keep_prototypes);
        REQUIRE(walk->prototype % (width / 8) == 0);
        return;
    }
    REQUIRE(walk->state == want.state);
    if (want.state == KDMP_PTE_PAGEFILE)
        REQUIRE(walk->pagefile == want.pagefile
                && walk->pagefile_page == want.page);
}

static void
check_walk(const struct memory *memory, const struct kdmp_space *space,
           const struct kdmp_translation *walk)
{
    const unsigned width = space->paging == KDMP_PAGING_X86 ? 32 : 64;
    unsigned i;

    REQUIRE(walk->depth <= 5 && walk->level <= 5);
    REQUIRE(walk->state < KDMP_PTE_STATE_COUNT);
    for (i = 0; i < walk->depth; i++)
        REQUIRE(memory_status(memory, walk->entries[i].paddr >> 12) == KDMP_OK);
    if (walk->status == KDMP_OK && walk->depth > 0) {
        REQUIRE(walk->state == KDMP_PTE_VALID
                || walk->state == KDMP_PTE_TRANSITION
                || (walk->state == KDMP_PTE_PROTOTYPE && walk->prototype != 0));
        REQUIRE(((walk->paddr ^ walk->vaddr) & (PAGE - 1)) == 0);
    }
    if (space->format.frame_mask != 0)
        check_entry(space, walk, width);
}

/* A read: as long as it goes, its bytes are where single walks say. */
static void
check_read(const struct memory *memory, const struct kdmp_space *space,
           const uint8_t *pagefile, uint64_t address, uint64_t size)
{
    uint8_t *buffer = malloc(size ? size : 1);
    struct kdmp_fault fault;
    uint64_t done, i;
    enum kdmp_status status;

    REQUIRE(buffer != NULL);
    status = kdmp_read(space, address, buffer, size, &done, &fault);
    REQUIRE(done <= size && (status == KDMP_OK) == (done == size));
    REQUIRE(status == KDMP_OK || fault.missing > 0);
    for (i = 0; i < done; i += 1 + done / 9) {
        struct kdmp_translation walk;
        uint64_t at;

        if (kdmp_translate(space, address + i, &walk) == KDMP_OK) {
            REQUIRE(memory_status(memory, walk.paddr >> 12) == KDMP_OK);
            REQUIRE(buffer[i] == memory->bytes[walk.paddr]);
        } else if (walk.state == KDMP_PTE_DEMAND_ZERO) {
            REQUIRE(space->zero_fill && buffer[i] == 0);
        } else {
            REQUIRE(walk.state == KDMP_PTE_PAGEFILE && walk.pagefile == 1
                    && space->pagefile_count > 1);
            at = walk.pagefile_page * PAGE + (address + i) % PAGE;
            REQUIRE(at < PAGEFILE && buffer[i] == pagefile[at]);
        }
    }
    free(buffer);
}

static void
read_format(const uint8_t *p, struct kdmp_pte_format *format, unsigned width)
{
    format->swizzle = p[0] % width;
    format->protection = p[1] % width;
    format->prototype_protection = p[2] % 64;
    format->prototype_read_only = p[3] % width;
    format->prototype_address = p[4] % width;
    format->prototype_split = p[4] >> 7;
    format->pagefile_low = p[5] % width;
    format->pagefile_high = p[6] % width;
    format->frame_mask = fuzz_load(p + 7, 8);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct memory memory;
    struct kdmp_space space;
    struct use uses[MAX_USES];
    struct kdmp_view views[3];
    uint8_t pagefile[PAGEFILE];
    struct kdmp_input input = {.data = pagefile, .size = PAGEFILE};
    struct kdmp_pagefile *files[2] = {NULL, NULL};
    const uint8_t *more = data + MEMORY_HEAD;
    size_t used, i;

    if (size < HEAD)
        return 0;
    memory_init(&memory, &space, data);
    used = memory_program(&memory, data + HEAD, size - HEAD, uses, MAX_USES);
    for (i = 0; i < PAGEFILE; i++)
        pagefile[i] = (uint8_t)(i * 13 + i / PAGE);
    REQUIRE(kdmp_pagefile_open(&input, &files[1], NULL) == KDMP_OK);
    read_format(more + 1, &space.format,
                space.paging == KDMP_PAGING_X86 ? 32 : 64);
    space.zero_fill = more[0] & 1;
    if (more[0] & 2) {
        space.pagefiles = (const struct kdmp_pagefile *const *)files;
        space.pagefile_count = 2;
    }
    space.keep_prototypes = more[0] >> 2 & 1;
    if (more[0] & 8 && used >= 3) {
        for (i = 0; i < 3; i++) { /* sorted, one after the other */
            views[i].start = i * 0x4000;
            views[i].end = i * 0x4000 + (uses[i].what & 7) * PAGE;
            views[i].prototype = uses[i].value;
            if (views[i].end > (i + 1) * 0x4000)
                views[i].end = (i + 1) * 0x4000;
        }
        space.views = views;
        space.view_count = 3;
    }
    space.kernel_root = more[0] & 16 ? fuzz_load(more + 16, 8) : 0;
    for (i = 0; i < used; i++) {
        struct kdmp_translation walk;

        REQUIRE(kdmp_translate(&space, uses[i].value, &walk)
                == (enum kdmp_status)walk.status);
        check_walk(&memory, &space, &walk);
        check_read(&memory, &space, pagefile, uses[i].value,
                   uses[i].what & 0x1fff);
    }
    kdmp_pagefile_close(files[1]);
    memory_deinit(&memory);
    return 0;
}
