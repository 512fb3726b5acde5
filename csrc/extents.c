/*
 * extents.c: go through what an address space can read, as stretches of bytes
 * that are in one piece where they are kept.
 *
 * Like the enumeration of mappings it holds nothing between calls: it walks
 * down to where it was.  What a read would read and nothing else is given:
 * entries that are not plain are left to the walk of translate.c.
 *
 * SPDX-License-Identifier: MIT
 */
#include "mmu.h"
#include "mmu_arm64.h"
#include "mmu_x64.h"
#include "mmu_x86.h"

/* Work of one call, in page-table entries, after which it returns. */
#define BUDGET (UINT64_C(1) << 21)
#define LOCATE_COST 16
#define INVALID_COST 32
/* Asked of a page source at once: an overlay looks at each page. */
#define LOCATE_MOST (UINT64_C(1) << 20)

struct gathering {
    const struct mmu *mmu; /* NULL: physical */
    const struct kdmp_space *space;
    const struct kdmp_source *source;
    const struct kdmp_dump *plain; /* the source is this dump itself */
    uint64_t position;             /* everything below has been seen */
    uint64_t last;
    uint64_t begun; /* position at the start of the call */
    uint64_t budget;
    struct kdmp_extent_cursor *cursor;
    struct kdmp_stretch *out;
    size_t room;
    size_t count;
    enum kdmp_status status;
    struct kdmp_tables tables;
};

static void
spend(struct gathering *g, uint64_t cost)
{
    g->budget -= min_u64(g->budget, cost);
}

/* Whether 'b' goes on where 'a', 'length' bytes long, ends, or both are
 * nowhere. */
KDMP_INLINE int
follows(uint64_t a, uint64_t length, uint64_t b)
{
    return a == UINT64_MAX ? b == UINT64_MAX : a + length == b;
}

KDMP_INLINE int
joins(const struct kdmp_stretch *a, const struct kdmp_stretch *b)
{
    uint64_t length = a->length;

    return a->address + length == b->address
           && follows(a->paddr, length, b->paddr)
           && follows(a->file_offset, length, b->file_offset)
           /* An overlay's frames are apart, wherever they happen to be. */
           && (a->file_offset != UINT64_MAX || a->paddr == UINT64_MAX)
           && (a->ptr == NULL ? b->ptr == NULL : a->ptr + length == b->ptr);
}

/* Add a stretch to the pending one, or finish that.  1 if the output is
 * full. */
KDMP_INLINE int
emit(struct gathering *g, const struct kdmp_stretch *next)
{
    struct kdmp_extent_cursor *cursor = g->cursor;

    if (cursor->has_pending && joins(&cursor->pending, next)
        && cursor->pending.length < cursor->most) {
        cursor->pending.length += next->length;
        return 0;
    }
    if (cursor->has_pending)
        g->out[g->count++] = cursor->pending;
    cursor->pending = *next;
    cursor->has_pending = 1;
    return g->count == g->room;
}

enum step {
    STEP_ON,
    STEP_STOP, /* the output is full */
    STEP_HOLE  /* the bytes gone over are missing */
};

/* Bytes from g->position on, at most 'want', that are at 'paddr': give those
 * that follow each other, or go over those that are missing. */
static enum step
step_frames(struct gathering *g, uint64_t paddr, uint64_t want)
{
    struct kdmp_stretch stretch;
    struct kdmp_extent extent;
    enum kdmp_status status;

    spend(g, LOCATE_COST);
    want = min_u64(want, g->plain == NULL ? LOCATE_MOST : g->cursor->most);
    status = g->source->locate(g->source, paddr, want, &extent);
    stretch.address =
        g->mmu != NULL ? mmu_canonical(g->mmu, g->position) : g->position;
    g->position += extent.length;
    if (status != KDMP_OK)
        return STEP_HOLE;
    stretch.length = extent.length;
    stretch.paddr = paddr;
    /* An overlay's own pages are in no file. */
    stretch.file_offset =
        extent.file_offset >> 63 ? UINT64_MAX : extent.file_offset;
    stretch.ptr = extent.ptr;
    return emit(g, &stretch) ? STEP_STOP : STEP_ON;
}

/* ---- virtual ---- */

/* The part of a page from 'start' on that is asked for: 0 if there is none. */
static uint64_t
rest_of_page(struct gathering *g, uint64_t start, uint64_t size)
{
    uint64_t end = start + min_u64(size - 1, g->last - start); /* inclusive */

    if (g->position < start)
        g->position = start;
    return g->position > end ? 0 : end - g->position + 1;
}

/* A page that is in frames.  1 to stop. */
static int
visit_page(struct gathering *g, uint64_t start, uint64_t size, uint64_t base)
{
    uint64_t want;

    while ((want = rest_of_page(g, start, size)) > 0)
        if (step_frames(g, base + (g->position - start), want) == STEP_STOP)
            return 1;
    return 0;
}

/* Whether a read would make up the page, or take it from a page file. */
static int
is_supplied(const struct gathering *g, const struct kdmp_translation *walk)
{
    if (walk->state == KDMP_PTE_PAGEFILE && g->space->pagefile_count > 0)
        return kdmp_pagefile_has(g->space, walk);
    return walk->state == KDMP_PTE_DEMAND_ZERO && g->space->zero_fill;
}

/* A page that is in no frame and still can be read.  1 to stop. */
static int
visit_supplied(struct gathering *g, uint64_t start)
{
    struct kdmp_stretch stretch = {.paddr = UINT64_MAX,
                                   .file_offset = UINT64_MAX};

    stretch.length = rest_of_page(g, start, PAGE_SIZE);
    if (stretch.length == 0)
        return 0;
    stretch.address = mmu_canonical(g->mmu, g->position);
    g->position += stretch.length;
    return emit(g, &stretch);
}

static int visit_table(struct gathering *g, uint64_t table, int level,
                       uint64_t base);

/* An entry that is not valid.  1 to stop. */
static int
visit_invalid(struct gathering *g, uint64_t value, int level, uint64_t start)
{
    struct kdmp_translation walk;
    enum kdmp_status status;
    uint32_t granted;
    uint64_t base = 0;

    spend(g, INVALID_COST);
    memset(&walk, 0, sizeof(walk));
    walk.vaddr = mmu_canonical(g->mmu, start);
    status = kdmp_walk_invalid(g->mmu, g->space, value, level, &base, &granted,
                               &walk);
    if (status == KDMP_OK)
        return level > 1 ? visit_table(g, base, level - 1, start)
                         : visit_page(g, start, PAGE_SIZE, base);
    if (walk.state == KDMP_PTE_VAD)
        g->cursor->met_vad = 1;
    if (status != KDMP_E_NOT_PRESENT || level > 1 || !is_supplied(g, &walk))
        return 0;
    return visit_supplied(g, start);
}

/* A whole page of 4 KiB that is wanted in full.  1 to stop. */
KDMP_INLINE int
visit_small(struct gathering *g, const struct kdmp_dump *dump, uint64_t start,
            uint64_t vaddr, uint64_t base)
{
    struct kdmp_stretch stretch;
    uint64_t offset = 0;

    g->position = start + PAGE_SIZE;
    if (index_find(&dump->index, base >> PAGE_SHIFT, &offset) != KDMP_OK)
        return 0;
    stretch.address = vaddr;
    stretch.length = PAGE_SIZE;
    stretch.paddr = base;
    stretch.file_offset = offset;
    stretch.ptr = dump->file.ptr != NULL ? dump->file.ptr + offset : NULL;
    return emit(g, &stretch);
}

/* Go through the entries of a page table from 'i' to before 'end'; 'base' is
 * the first address it maps.  Inlined once per kind of entry: this is where
 * the time goes.  1 to stop. */
KDMP_INLINE int
scan_pages(struct gathering *g, const struct mmu *mmu, const uint8_t *bytes,
           uint64_t base, uint64_t i, uint64_t end)
{
    uint64_t first = mmu_canonical(g->mmu, base); /* a table is in one half */
    const struct kdmp_dump *plain = g->plain;

    for (; i < end; i++) {
        uint64_t value = load_le(bytes + i * mmu->entry_size, mmu->entry_size);
        uint64_t start = base + i * PAGE_SIZE;
        struct mmu_step step;
        int stop = 0;

        if (value == 0)
            continue;
        mmu->decode(value, 1, first + i * PAGE_SIZE, &step);
        if (step.kind == MMU_LEAF) {
            if (plain != NULL && g->position <= start
                && g->last - start >= PAGE_SIZE - 1)
                stop = visit_small(g, plain, start, first + i * PAGE_SIZE,
                                   step.base);
            else
                stop = visit_page(g, start, PAGE_SIZE, step.base);
        } else if (step.kind == MMU_INVALID) {
            stop = visit_invalid(g, value, 1, start);
        }
        if (stop)
            return 1;
    }
    return 0;
}

/* The lowest level of visit_table. */
static int
visit_pages(struct gathering *g, const uint8_t *bytes, uint64_t base,
            uint64_t i)
{
    uint64_t entries = UINT64_C(1) << g->mmu->index_bits(1), end = entries;
    int stop;

    if ((g->last - base) / PAGE_SIZE < entries) /* base <= g->last */
        end = (g->last - base) / PAGE_SIZE + 1;
    switch (g->space->paging) {
    case KDMP_PAGING_X86:
        stop = scan_pages(g, &mmu_x86, bytes, base, i, end);
        break;
    case KDMP_PAGING_ARM64:
        stop = scan_pages(g, &mmu_arm64, bytes, base, i, end);
        break;
    default: /* LA57's and PAE's page tables are those of x64 */
        stop = scan_pages(g, &mmu_x64, bytes, base, i, end);
    }
    if (stop)
        return 1;
    if (end < entries) {
        g->cursor->done = 1;
        return 1;
    }
    g->position = base + entries * PAGE_SIZE;
    return 0;
}

/* A table that is about to be visited counts, unless it was begun in an
 * earlier call.  1 to stop before it. */
static int
count_table(struct gathering *g, uint64_t base, uint64_t entries)
{
    if (g->position > base)
        return 0;
    if (g->budget == 0 && g->position > g->begun)
        return 1;
    spend(g, entries);
    if (g->cursor->tables_left == 0) {
        g->status = KDMP_E_LIMIT;
        return 1;
    }
    g->cursor->tables_left--;
    return 0;
}

/* Go through a table from g->position on.  'base' is the first address it
 * maps.  1 to stop: output full, a limit, or past the last address. */
static int
visit_table(struct gathering *g, uint64_t table, int level, uint64_t base)
{
    const struct mmu *mmu = g->mmu;
    unsigned shift = mmu->shift(level), entry_size = mmu->entry_size;
    uint64_t entries = UINT64_C(1) << mmu->index_bits(level);
    uint64_t span = UINT64_C(1) << shift, i = 0;
    const uint8_t *bytes;

    if (g->position > base)
        i = (g->position - base) >> shift;
    g->status =
        kdmp_load_table(&g->tables, table, entries * entry_size, level, &bytes);
    if (g->status != KDMP_OK)
        return 1;
    if (bytes == NULL) {
        spend(g, LOCATE_COST);
        g->position = base + entries * span;
        return 0;
    }
    if (count_table(g, base, entries))
        return 1;
    if (level == 1)
        return visit_pages(g, bytes, base, i);
    for (; i < entries; i++) {
        uint64_t start = base + i * span;
        uint64_t value = load_le(bytes + i * entry_size, entry_size);
        struct mmu_step step;
        int stop = 0;

        if (start > g->last) {
            g->cursor->done = 1;
            return 1;
        }
        if (value == 0)
            continue;
        mmu->decode(value, level, mmu_canonical(mmu, start), &step);
        if (step.kind == MMU_TABLE)
            stop = visit_table(g, step.base, level - 1, start);
        else if (step.kind == MMU_INVALID)
            stop = visit_invalid(g, value, level, start);
        else if (step.kind == MMU_LEAF)
            stop = visit_page(g, start, span, step.base);
        if (stop)
            return 1;
    }
    g->position = base + entries * span;
    return 0;
}

static void
go_virtual(struct gathering *g)
{
    struct kdmp_extent_cursor *cursor = g->cursor;
    const struct mmu *mmu = g->mmu;
    uint64_t end = UINT64_C(1)
                   << (mmu->shift(mmu->levels) + mmu->index_bits(mmu->levels));

    /* Bounds in the hole between the halves move out of it. */
    g->position = mmu_linear(mmu, cursor->next + mmu->hole(cursor->next));
    g->last = mmu->hole(cursor->last) == 0
                  ? mmu_linear(mmu, cursor->last)
                  : mmu_linear(mmu, mmu->last_address) / 2;
    g->begun = g->position;
    if (g->position > g->last)
        cursor->done = 1;
    else if (!visit_table(g, g->space->root & mmu->root_mask, mmu->levels, 0))
        cursor->done = 1;
    if (g->position > g->last || g->position >= end)
        cursor->done = 1;
    else
        cursor->next = mmu_canonical(mmu, g->position);
}

/* ---- physical, triage ---- */

static void
go_physical(struct gathering *g)
{
    struct kdmp_extent_cursor *cursor = g->cursor;

    g->last = cursor->last;
    while (g->budget > 0) {
        uint64_t left = g->last - cursor->next;
        struct kdmp_run run;
        enum step step;

        g->position = cursor->next;
        step = step_frames(g, g->position, add_sat(left, 1));
        if (g->position - cursor->next > left) {
            cursor->done = 1;
            return;
        }
        if (step == STEP_HOLE) {
            uint64_t pfn = g->position >> PAGE_SHIFT;

            if (!g->source->next_run(g->source, pfn, &run)
                || run.pfn > g->last >> PAGE_SHIFT) {
                cursor->done = 1;
                return;
            }
            if (run.pfn > pfn)
                g->position = run.pfn << PAGE_SHIFT;
        }
        cursor->next = g->position;
        if (step == STEP_STOP)
            return;
    }
}

static void
go_triage(struct gathering *g)
{
    struct kdmp_extent_cursor *cursor = g->cursor;
    const struct kdmp_dump *dump = g->space->dump;
    struct kdmp_run run;

    while (g->budget > 0) {
        struct kdmp_stretch stretch = {.paddr = UINT64_MAX};

        spend(g, LOCATE_COST);
        if (!kdmp_index_next_run(&dump->va_index, cursor->next, &run)
            || run.pfn > cursor->last) {
            cursor->done = 1;
            return;
        }
        stretch.address = run.pfn;
        stretch.length = min_u64(run.count - 1, cursor->last - run.pfn) + 1;
        stretch.file_offset = run.file_offset;
        stretch.ptr =
            dump->file.ptr != NULL ? dump->file.ptr + run.file_offset : NULL;
        cursor->done = stretch.length > cursor->last - run.pfn;
        if (!cursor->done)
            cursor->next = run.pfn + stretch.length;
        if (emit(g, &stretch) || cursor->done)
            return;
    }
}

enum kdmp_status
kdmp_next_extents(const struct kdmp_space *space,
                  struct kdmp_extent_cursor *cursor, struct kdmp_stretch *out,
                  size_t room, size_t *count_out)
{
    struct gathering g = {.mmu = kdmp_mmu_of(space->paging),
                          .space = space,
                          .source = space->source,
                          .budget = BUDGET,
                          .cursor = cursor,
                          .out = out,
                          .room = room};

    *count_out = 0;
    if (room == 0)
        return KDMP_E_ARGUMENT;
    if (g.source->clean != NULL)
        g.source = g.source->clean;
    if (g.source->locate == kdmp_dump_locate)
        g.plain = g.source->context;
    g.tables.mmu = g.mmu;
    g.tables.source = g.source;
    cursor->last = min_u64(cursor->last, kdmp_last_address(space->paging));
    if (cursor->most == 0)
        cursor->most = UINT64_MAX;
    if (cursor->next > cursor->last)
        cursor->done = 1;
    if (!cursor->done && g.mmu != NULL)
        go_virtual(&g);
    else if (!cursor->done && space->paging == KDMP_PAGING_TRIAGE)
        go_triage(&g);
    else if (!cursor->done)
        go_physical(&g);
    /* What is pending when nothing can join it any more. */
    if ((cursor->done || g.status != KDMP_OK) && cursor->has_pending
        && g.count < room) {
        out[g.count++] = cursor->pending;
        cursor->has_pending = 0;
    }
    *count_out = g.count;
    kdmp_free(g.tables.copies);
    return g.status;
}
