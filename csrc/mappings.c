/*
 * mappings.c: enumerate what an address space maps, as merged ranges.
 *
 * The enumeration holds no pointers between calls: it walks down to where it
 * was, so that a caller can stop, wait or give up at any time.
 *
 * SPDX-License-Identifier: MIT
 */
#include "mmu.h"
#include "mmu_arm64.h"
#include "mmu_x64.h"
#include "mmu_x86.h"

/* What makes two neighbouring pages one range. */
#define MAPPING_RIGHTS (KDMP_T_WRITABLE | KDMP_T_EXECUTABLE | KDMP_T_USER)

struct enumeration {
    const struct mmu *mmu;
    struct kdmp_space plain; /* does not follow prototype PTEs */
    uint64_t position;       /* everything below has been seen */
    uint64_t last;
    struct kdmp_map_cursor *cursor;
    struct kdmp_mapping *out;
    size_t room;
    size_t count;
    enum kdmp_status status;
    struct kdmp_tables tables;
};

/* Add a page or a missing table to the pending range, or finish that one.  1
 * if the output is full. */
static int
emit(struct enumeration *e, uint64_t start, uint64_t size, uint64_t page_size,
     uint64_t paddr, uint32_t flags, enum kdmp_pte_state state)
{
    struct kdmp_map_cursor *cursor = e->cursor;
    struct kdmp_mapping *pending = &cursor->pending;

    e->position = start + size;
    start = mmu_canonical(e->mmu, start);
    if (cursor->filter
        && ((state != KDMP_PTE_VALID && paddr == 0)
            || cursor->only_pfn < paddr >> PAGE_SHIFT
            || cursor->only_pfn >= (paddr + size) >> PAGE_SHIFT))
        return 0;
    flags &= MAPPING_RIGHTS;
    if (cursor->has_pending) {
        if (!cursor->filter && pending->start + pending->size == start
            && pending->page_size == page_size && pending->flags == flags
            && pending->state == state) {
            pending->size += size;
            return 0;
        }
        e->out[e->count++] = *pending;
    }
    memset(pending, 0, sizeof(*pending));
    pending->start = start;
    pending->size = size;
    pending->page_size = page_size;
    pending->paddr = paddr;
    pending->flags = flags;
    pending->state = (uint8_t)state;
    cursor->has_pending = 1;
    return e->count == e->room;
}

static int visit_table(struct enumeration *e, uint64_t table, int level,
                       uint64_t base, uint32_t rights);

/* The rights of a shared page whose entry leaves them to the prototype PTE. */
static uint32_t
prototype_grants(const struct enumeration *e, uint64_t value, uint64_t vaddr)
{
    struct kdmp_space follow = e->plain;
    struct kdmp_translation entry;
    uint64_t base;
    uint32_t granted = 0;

    memset(&entry, 0, sizeof(entry));
    entry.vaddr = vaddr;
    follow.keep_prototypes = 0;
    (void)kdmp_walk_invalid(e->mmu, &follow, value, 1, &base, &granted, &entry);
    return granted;
}

/* An entry that is not valid.  1 to stop. */
static int
visit_invalid(struct enumeration *e, uint64_t value, int level, uint64_t start,
              uint32_t rights)
{
    uint64_t span = UINT64_C(1) << e->mmu->shift(level), base = 0;
    struct kdmp_translation entry;
    uint32_t granted = 0;
    enum kdmp_status status;

    memset(&entry, 0, sizeof(entry));
    entry.vaddr = mmu_canonical(e->mmu, start);
    status = kdmp_walk_invalid(e->mmu, &e->plain, value, level, &base, &granted,
                               &entry);
    if (status == KDMP_OK && level > 1)
        return visit_table(e, base, level - 1, start, rights);
    if (entry.state == KDMP_PTE_ZERO) /* nothing but bits of the L1TF mask */
        return 0;
    if (status == KDMP_OK) {
        entry.state = KDMP_PTE_TRANSITION;
        entry.paddr = base;
    }
    if (entry.state != KDMP_PTE_PROTOTYPE)
        granted = mmu_soft_rights(entry.protection);
    else if (entry.protection == 0)
        granted = prototype_grants(e, value, entry.vaddr);
    rights &= granted | KDMP_T_USER;
    return emit(e, start, span, span, entry.paddr & ~(uint64_t)(PAGE_SIZE - 1),
                rights, (enum kdmp_pte_state)entry.state);
}

/* A table that is not there: what it would map, as far as that is addresses.
 * A missing root is two ranges, one for each half.  1 to stop. */
static int
emit_missing(struct enumeration *e, uint64_t base, uint64_t size, uint64_t span)
{
    uint64_t half = mmu_linear(e->mmu, e->mmu->last_address) / 2 + 1;

    if (e->mmu->last_address == UINT32_MAX || size <= half)
        return emit(e, base, size, span, 0, 0, KDMP_PTE_TABLE);
    if (e->position < half) /* the first of all: there is room for it */
        (void)emit(e, 0, half, span, 0, 0, KDMP_PTE_TABLE);
    if (e->last < half) {
        e->cursor->done = 1;
        return 1;
    }
    return emit(e, half, half, span, 0, 0, KDMP_PTE_TABLE);
}

/* Whether a valid 4 KB page just makes the pending range longer. */
KDMP_INLINE int
joins_pending(const struct kdmp_map_cursor *cursor, uint64_t vaddr,
              uint32_t flags)
{
    const struct kdmp_mapping *pending = &cursor->pending;

    return pending->start + pending->size == vaddr && pending->flags == flags
           && pending->page_size == PAGE_SIZE
           && pending->state == KDMP_PTE_VALID && cursor->has_pending
           && !cursor->filter;
}

/* Go through the entries of a page table from 'i' to before 'end'; 'base' is
 * the first address it maps.  Inlined once per kind of entry: this is where
 * the time goes.  1 to stop. */
KDMP_INLINE int
scan_pages(struct enumeration *e, const struct mmu *mmu, const uint8_t *bytes,
           uint64_t base, uint64_t i, uint64_t end, uint32_t rights)
{
    struct kdmp_map_cursor *cursor = e->cursor;
    uint64_t first = mmu_canonical(e->mmu, base); /* a table is in one half */

    for (; i < end; i++) {
        uint64_t value = load_le(bytes + i * mmu->entry_size, mmu->entry_size);
        uint64_t start = base + i * PAGE_SIZE, vaddr = first + i * PAGE_SIZE;
        struct mmu_step step;
        int stop;

        if (value == 0)
            continue;
        mmu->decode(value, 1, vaddr, &step);
        if (step.kind == MMU_LEAF) {
            uint32_t flags = rights & step.allow & MAPPING_RIGHTS;

            if (joins_pending(cursor, vaddr, flags)) {
                cursor->pending.size += PAGE_SIZE;
                e->position = start + PAGE_SIZE;
                continue;
            }
            stop = emit(e, start, PAGE_SIZE, PAGE_SIZE, step.base, flags,
                        KDMP_PTE_VALID);
        } else if (step.kind == MMU_INVALID) {
            stop = visit_invalid(e, value, 1, start, rights);
        } else {
            stop = emit(e, start, PAGE_SIZE, PAGE_SIZE, 0, 0, KDMP_PTE_BAD);
        }
        if (stop)
            return 1;
    }
    return 0;
}

/* The lowest level of visit_table. */
static int
visit_pages(struct enumeration *e, const uint8_t *bytes, uint64_t base,
            uint64_t i, uint32_t rights)
{
    uint64_t entries = UINT64_C(1) << e->mmu->index_bits(1), end = entries;
    int stop;

    if ((e->last - base) / PAGE_SIZE < entries) /* base <= e->last */
        end = (e->last - base) / PAGE_SIZE + 1;
    switch (e->plain.paging) {
    case KDMP_PAGING_X86:
        stop = scan_pages(e, &mmu_x86, bytes, base, i, end, rights);
        break;
    case KDMP_PAGING_ARM64:
        stop = scan_pages(e, &mmu_arm64, bytes, base, i, end, rights);
        break;
    default: /* LA57's and PAE's page tables are those of x64 */
        stop = scan_pages(e, &mmu_x64, bytes, base, i, end, rights);
    }
    if (stop)
        return 1;
    if (end < entries) {
        e->cursor->done = 1;
        return 1;
    }
    e->position = base + entries * PAGE_SIZE;
    return 0;
}

/* Go through a table from e->position on.  'base' is the first address it
 * maps.  1 to stop: output full, limit, or past the last address. */
static int
visit_table(struct enumeration *e, uint64_t table, int level, uint64_t base,
            uint32_t rights)
{
    const struct mmu *mmu = e->mmu;
    unsigned shift = mmu->shift(level), entry_size = mmu->entry_size;
    uint64_t entries = UINT64_C(1) << mmu->index_bits(level);
    uint64_t span = UINT64_C(1) << shift, i = 0;
    const uint8_t *bytes;

    if (e->position > base)
        i = (e->position - base) >> shift;
    e->status =
        kdmp_load_table(&e->tables, table, entries * entry_size, level, &bytes);
    if (e->status != KDMP_OK)
        return 1;
    if (bytes == NULL)
        return emit_missing(e, base, entries * span, span);
    if (e->position <= base) { /* else it was counted when it was begun */
        if (e->cursor->tables_left == 0) {
            e->status = KDMP_E_LIMIT;
            return 1;
        }
        e->cursor->tables_left--;
    }
    if (level == 1)
        return visit_pages(e, bytes, base, i, rights);
    for (; i < entries; i++) {
        uint64_t start = base + i * span;
        uint64_t value = load_le(bytes + i * entry_size, entry_size);
        struct mmu_step step;
        int stop;

        if (start > e->last) {
            e->cursor->done = 1;
            return 1;
        }
        if (value == 0)
            continue;
        mmu->decode(value, level, mmu_canonical(mmu, start), &step);
        if (step.kind == MMU_TABLE)
            stop = visit_table(e, step.base, level - 1, start,
                               rights & step.allow);
        else if (step.kind == MMU_INVALID)
            stop = visit_invalid(e, value, level, start, rights);
        else if (step.kind == MMU_BAD)
            stop = emit(e, start, span, span, 0, 0, KDMP_PTE_BAD);
        else
            stop = emit(e, start, span, span, step.base, rights & step.allow,
                        KDMP_PTE_VALID);
        if (stop)
            return 1;
    }
    e->position = base + entries * span;
    return 0;
}

enum kdmp_status
kdmp_next_mappings(const struct kdmp_space *space,
                   struct kdmp_map_cursor *cursor, struct kdmp_mapping *out,
                   size_t room, size_t *count_out)
{
    const struct mmu *mmu = kdmp_mmu_of(space->paging);
    struct enumeration e = {.mmu = mmu,
                            .plain = *space,
                            .cursor = cursor,
                            .tables = {.mmu = mmu, .source = space->source},
                            .out = out,
                            .room = room};
    uint64_t last;

    *count_out = 0;
    if (mmu == NULL)
        return KDMP_E_UNSUPPORTED;
    if (room == 0)
        return KDMP_E_ARGUMENT;
    e.plain.keep_prototypes = 1;
    /* Bounds in the hole between the halves move out of it. */
    last = min_u64(cursor->last, mmu->last_address);
    e.position = mmu_linear(mmu, cursor->next + mmu->hole(cursor->next));
    e.last = mmu->hole(last) == 0 ? mmu_linear(mmu, last)
                                  : mmu_linear(mmu, mmu->last_address) / 2;
    if (e.position > e.last || cursor->next > mmu->last_address)
        cursor->done = 1;
    if (!cursor->done
        && !visit_table(&e, space->root & mmu->root_mask, mmu->levels, 0,
                        MAPPING_RIGHTS))
        cursor->done = 1;
    /* What is pending when nothing can join it any more. */
    if ((cursor->done || e.status == KDMP_E_LIMIT) && cursor->has_pending
        && e.count < room) {
        out[e.count++] = cursor->pending;
        cursor->has_pending = 0;
    }
    cursor->next = mmu_canonical(mmu, e.position);
    if (e.position >> (mmu->shift(mmu->levels) + mmu->index_bits(mmu->levels)))
        cursor->done = 1;
    *count_out = e.count;
    kdmp_free(e.tables.copies);
    return e.status;
}
