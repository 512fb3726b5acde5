/*
 * test_mmu.c: the x64 walk over a handful of entries, one case per rule.
 *
 * The source is an array of (physical address, entry); frame 0x77 is beyond
 * the end of the file, everything else is not in the dump.
 *
 * SPDX-License-Identifier: MIT
 */
#include "check.h"
#include "internal.h"

#define NX (UINT64_C(1) << 63)
#define L1TF (UINT64_C(1) << 45)

enum {
    P = 1,
    W = 2,
    U = 4,
    LARGE = 0x80,
    PROTOTYPE = 0x400,
    TRANSITION = 0x800,
    SWIZZLED = 0x10,
    CUT_FRAME = 0x77
};

#define PROTOTYPE_AT(n)                                                        \
    (UINT64_C(0x8000000000000000) | (uint64_t)(n) << 16 | PROTOTYPE | SWIZZLED)

static const struct kdmp_entry table[] = {
    {0x1000, 0x2000 | P | W | U},
    {0x1000 + 8 * 1, 0x1000 | P | W}, /* points to itself */
    {0x1000 + 8 * 2, 0x2000 | P | W | U | NX},
    {0x1000 + 8 * 3, 0x2000 | P | W | LARGE}, /* reserved bit */
    {0x1000 + 8 * 4, 0x99000 | P | W},        /* table not in the dump */
    {0x1000 + 8 * 5, 0x77000 | P | W},        /* table cut off */
    {0x1000 + 8 * 256, 0x2000 | P | W},
    {0x1000 + 8 * 511, 0x2000 | P | W},
    {0x2000, 0x3000 | P | W | U},
    {0x2000 + 8 * 1, 0x40000000 | P | W | LARGE},
    {0x2000 + 8 * 511, 0x3000 | P | W},
    {0x3000, 0x4000 | P | W | U},
    {0x3000 + 8 * 1, 0xE00000 | P | W | LARGE},
    {0x3000 + 8 * 2, 0xE00000 | 0x1000 | P | W | LARGE}, /* PAT */
    {0x3000 + 8 * 3, 0xE00000 | W | LARGE},              /* not present */
    {0x3000 + 8 * 4, 0x4000 | TRANSITION | 4 << 5},
    {0x3000 + 8 * 511, 0x4000 | P | W},
    {0x4000 + 8 * 0, 0},
    {0x4000 + 8 * 1, 0xA000 | P | U},
    {0x4000 + 8 * 2, 0xA000 | P | W | NX},
    {0x4000 + 8 * 3, 0xA000 | TRANSITION | 6 << 5},
    {0x4000 + 8 * 4, 0xA000 | TRANSITION | PROTOTYPE | 4 << 5},
    {0x4000 + 8 * 5, 0xA000 | TRANSITION | L1TF | 4 << 5},
    {0x4000 + 8 * 6, 4 << 5},
    {0x4000 + 8 * 7, UINT64_C(0x12345) << 32 | 2 << 12 | 4 << 5},
    {0x4000 + 8 * 8, UINT64_C(0x000F000000000000) | P | W},
    {0x4000 + 8 * 9, 0xBBB000 | TRANSITION | SWIZZLED},
    /* To the prototype PTEs at 0xFFFF800000001010 and behind it. */
    {0x4000 + 8 * 10, PROTOTYPE_AT(0x1010) | 5 << 5},
    {0x4000 + 8 * 11, PROTOTYPE_AT(0x1018) | 4 << 5},
    {0x4000 + 8 * 12, PROTOTYPE_AT(0x1014) | 4 << 5}, /* misaligned */
    {0x4000 + 8 * 13, UINT64_C(0xFFFFFFFF00000430)},
    {0xA010, 0x4000 | P},
    {0xA018, PROTOTYPE_AT(0x1010)},
    {0x4000 + 8 * 511, 0xA000 | P | W},
};

#define ENTRIES (sizeof(table) / sizeof(table[0]))

static enum kdmp_status
locate(const struct kdmp_source *self, uint64_t paddr, uint64_t want,
       struct kdmp_extent *out)
{
    static const uint8_t zeros[PAGE_SIZE] = {0};
    uint8_t *scratch = (uint8_t *)(uintptr_t)self->context;
    uint64_t pfn = paddr >> 12;
    size_t i;

    out->length = min_u64(want, PAGE_SIZE - (paddr & (PAGE_SIZE - 1)));
    if (pfn == CUT_FRAME)
        return KDMP_E_TRUNCATED;
    if ((pfn < 1 || pfn > 4) && pfn != 0xA)
        return KDMP_E_NOT_IN_DUMP;
    out->ptr = zeros;
    out->length = min_u64(out->length, 8);
    for (i = 0; i < ENTRIES; i++) {
        unsigned byte;

        if (table[i].paddr != paddr)
            continue;
        for (byte = 0; byte < 8; byte++)
            scratch[byte] = (uint8_t)(table[i].value >> 8 * byte);
        out->ptr = scratch;
    }
    return KDMP_OK;
}

static int
next_run(const struct kdmp_source *self, uint64_t pfn, struct kdmp_run *out)
{
    (void)self;
    out->pfn = pfn < 1 ? 1 : pfn;
    out->count = 0xB - out->pfn;
    out->file_offset = 0;
    return pfn <= 0xA;
}

struct expected {
    uint64_t vaddr;
    enum kdmp_status status;
    enum kdmp_pte_state state;
    uint64_t paddr;
    uint64_t page_size;
    int level;
    int depth;
};

#define KB4 UINT64_C(0x1000)
#define MB2 UINT64_C(0x200000)
#define GB1 UINT64_C(0x40000000)
#define TOP(n) ((uint64_t)(n) << 39)

/* clang-format off */
static const struct expected cases[] = {
    {0x1123, KDMP_OK, KDMP_PTE_VALID, 0xA123, KB4, 1, 4},
    {0x0000, KDMP_E_NOT_PRESENT, KDMP_PTE_ZERO, 0, KB4, 1, 4},
    {0x3FFF, KDMP_OK, KDMP_PTE_TRANSITION, 0xAFFF, KB4, 1, 4},
    {0x4000, KDMP_E_NOT_PRESENT, KDMP_PTE_PROTOTYPE, 0, KB4, 1, 4},
    {0x5001, KDMP_OK, KDMP_PTE_TRANSITION, 0xA001, KB4, 1, 4},
    {0x6000, KDMP_E_NOT_PRESENT, KDMP_PTE_DEMAND_ZERO, 0, KB4, 1, 4},
    {0x7000, KDMP_E_NOT_PRESENT, KDMP_PTE_PAGEFILE, 0, KB4, 1, 4},
    {0x8000, KDMP_OK, KDMP_PTE_VALID, UINT64_C(0xF000000000000), KB4, 1, 4},
    /* SwizzleBit set: the frame is its own, whether or not it was captured. */
    {0x9000, KDMP_OK, KDMP_PTE_TRANSITION, 0xBBB000, KB4, 1, 4},
    {0xA005, KDMP_OK, KDMP_PTE_PROTOTYPE, 0x4005, KB4, 1, 4},
    {0xB000, KDMP_E_NOT_PRESENT, KDMP_PTE_SUBSECTION, 0, KB4, 1, 4},
    {0xC000, KDMP_E_NOT_PRESENT, KDMP_PTE_PROTOTYPE, 0, KB4, 1, 4},
    {0xD000, KDMP_E_NOT_PRESENT, KDMP_PTE_VAD, 0, KB4, 1, 4},
    {MB2 + 0x34567, KDMP_OK, KDMP_PTE_VALID, 0xE34567, MB2, 2, 3},
    {2 * MB2 + 5, KDMP_OK, KDMP_PTE_VALID, 0xE00005, MB2, 2, 3},
    {3 * MB2, KDMP_E_NOT_PRESENT, KDMP_PTE_DEMAND_ZERO, 0, MB2, 2, 3},
    {4 * MB2 + KB4, KDMP_OK, KDMP_PTE_VALID, 0xA000, KB4, 1, 4},
    {GB1 + 0x3FFFFFFF, KDMP_OK, KDMP_PTE_VALID, 0x7FFFFFFF, GB1, 3, 2},
    {TOP(3), KDMP_E_BAD_ENTRY, KDMP_PTE_BAD, 0, TOP(1), 4, 1},
    {TOP(4), KDMP_E_NOT_IN_DUMP, KDMP_PTE_TABLE, 0x99000, GB1, 3, 1},
    {TOP(5) + 8 * GB1, KDMP_E_TRUNCATED, KDMP_PTE_TABLE, 0x77040, GB1, 3, 1},
    {TOP(6), KDMP_E_NOT_PRESENT, KDMP_PTE_ZERO, 0, TOP(1), 4, 1},
    {UINT64_C(0x800000000000), KDMP_E_NON_CANONICAL, KDMP_PTE_NONE, 0, 0, 0, 0},
    {UINT64_C(0xFFFF7FFFFFFFFFFF), KDMP_E_NON_CANONICAL, KDMP_PTE_NONE, 0, 0, 0, 0},
    {UINT64_C(0xFFFF800000001000), KDMP_OK, KDMP_PTE_VALID, 0xA000, KB4, 1, 4},
    {UINT64_MAX, KDMP_OK, KDMP_PTE_VALID, 0xAFFF, KB4, 1, 4},
    /* PML4[1] is its own page-directory-pointer table and so on down. */
    {TOP(1) + GB1 + MB2 + KB4 + 7, KDMP_OK, KDMP_PTE_VALID, 0x1007, KB4, 1, 4},
};
/* clang-format on */

static struct kdmp_space
space_over(const struct kdmp_source *source, enum kdmp_paging paging)
{
    struct kdmp_space space = {0};

    space.source = source;
    space.root = 0x1000 | 0xABC; /* flags and PCID do not matter */
    space.paging = paging;
    return space;
}

static void
check_case(const struct kdmp_space *space, const struct expected *want)
{
    struct kdmp_translation walk;
    enum kdmp_status status = kdmp_translate(space, want->vaddr, &walk);

    if (status != want->status)
        fprintf(stderr, "walk of 0x%" PRIx64 "\n", want->vaddr);
    CHECK_EQ(status, want->status);
    CHECK_EQ(walk.status, want->status);
    CHECK_EQ(walk.state, want->state);
    CHECK_EQ(walk.paddr, want->paddr);
    CHECK_EQ(walk.page_size, want->page_size);
    CHECK_EQ(walk.level, want->level);
    CHECK_EQ(walk.depth, want->depth);
    CHECK_EQ(walk.vaddr, want->vaddr);
}

static uint32_t
flags_of(const struct kdmp_space *space, uint64_t vaddr)
{
    struct kdmp_translation walk;

    CHECK_EQ(kdmp_translate(space, vaddr, &walk), KDMP_OK);
    return walk.flags;
}

static void
test_rights(const struct kdmp_space *space)
{
    uint32_t flags = flags_of(space, 0x1000);

    CHECK_EQ(flags & KDMP_T_WRITABLE, 0);
    CHECK(flags & KDMP_T_EXECUTABLE);
    CHECK(flags & KDMP_T_USER);
    flags = flags_of(space, 0x2000);
    CHECK(flags & KDMP_T_WRITABLE);
    CHECK_EQ(flags & (KDMP_T_EXECUTABLE | KDMP_T_USER), 0);
    /* F6: rights of a transition entry are its Protection's (6: RWX). */
    flags = flags_of(space, 0x3000);
    CHECK(flags & KDMP_T_WRITABLE && flags & KDMP_T_EXECUTABLE);
    /* F5: bit 45 came from the L1TF mitigation. */
    CHECK(flags_of(space, 0x5000) & KDMP_T_UNSWIZZLED);
    CHECK_EQ(flags_of(space, 0x3000) & KDMP_T_UNSWIZZLED, 0);
    /* F7: bit 12 of a large page is PAT, not address. */
    CHECK(flags_of(space, 2 * MB2) & KDMP_T_PAT);
    CHECK_EQ(flags_of(space, MB2) & KDMP_T_PAT, 0);
    /* NX in the top entry of user space is KVA shadow's trap. */
    flags = flags_of(space, TOP(2) + 0x1000);
    CHECK(flags & KDMP_T_TOP_NX_IGNORED && flags & KDMP_T_EXECUTABLE);
}

static void
test_invalid_mask(struct kdmp_space space)
{
    struct kdmp_translation walk;

    /* A known mask is obeyed even where the result is not in the dump. */
    space.mask_known = 1;
    CHECK_EQ(kdmp_translate(&space, 0x5000, &walk), KDMP_OK);
    CHECK_EQ(walk.paddr, 0xA000 | L1TF);
    space.invalid_pte_mask = L1TF;
    CHECK_EQ(kdmp_translate(&space, 0x5000, &walk), KDMP_OK);
    CHECK_EQ(walk.paddr, 0xA000);
}

static void
test_prototypes(struct kdmp_space space)
{
    struct kdmp_translation walk;

    CHECK_EQ(kdmp_translate(&space, 0xA000, &walk), KDMP_OK);
    CHECK_EQ(walk.prototype, UINT64_C(0xFFFF800000001010));
    CHECK_EQ(walk.prototype_value, 0x4001);
    CHECK_EQ(walk.protection, 5);
    CHECK(walk.flags & KDMP_T_WRITABLE && walk.flags & KDMP_T_COPY_ON_WRITE);
    CHECK_EQ(walk.flags & (KDMP_T_EXECUTABLE | KDMP_T_HARDWARE_WRITABLE), 0);
    CHECK_EQ(kdmp_translate(&space, 0xB000, &walk), KDMP_E_NOT_PRESENT);
    CHECK_EQ(walk.prototype, UINT64_C(0xFFFF800000001018));
    CHECK_EQ(kdmp_translate(&space, 0xC000, &walk), KDMP_E_NOT_PRESENT);
    CHECK_EQ(walk.prototype, 0);
    CHECK_EQ(walk.prototype_value, 0);
    space.keep_prototypes = 1;
    CHECK_EQ(kdmp_translate(&space, 0xA000, &walk), KDMP_E_NOT_PRESENT);
    CHECK_EQ(walk.state, KDMP_PTE_PROTOTYPE);
    CHECK_EQ(walk.prototype, 0);
}

static void
test_page_file(struct kdmp_space space)
{
    static const uint8_t pages[2 * PAGE_SIZE] = {[PAGE_SIZE] = 0xEE};
    const struct kdmp_pagefile *files[3] = {NULL, NULL, NULL};
    struct kdmp_input input = {.data = pages, .size = sizeof(pages)};
    struct kdmp_pagefile *pagefile;
    struct kdmp_fault fault;
    uint8_t buffer[4] = {0};
    uint64_t done;

    /* File 2, page 0x12345 without the usual mask bit, which is not there;
     * then, with a mask, page 1. */
    CHECK_EQ(kdmp_pagefile_open(&input, &pagefile, NULL), KDMP_OK);
    files[2] = pagefile;
    space.pagefiles = files;
    space.pagefile_count = 3;
    CHECK_EQ(kdmp_read(&space, 0x7000, buffer, 4, &done, &fault),
             KDMP_E_NOT_PRESENT);
    CHECK_EQ(fault.walk.pagefile, 2);
    CHECK_EQ(fault.walk.pagefile_page, 0x10345);
    space.mask_known = 1;
    space.invalid_pte_mask = UINT64_C(0x12344) << 32;
    CHECK_EQ(kdmp_read(&space, 0x7000, buffer, 4, &done, &fault), KDMP_OK);
    CHECK_EQ(done, 4);
    CHECK_EQ(buffer[0], 0xEE);
    space.pagefile_count = 2;
    CHECK_EQ(kdmp_read(&space, 0x7000, buffer, 4, &done, &fault),
             KDMP_E_NOT_PRESENT);
    kdmp_pagefile_close(pagefile);
    kdmp_pagefile_close(NULL);
    /* Demand zero: bytes only if they are wanted. */
    CHECK_EQ(kdmp_read(&space, 0x6000, buffer, 4, &done, &fault),
             KDMP_E_NOT_PRESENT);
    space.zero_fill = 1;
    CHECK_EQ(kdmp_read(&space, 0x6000, buffer, 4, &done, &fault), KDMP_OK);
    CHECK_EQ(buffer[0], 0);
}

static void
test_mappings(const struct kdmp_space *space)
{
    struct kdmp_map_cursor cursor = {
        .next = 0x1000, .last = 0x4FFF, .tables_left = 100};
    struct kdmp_mapping out[2];
    size_t count, total = 0;

    do {
        CHECK_EQ(kdmp_next_mappings(space, &cursor, out, 2, &count), KDMP_OK);
        if (total == 0) {
            CHECK_EQ(out[0].start, 0x1000);
            CHECK_EQ(out[0].size, 0x1000);
            CHECK_EQ(out[0].paddr, 0xA000);
            CHECK_EQ(out[0].flags, KDMP_T_EXECUTABLE | KDMP_T_USER);
            CHECK_EQ(out[0].state, KDMP_PTE_VALID);
        }
        total += count;
    } while (count > 0);
    CHECK_EQ(total, 4);
    CHECK(cursor.done);
}

static void
test_modes(const struct kdmp_source *source)
{
    struct kdmp_space space = space_over(source, KDMP_PAGING_LA57);
    struct kdmp_translation walk;

    /* With five levels the same tables are one level deeper. */
    CHECK_EQ(kdmp_translate(&space, UINT64_C(1) << 48 | 0x1001, &walk),
             KDMP_OK);
    CHECK_EQ(walk.depth, 5);
    CHECK_EQ(walk.paddr, 0xA001);
    CHECK_EQ(walk.entries[0].paddr, 0x1000 + 8 * 1);
    CHECK_EQ(kdmp_translate(&space, TOP(1) + 0x1234, &walk),
             KDMP_E_BAD_ENTRY); /* a 512 GiB page there is none */
    CHECK_EQ(walk.depth, 2);
    CHECK_EQ(kdmp_translate(&space, UINT64_C(1) << 57, &walk),
             KDMP_E_NON_CANONICAL);
    space.paging = KDMP_PAGING_PHYSICAL;
    CHECK_EQ(kdmp_translate(&space, UINT64_MAX, &walk), KDMP_OK);
    CHECK_EQ(walk.paddr, UINT64_MAX);
    CHECK_EQ(walk.depth, 0);
    space.paging = KDMP_PAGING_COUNT;
    CHECK_EQ(kdmp_translate(&space, 0, &walk), KDMP_E_UNSUPPORTED);
    CHECK_EQ(kdmp_paging_levels(KDMP_PAGING_X64), 4);
    CHECK_EQ(kdmp_paging_levels(KDMP_PAGING_LA57), 5);
    CHECK_EQ(kdmp_paging_levels(KDMP_PAGING_PHYSICAL), 0);
    CHECK_EQ(kdmp_last_address(KDMP_PAGING_X64), UINT64_MAX);
}

int
main(void)
{
    uint8_t scratch[8];
    struct kdmp_source source = {
        .locate = locate, .next_run = next_run, .context = scratch};
    struct kdmp_space space = space_over(&source, KDMP_PAGING_X64);
    size_t i;

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        check_case(&space, &cases[i]);
    test_rights(&space);
    test_invalid_mask(space);
    test_prototypes(space);
    test_page_file(space);
    test_mappings(&space);
    test_modes(&source);
    return checks_passed("mmu");
}
