/*
 * translate.c: the page walk, shared by all architectures.
 *
 * The walk keeps its evidence: every entry it reads goes into the result,
 * whether it ends at a page or not.  It follows at most as many tables as the
 * mode has levels, so a table that points to itself costs nothing.
 *
 * SPDX-License-Identifier: MIT
 */
#include "mmu.h"
#include "mmu_x64.h"

/* The bit that Windows' L1TF mitigation has been seen to set in invalid
 * entries, for when InvalidPteMask itself is not known. */
#define USUAL_INVALID_PTE_MASK (UINT64_C(1) << 45)

/* Load an entry of 4 or 8 bytes; entries never cross a frame. */
KDMP_INLINE enum kdmp_status
load_entry(const struct kdmp_source *source, uint64_t paddr, unsigned size,
           uint64_t *value_out)
{
    struct kdmp_extent extent;
    enum kdmp_status status;
    uint8_t bytes[8];

    if (source->locate == kdmp_dump_locate) {
        const struct kdmp_dump *dump = source->context;

        status = index_find(&dump->index, paddr >> PAGE_SHIFT,
                            &extent.file_offset);
        extent.file_offset += paddr & (PAGE_SIZE - 1);
        extent.ptr = dump->file.ptr != NULL
                         ? dump->file.ptr + extent.file_offset
                         : NULL;
    } else {
        status = source->locate(source, paddr, size, &extent);
    }
    if (status != KDMP_OK)
        return status;
    if (extent.ptr == NULL) {
        status = source->read_file(source, extent.file_offset, bytes, size);
        if (status != KDMP_OK)
            return status;
        extent.ptr = bytes;
    }
    *value_out = size == 8 ? load_le64(extent.ptr) : load_le32(extent.ptr);
    return KDMP_OK;
}

static int
frame_exists(const struct kdmp_source *source, uint64_t paddr)
{
    struct kdmp_extent extent;
    enum kdmp_status status = source->locate(source, paddr, 1, &extent);

    return status == KDMP_OK || status == KDMP_E_TRUNCATED;
}

static int
below_last_frame(const struct kdmp_source *source, uint64_t paddr)
{
    struct kdmp_run run;

    return source->next_run(source, paddr >> PAGE_SHIFT, &run);
}

/*
 * The frame of a transition entry.  With the mask known, its bits are removed
 * unless SwizzleBit says that they are the frame's own.  Without, the frame
 * as stored is believed if it is in the dump, then the one without the usual
 * mask bit; *known_out says whether either was.
 */
static uint64_t
transition_frame(const struct kdmp_space *space, const struct mmu_soft *soft,
                 uint32_t *flags, int *known_out)
{
    uint64_t raw = soft->frame, plain;

    *known_out = 1;
    if (!soft->swizzled)
        return raw;
    if (space->mask_known) {
        plain = raw & ~space->invalid_pte_mask;
    } else {
        plain = raw & ~USUAL_INVALID_PTE_MASK;
        if (frame_exists(space->source, raw))
            return raw;
        *known_out = frame_exists(space->source, plain);
        if (!*known_out
            && (below_last_frame(space->source, raw)
                || !below_last_frame(space->source, plain)))
            return raw;
    }
    if (plain != raw)
        *flags |= KDMP_T_UNSWIZZLED;
    return plain;
}

/* What an invalid entry means.  Undoing a known swizzle first matters for
 * page-file entries, whose page number it changes. */
static void
decode_soft(const struct mmu *mmu, const struct kdmp_space *space,
            uint64_t value, int level, struct mmu_soft *soft)
{
    uint64_t mask = space->mask_known ? space->invalid_pte_mask
                                      : USUAL_INVALID_PTE_MASK;

    mmu->soft(value, level, soft);
    if (soft->state == KDMP_PTE_PAGEFILE && soft->swizzled) {
        mmu->soft(value & ~mask, level, soft);
        if (soft->state == KDMP_PTE_ZERO)
            soft->state = KDMP_PTE_PAGEFILE;
    }
}

static enum kdmp_status
end_walk(struct kdmp_translation *out, enum kdmp_status status,
         enum kdmp_pte_state state, uint64_t paddr)
{
    out->status = (uint8_t)status;
    out->state = (uint8_t)state;
    out->paddr = paddr;
    return status;
}

/*
 * Decide about an invalid entry.  KDMP_OK: *base_out is the frame it still
 * names (a page at level 1, a table above).
 */
static enum kdmp_status
walk_invalid(const struct mmu *mmu, const struct kdmp_space *space,
             uint64_t value, int level, uint64_t *base_out,
             struct kdmp_translation *out)
{
    struct mmu_soft soft;
    uint64_t in_page = out->vaddr & (PAGE_SIZE - 1);
    int known;

    decode_soft(mmu, space, value, level, &soft);
    out->protection = soft.protection;
    if (soft.state != KDMP_PTE_TRANSITION)
        return end_walk(out, KDMP_E_NOT_PRESENT, soft.state, 0);
    *base_out = transition_frame(space, &soft, &out->flags, &known);
    if (level == 1 && !known)
        return end_walk(out, KDMP_E_NOT_IN_DUMP, KDMP_PTE_TRANSITION,
                        *base_out | in_page);
    return KDMP_OK;
}

KDMP_INLINE enum kdmp_status
walk(const struct mmu *mmu, const struct kdmp_space *space, uint64_t vaddr,
     struct kdmp_translation *out)
{
    uint64_t table = space->root & mmu->root_mask;
    uint32_t rights = RIGHTS;
    int level;

    if (vaddr > mmu->last_address || mmu->hole(vaddr) != 0)
        return end_walk(out, KDMP_E_NON_CANONICAL, KDMP_PTE_NONE, 0);
    for (level = mmu->levels; level > 0; level--) {
        unsigned shift = mmu->shift(level);
        uint64_t index =
            vaddr >> shift & ((UINT64_C(1) << mmu->index_bits(level)) - 1);
        struct kdmp_entry *entry = &out->entries[out->depth];
        struct mmu_step step;
        enum kdmp_status status;

        entry->paddr = table + index * mmu->entry_size;
        out->level = (uint8_t)level;
        out->page_size = UINT64_C(1) << shift;
        status = load_entry(space->source, entry->paddr, mmu->entry_size,
                            &entry->value);
        if (status != KDMP_OK)
            return end_walk(out, status,
                            out->depth > 0 ? KDMP_PTE_TABLE : KDMP_PTE_NONE,
                            entry->paddr);
        out->depth++;
        mmu->decode(entry->value, level, vaddr, &step);
        if (step.kind == MMU_INVALID) {
            status = walk_invalid(mmu, space, entry->value, level, &table,
                                  out);
            if (status != KDMP_OK)
                return status;
            if (level > 1)
                continue; /* a page table that Windows was about to reuse */
            rights &= mmu_soft_rights(out->protection) | KDMP_T_USER;
            out->flags |= rights
                          | (mmu_soft_rights(out->protection)
                             & KDMP_T_COPY_ON_WRITE);
            return end_walk(out, KDMP_OK, KDMP_PTE_TRANSITION,
                            table | (vaddr & (PAGE_SIZE - 1)));
        }
        if (step.kind == MMU_BAD)
            return end_walk(out, KDMP_E_BAD_ENTRY, KDMP_PTE_BAD, 0);
        rights &= step.allow;
        out->flags |= step.flags;
        if (step.kind == MMU_LEAF) {
            out->flags |= rights;
            return end_walk(out, KDMP_OK, KDMP_PTE_VALID,
                            step.base | (vaddr & (out->page_size - 1)));
        }
        table = step.base;
    }
    /* The last level decodes to a page, never to a table. */
    return end_walk(out, KDMP_E_BAD_ENTRY, KDMP_PTE_BAD, 0);
}

static const struct mmu *
mmu_of(enum kdmp_paging paging)
{
    switch (paging) {
    case KDMP_PAGING_X64:
        return &mmu_x64;
    case KDMP_PAGING_LA57:
        return &mmu_la57;
    default:
        return NULL;
    }
}

int
kdmp_paging_levels(enum kdmp_paging paging)
{
    const struct mmu *mmu = mmu_of(paging);

    return mmu != NULL ? mmu->levels : 0;
}

uint64_t
kdmp_last_address(enum kdmp_paging paging)
{
    const struct mmu *mmu = mmu_of(paging);

    return mmu != NULL ? mmu->last_address : UINT64_MAX;
}

uint64_t
kdmp_canonical_hole(enum kdmp_paging paging, uint64_t vaddr)
{
    const struct mmu *mmu = mmu_of(paging);

    if (mmu == NULL)
        return 0;
    return vaddr > mmu->last_address ? UINT64_MAX : mmu->hole(vaddr);
}

unsigned
kdmp_table_shift(enum kdmp_paging paging, int level)
{
    const struct mmu *mmu = mmu_of(paging);

    if (mmu == NULL || level < 1)
        return 0;
    return mmu->shift(level) + mmu->index_bits(level);
}

enum kdmp_status
kdmp_translate(const struct kdmp_space *space, uint64_t vaddr,
               struct kdmp_translation *out)
{
    out->vaddr = vaddr;
    out->root = space->root;
    out->paddr = 0;
    out->page_size = 0;
    out->flags = 0;
    out->paging = (uint8_t)space->paging;
    out->level = 0;
    out->depth = 0;
    out->protection = 0;
    switch (space->paging) {
    case KDMP_PAGING_PHYSICAL:
        out->page_size = PAGE_SIZE;
        out->flags = RIGHTS;
        return end_walk(out, KDMP_OK, KDMP_PTE_NONE, vaddr);
    case KDMP_PAGING_X64:
        return walk(&mmu_x64, space, vaddr, out);
    case KDMP_PAGING_LA57:
        return walk(&mmu_la57, space, vaddr, out);
    default:
        return end_walk(out, KDMP_E_UNSUPPORTED, KDMP_PTE_NONE, 0);
    }
}
