/*
 * fuzz_memory.h: a page source of a few frames that a program fills.
 *
 * The first MEMORY_HEAD bytes of an input are
 *
 *   paging, flags (1: the mask is known, 2: read by file, 4: short pieces),
 *   absent frame, cut frame, root (u64), invalid PTE mask (u64)
 *
 * and after what else a target has in its head come commands of
 * MEMORY_COMMAND bytes: a u32 and a u64.
 *
 *   u32 < 2^31: store the u64 at the 8-byte slot (u32 mod SLOTS); a value
 *     whose top byte is 0x5A is shortened to a frame of this memory plus its
 *     low 12 bits, so that tables are found
 *   otherwise: what the target does
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef KDMP_FUZZ_MEMORY_H
#define KDMP_FUZZ_MEMORY_H

#include "fuzz.h"

enum {
    PAGE = 0x1000,
    FRAMES = 8,
    MEMORY_SIZE = FRAMES * PAGE,
    SLOTS = MEMORY_SIZE / 8,
    MEMORY_HEAD = 20,
    MEMORY_COMMAND = 12,
    MAX_COMMANDS = 400
};

struct memory {
    uint8_t *bytes;
    unsigned flags;
    unsigned absent;
    unsigned cut;
    struct kdmp_source source;
};

static enum kdmp_status
memory_locate(const struct kdmp_source *self, uint64_t paddr, uint64_t want,
              struct kdmp_extent *out)
{
    const struct memory *memory = self->context;
    uint64_t pfn = paddr >> 12, rest = PAGE - (paddr & (PAGE - 1));

    REQUIRE(want > 0);
    out->length = want;
    if (pfn >= FRAMES) /* nothing there up to the end */
        return KDMP_E_NOT_IN_DUMP;
    out->length = want < rest ? want : rest;
    if (pfn == memory->absent)
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
memory_read_file(const struct kdmp_source *self, uint64_t file_offset,
                 void *buffer, size_t size)
{
    const struct memory *memory = self->context;

    REQUIRE(file_offset <= MEMORY_SIZE && size <= MEMORY_SIZE - file_offset);
    memcpy(buffer, memory->bytes + file_offset, size);
    return KDMP_OK;
}

static int
memory_next_run(const struct kdmp_source *self, uint64_t pfn,
                struct kdmp_run *out)
{
    const struct memory *memory = self->context;

    while (pfn < FRAMES && (pfn == memory->absent || pfn == memory->cut))
        pfn++;
    out->pfn = pfn;
    out->count = 1;
    out->file_offset = pfn << 12;
    return pfn < FRAMES;
}

/* Whether a frame can be read, and if not, why. */
static inline enum kdmp_status
memory_status(const struct memory *memory, uint64_t pfn)
{
    if (pfn >= FRAMES || pfn == memory->absent)
        return KDMP_E_NOT_IN_DUMP;
    return pfn == memory->cut ? KDMP_E_TRUNCATED : KDMP_OK;
}

/* Begin with the head of an input, which must be whole. */
static inline void
memory_init(struct memory *memory, struct kdmp_space *space,
            const uint8_t *data)
{
    memory->bytes = calloc(1, MEMORY_SIZE);
    REQUIRE(memory->bytes != NULL);
    memory->flags = data[1];
    memory->absent = data[2];
    memory->cut = data[3];
    memset(&memory->source, 0, sizeof(memory->source));
    memory->source.locate = memory_locate;
    memory->source.read_file = memory_read_file;
    memory->source.next_run = memory_next_run;
    memory->source.context = memory;
    memset(space, 0, sizeof(*space));
    space->source = &memory->source;
    space->paging = (enum kdmp_paging)(data[0] % KDMP_PAGING_TRIAGE);
    space->root = fuzz_load(data + 4, 8);
    space->mask_known = data[1] & 1;
    space->invalid_pte_mask = space->mask_known ? fuzz_load(data + 12, 8) : 0;
}

static inline void
memory_deinit(struct memory *memory)
{
    free(memory->bytes);
}

/* Put one value into the memory. */
static inline void
memory_store(struct memory *memory, uint32_t where, uint64_t value)
{
    if (value >> 56 == 0x5a)
        value = (value >> 12 & (FRAMES - 1)) << 12 | (value & 0xfff);
    fuzz_store(memory->bytes + where % SLOTS * 8, value, 8);
}

/* Carry out the stores among the commands; the others go to 'uses', at most
 * 'room' of them.  Returns how many those are. */
struct use {
    uint32_t what; /* without the top bit */
    uint64_t value;
};

static inline size_t
memory_program(struct memory *memory, const uint8_t *data, size_t size,
               struct use *uses, size_t room)
{
    size_t at, commands = 0, count = 0;

    for (at = 0; size - at >= MEMORY_COMMAND && commands < MAX_COMMANDS;
         at += MEMORY_COMMAND, commands++) {
        uint32_t what = (uint32_t)fuzz_load(data + at, 4);
        uint64_t value = fuzz_load(data + at + 4, 8);

        if (!(what >> 31)) {
            memory_store(memory, what, value);
        } else if (count < room) {
            uses[count].what = what & 0x7fffffff;
            uses[count++].value = value;
        }
    }
    return count;
}

/* A read and a second opinion: the same in everything. */
static inline void
require_same_read(const struct kdmp_space *one, const struct kdmp_space *two,
                  uint64_t address, uint64_t size)
{
    uint8_t *first = calloc(1, size ? size : 1);
    uint8_t *second = calloc(1, size ? size : 1);
    struct kdmp_fault fault_one = {0}, fault_two = {0};
    uint64_t done_one, done_two;
    enum kdmp_status status;

    REQUIRE(first != NULL && second != NULL);
    status = kdmp_read(one, address, first, size, &done_one, &fault_one);
    REQUIRE(kdmp_read(two, address, second, size, &done_two, &fault_two)
            == status);
    REQUIRE(done_one == done_two && memcmp(first, second, size) == 0);
    if (status != KDMP_OK)
        REQUIRE(fault_one.status == fault_two.status
                && fault_one.address == fault_two.address
                && fault_one.missing == fault_two.missing
                && fault_one.paddr == fault_two.paddr);
    free(first);
    free(second);
}

#endif /* KDMP_FUZZ_MEMORY_H */
