/*
 * fuzz_translate.c: arbitrary page tables behind a page source that is not a
 * dump.
 *
 * The input is a small program.  Its first 20 bytes are
 *
 *   paging, flags (1: the mask is known, 2: read by file, 4: short pieces),
 *   absent frame, cut frame, root (u64), invalid PTE mask (u64)
 *
 * and after them come commands of 12 bytes: a u32 and a u64.
 *
 *   u32 < 2^31: store the u64 at the 8-byte slot (u32 mod SLOTS); a value
 *     whose top byte is 0x5A is shortened to a frame of this memory plus its
 *     low 12 bits, so that tables are found
 *   otherwise: translate and read at the u64; the low 13 bits of the u32 are
 *     the size
 *
 * SPDX-License-Identifier: MIT
 */
#include "fuzz.h"

enum {
    PAGE = 0x1000,
    FRAMES = 8,
    SIZE = FRAMES * PAGE,
    SLOTS = SIZE / 8,
    HEAD = 20,
    COMMAND = 12,
    MAX_COMMANDS = 400
};

struct memory {
    uint8_t *bytes;
    unsigned flags;
    unsigned absent;
    unsigned cut;
};

static uint64_t
load(const uint8_t *p, unsigned size)
{
    uint64_t value = 0;

    while (size-- > 0)
        value = value << 8 | p[size];
    return value;
}

static enum kdmp_status
locate(const struct kdmp_source *self, uint64_t paddr, uint64_t want,
       struct kdmp_extent *out)
{
    const struct memory *memory = self->context;
    uint64_t pfn = paddr >> 12, rest = PAGE - (paddr & (PAGE - 1));

    REQUIRE(want > 0);
    out->length = want < rest ? want : rest;
    if (pfn >= FRAMES || pfn == memory->absent)
        return KDMP_E_NOT_IN_DUMP;
    if (pfn == memory->cut)
        return KDMP_E_TRUNCATED;
    if (memory->flags & 4 && out->length > 16)
        out->length = 16 - (paddr & 7);
    out->file_offset = paddr;
    out->ptr = memory->flags & 2 ? NULL : memory->bytes + paddr;
    return KDMP_OK;
}

static enum kdmp_status
read_file(const struct kdmp_source *self, uint64_t file_offset, void *buffer,
          size_t size)
{
    const struct memory *memory = self->context;

    REQUIRE(file_offset <= SIZE && size <= SIZE - file_offset);
    memcpy(buffer, memory->bytes + file_offset, size);
    return KDMP_OK;
}

static int
next_run(const struct kdmp_source *self, uint64_t pfn, struct kdmp_run *out)
{
    const struct memory *memory = self->context;

    while (pfn < FRAMES && (pfn == memory->absent || pfn == memory->cut))
        pfn++;
    out->pfn = pfn;
    out->count = 1;
    out->file_offset = pfn << 12;
    return pfn < FRAMES;
}

static void
check_walk(const struct memory *memory, const struct kdmp_translation *walk)
{
    unsigned i;

    REQUIRE(walk->depth <= 5 && walk->level <= 5);
    REQUIRE(walk->state < KDMP_PTE_STATE_COUNT);
    REQUIRE((walk->page_size & (walk->page_size - 1)) == 0);
    for (i = 0; i < walk->depth; i++) {
        uint64_t paddr = walk->entries[i].paddr;
        int narrow = walk->paging == KDMP_PAGING_X86;

        REQUIRE(paddr < SIZE && paddr >> 12 != memory->absent);
        REQUIRE(walk->entries[i].value
                == load(memory->bytes + paddr, narrow ? 4 : 8));
    }
    if (walk->status != KDMP_OK || walk->depth == 0)
        return;
    REQUIRE(walk->state == KDMP_PTE_VALID
            || walk->state == KDMP_PTE_TRANSITION);
    REQUIRE(((walk->paddr ^ walk->vaddr) & (walk->page_size - 1)) == 0);
    REQUIRE(walk->paddr >> 52 == 0);
}

/* A read is its bytes, one by one. */
static void
check_read(const struct kdmp_space *space, uint64_t address, uint64_t size)
{
    uint8_t *buffer = malloc(size ? size : 1);
    struct kdmp_fault fault;
    enum kdmp_status status;
    uint64_t done, one, i, step;
    uint8_t byte;

    REQUIRE(buffer != NULL);
    status = kdmp_read(space, address, buffer, size, &done, &fault);
    REQUIRE(done <= size && (status == KDMP_OK) == (done == size));
    step = done / 8 + 1;
    for (i = 0; i < done; i += step) {
        REQUIRE(kdmp_read(space, address + i, &byte, 1, &one, NULL) == KDMP_OK);
        REQUIRE(byte == buffer[i]);
    }
    if (status == KDMP_E_ADDRESS_END) {
        REQUIRE(address + done == 0
                || address + done == kdmp_last_address(space->paging) + 1);
    } else if (status != KDMP_OK) {
        REQUIRE(fault.status == status);
        REQUIRE(fault.address == address + done && fault.missing > 0);
        REQUIRE(kdmp_read(space, fault.address, &byte, 1, &one, NULL)
                == status);
        /* The last missing byte fails as well. */
        if (fault.missing - 1 <= UINT64_MAX - fault.address)
            REQUIRE(kdmp_read(space, fault.address + fault.missing - 1, &byte,
                              1, &one, NULL)
                    != KDMP_OK);
    }
    free(buffer);
}

static void
check_string(const struct kdmp_space *space, uint64_t address, unsigned unit,
             uint64_t limit)
{
    uint8_t *buffer = malloc(limit ? limit : 1);
    struct kdmp_fault fault;
    enum kdmp_status status;
    uint64_t done, i;

    REQUIRE(buffer != NULL);
    status =
        kdmp_read_string(space, address, unit, buffer, limit, &done, &fault);
    REQUIRE(done <= limit);
    if (status == KDMP_OK)
        REQUIRE(done % unit == 0);
    for (i = 0; i + unit <= done; i += unit)
        REQUIRE(load(buffer + i, unit) != 0);
    free(buffer);
}

static void
run_command(const struct kdmp_space *space, struct memory *memory,
            uint32_t what, uint64_t value)
{
    struct kdmp_translation walk;
    unsigned i;

    if (what >> 31) {
        REQUIRE(kdmp_translate(space, value, &walk)
                == (enum kdmp_status)walk.status);
        check_walk(memory, &walk);
        check_read(space, value, what & 0x1fff);
        check_string(space, value, 1u << what % 3, what & 0xfff);
        return;
    }
    if (value >> 56 == 0x5a)
        value = (value >> 12 & (FRAMES - 1)) << 12 | (value & 0xfff);
    for (i = 0; i < 8; i++)
        memory->bytes[what % SLOTS * 8 + i] = (uint8_t)(value >> 8 * i);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct memory memory;
    struct kdmp_source source = {.locate = locate,
                                 .read_file = read_file,
                                 .next_run = next_run,
                                 .context = &memory};
    struct kdmp_space space = {0};
    size_t at, commands = 0;

    if (size < HEAD)
        return 0;
    memory.bytes = calloc(1, SIZE);
    REQUIRE(memory.bytes != NULL);
    memory.flags = data[1];
    memory.absent = data[2];
    memory.cut = data[3];
    space.source = &source;
    space.paging = (enum kdmp_paging)(data[0] % KDMP_PAGING_TRIAGE);
    space.root = load(data + 4, 8);
    space.mask_known = data[1] & 1;
    space.invalid_pte_mask = space.mask_known ? load(data + 12, 8) : 0;
    for (at = HEAD; size - at >= COMMAND && commands < MAX_COMMANDS;
         at += COMMAND, commands++)
        run_command(&space, &memory, (uint32_t)load(data + at, 4),
                    load(data + at + 4, 8));
    free(memory.bytes);
    return 0;
}
