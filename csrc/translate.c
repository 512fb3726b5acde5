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
#include "mmu_arm64.h"
#include "mmu_x64.h"
#include "mmu_x86.h"
#include "tlb.h"

/* The bit that Windows' L1TF mitigation has been seen to set in invalid
 * entries, for when InvalidPteMask itself is not known. */
#define USUAL_INVALID_PTE_MASK (UINT64_C(1) << 45)

/* An entry that is not in mapped memory, or not of a dump. */
static KDMP_COLD enum kdmp_status
load_entry_slow(const struct kdmp_source *source, uint64_t paddr, unsigned size,
                uint64_t *value_out)
{
    struct kdmp_extent extent;
    uint8_t bytes[8];
    enum kdmp_status status = source->locate(source, paddr, size, &extent);

    if (status != KDMP_OK)
        return status;
    if (extent.ptr == NULL) {
        status = source->read_file(source, extent.file_offset, bytes, size);
        if (status != KDMP_OK)
            return status;
        extent.ptr = bytes;
    }
    *value_out = load_le(extent.ptr, size);
    return KDMP_OK;
}

/* Where a mapped dump has the frame of a table; 'tlb' may be NULL. */
KDMP_INLINE enum kdmp_status
find_table(const struct kdmp_dump *dump, struct kdmp_tlb *tlb, uint64_t pfn,
           const uint8_t **bytes_out)
{
    uint64_t offset = 0;
    enum kdmp_status status;

    if (tlb != NULL && tlb->tables != NULL) {
        const struct table_place *place = table_place_of(tlb->tables, pfn);

        if (place->pfn_plus_1 == pfn + 1) {
            *bytes_out = place->bytes;
            return KDMP_OK;
        }
    }
    status = index_find(&dump->index, pfn, &offset);
    if (status != KDMP_OK)
        return status;
    *bytes_out = dump->file.ptr + offset;
    if (tlb != NULL)
        kdmp_tlb_keep_table(tlb, pfn, *bytes_out);
    return KDMP_OK;
}

/* Load an entry of 4 or 8 bytes; entries never cross a frame.  A mapped dump,
 * the common case, takes no call. */
KDMP_INLINE enum kdmp_status
load_entry(const struct kdmp_space *space, uint64_t paddr, unsigned size,
           uint64_t *value_out)
{
    const struct kdmp_source *source = space->source;

    if (source->clean != NULL)
        source = source->clean;
    if (source->locate == kdmp_dump_locate) {
        const struct kdmp_dump *dump = source->context;

        if (dump->file.ptr != NULL) {
            const uint8_t *table = NULL;
            enum kdmp_status status =
                find_table(dump, space->tlb, paddr >> PAGE_SHIFT, &table);

            if (status == KDMP_OK)
                *value_out = load_le(table + (paddr & (PAGE_SIZE - 1)), size);
            return status;
        }
    }
    {
        uint64_t value = 0;
        enum kdmp_status status = load_entry_slow(source, paddr, size, &value);

        *value_out = value;
        return status;
    }
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

    if (source->locate == kdmp_dump_locate) {
        const struct kdmp_dump *dump = source->context;

        return paddr >> PAGE_SHIFT < dump->info.pfn_end;
    }
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

/* The mask to undo: the kernel's own if it is known, else the usual one. */
static uint64_t
swizzle_mask(const struct kdmp_space *space)
{
    return space->mask_known ? space->invalid_pte_mask : USUAL_INVALID_PTE_MASK;
}

static const struct kdmp_pte_format *
pte_format(const struct mmu *mmu, const struct kdmp_space *space)
{
    return space->format.frame_mask != 0 ? &space->format : &mmu->format;
}

/* What an invalid entry means.  Undoing the swizzle matters for page-file
 * entries, whose page number it changes; frames and prototype addresses are
 * undone where they are used, because there trial can tell. */
static void
decode_soft(const struct mmu *mmu, const struct kdmp_space *space,
            uint64_t value, int level, struct mmu_soft *soft)
{
    const struct kdmp_pte_format *format = pte_format(mmu, space);

    mmu_decode_soft(format, mmu->entry_size, value, soft);
    if (soft->state == KDMP_PTE_PAGEFILE && soft->swizzled)
        mmu_decode_soft(format, mmu->entry_size, value & ~swizzle_mask(space),
                        soft);
    if (level > mmu->paged_levels && soft->state != KDMP_PTE_ZERO)
        soft->state = KDMP_PTE_BAD;
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

/* ---- prototype PTEs ---- */

/* A prototype PTE as read through one of the addresses an entry may mean. */
struct prototype {
    uint64_t vaddr;
    uint64_t value;
    struct mmu_soft soft;
    struct mmu_step step;
    int readable;
    int plausible; /* names a frame that exists, or a file */
};

static uint64_t
prototype_address(const struct mmu *mmu, const struct kdmp_pte_format *format,
                  uint64_t value)
{
    unsigned shift = format->prototype_address;
    uint64_t address;

    if (format->prototype_split) /* non-PAE: High 11-31, Low 1-8 or 1-9 */
        return 0x80000000 | (value >> 11 << 10 & 0x7FFFFC00)
               | (value >> 1 & 0xFF) << 2;
    if (shift == 0)
        return 0;
    address = value >> shift;
    if (mmu->last_address == UINT32_MAX)
        return address & UINT32_MAX;
    if (value >> 63)
        address |= ~(UINT64_MAX >> shift);
    return address;
}

/* Read and judge the prototype PTE at 'address', for the page at 'vaddr'. */
static void
read_prototype(const struct mmu *mmu, const struct kdmp_space *space,
               uint64_t vaddr, uint64_t address, struct prototype *out)
{
    struct kdmp_space plain = *space;
    uint64_t done, lowest;
    uint8_t bytes[8];

    memset(out, 0, sizeof(*out));
    out->vaddr = address;
    lowest = mmu->last_address / 2 + 1; /* kernel half */
    if (out->vaddr < lowest || out->vaddr % mmu->entry_size != 0)
        return;
    /* One level of indirection only, and nothing but memory. */
    plain.keep_prototypes = 1;
    plain.tlb = NULL;
    plain.pagefiles = NULL;
    plain.pagefile_count = 0;
    plain.zero_fill = 0;
    if (kdmp_read(&plain, out->vaddr, bytes, mmu->entry_size, &done, NULL)
        != KDMP_OK) {
        if (space->kernel_root == 0)
            return;
        plain.root = space->kernel_root;
        if (kdmp_read(&plain, out->vaddr, bytes, mmu->entry_size, &done, NULL)
            != KDMP_OK)
            return;
    }
    out->readable = 1;
    out->value = load_le(bytes, mmu->entry_size);
    mmu->decode(out->value, 1, vaddr, &out->step);
    if (out->step.kind == MMU_LEAF) {
        out->plausible = frame_exists(space->source, out->step.base);
        return;
    }
    decode_soft(mmu, space, out->value, 1, &out->soft);
    if (out->soft.state == KDMP_PTE_PROTOTYPE)
        out->soft.state = KDMP_PTE_SUBSECTION;
    out->plausible = out->soft.state != KDMP_PTE_ZERO;
    if (out->soft.state == KDMP_PTE_TRANSITION) {
        uint32_t flags = 0;
        int known;
        uint64_t base = transition_frame(space, &out->soft, &flags, &known);

        out->plausible = known && frame_exists(space->source, base);
    }
}

/*
 * The prototype PTE behind an entry.  With the mask unknown the entry may mean
 * two addresses; if both can be read and neither or both make sense, there is
 * no telling, and no guess.
 */
static int
choose_prototype(const struct mmu *mmu, const struct kdmp_space *space,
                 uint64_t vaddr, uint64_t value, int swizzled,
                 struct prototype *out)
{
    const struct kdmp_pte_format *format = pte_format(mmu, space);
    uint64_t plain = swizzled ? value & ~swizzle_mask(space) : value;
    struct prototype other;

    read_prototype(mmu, space, vaddr, prototype_address(mmu, format, plain),
                   out);
    if (plain == value)
        return out->readable;
    read_prototype(mmu, space, vaddr, prototype_address(mmu, format, value),
                   &other);
    if (space->mask_known) {
        if (!out->readable && other.readable)
            *out = other;
        return out->readable;
    }
    if (out->readable && other.readable) {
        if (out->plausible == other.plausible)
            return 0;
        if (other.plausible)
            *out = other;
        return 1;
    }
    if (other.readable)
        *out = other;
    return out->readable;
}

/* The prototype PTE that a VAD has for an address: 1 if it can be read. */
static int
prototype_of_view(const struct mmu *mmu, const struct kdmp_space *space,
                  uint64_t vaddr, struct prototype *out)
{
    uint64_t low = 0, high = space->view_count;

    while (low < high) { /* the last that begins at or below */
        uint64_t middle = low + (high - low) / 2;

        if (space->views[middle].start <= vaddr)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0 || vaddr >= space->views[low - 1].end)
        return 0;
    read_prototype(mmu, space, vaddr,
                   space->views[low - 1].prototype
                       + (vaddr - space->views[low - 1].start) / PAGE_SIZE
                             * mmu->entry_size,
                   out);
    return out->readable;
}

/* What the ReadOnly bit of an entry takes away. */
static uint32_t
read_only_view(const struct kdmp_pte_format *format, uint64_t value)
{
    return format->prototype_read_only != 0
                   && value >> format->prototype_read_only & 1
               ? KDMP_T_WRITABLE
               : 0;
}

/* Rights of a shared page: the entry's Protection; if it has none, what the
 * prototype PTE grants. */
static uint32_t
prototype_rights(const struct kdmp_pte_format *format, uint64_t value,
                 unsigned protection, const struct prototype *prototype)
{
    uint32_t rights;

    if (protection != 0)
        rights = mmu_soft_rights(protection);
    else if (prototype->step.kind == MMU_LEAF)
        rights = (prototype->step.allow & RIGHTS)
                 | (prototype->step.flags & KDMP_T_COPY_ON_WRITE);
    else
        rights = mmu_soft_rights(prototype->soft.protection);
    return rights & ~read_only_view(format, value)
           & ~(uint32_t)KDMP_T_HARDWARE_WRITABLE;
}

/* Follow a prototype reference of level 1.  KDMP_OK: *base_out is the page and
 * *rights_out what is granted. */
static enum kdmp_status
walk_prototype(const struct mmu *mmu, const struct kdmp_space *space,
               uint64_t value, const struct mmu_soft *soft, uint64_t *base_out,
               uint32_t *rights_out, struct kdmp_translation *out)
{
    const struct kdmp_pte_format *format = pte_format(mmu, space);
    struct prototype prototype;
    int known = 1;

    *rights_out =
        mmu_soft_rights(soft->protection) & ~read_only_view(format, value);
    if (space->keep_prototypes
        || !(soft->state == KDMP_PTE_VAD
                 ? prototype_of_view(mmu, space, out->vaddr, &prototype)
                 : choose_prototype(mmu, space, out->vaddr, value,
                                    soft->swizzled, &prototype)))
        return end_walk(out, KDMP_E_NOT_PRESENT, soft->state, 0);
    out->prototype = prototype.vaddr;
    out->prototype_value = prototype.value;
    *rights_out = prototype_rights(format, value, soft->protection, &prototype);
    if (prototype.step.kind == MMU_LEAF) {
        *base_out = prototype.step.base;
        return KDMP_OK;
    }
    if (prototype.step.kind == MMU_BAD)
        return end_walk(out, KDMP_E_BAD_ENTRY, KDMP_PTE_BAD, 0);
    if (prototype.soft.state != KDMP_PTE_TRANSITION) {
        out->pagefile = prototype.soft.pagefile;
        out->pagefile_page = prototype.soft.pagefile_page;
        return end_walk(out, KDMP_E_NOT_PRESENT, prototype.soft.state, 0);
    }
    *base_out = transition_frame(space, &prototype.soft, &out->flags, &known);
    if (!known)
        return end_walk(out, KDMP_E_NOT_IN_DUMP, KDMP_PTE_TRANSITION,
                        *base_out | (out->vaddr & (PAGE_SIZE - 1)));
    return KDMP_OK;
}

enum kdmp_status
kdmp_walk_invalid(const struct mmu *mmu, const struct kdmp_space *space,
                  uint64_t value, int level, uint64_t *base_out,
                  uint32_t *rights_out, struct kdmp_translation *out)
{
    struct mmu_soft soft;
    uint64_t in_page = out->vaddr & (PAGE_SIZE - 1);
    int known;

    decode_soft(mmu, space, value, level, &soft);
    out->protection = soft.protection;
    if (level == 1
        && (soft.state == KDMP_PTE_PROTOTYPE
            || (soft.state == KDMP_PTE_VAD && space->view_count != 0)))
        return walk_prototype(mmu, space, value, &soft, base_out, rights_out,
                              out);
    if (soft.state == KDMP_PTE_PAGEFILE) {
        out->pagefile = soft.pagefile;
        out->pagefile_page = soft.pagefile_page;
    }
    if (soft.state != KDMP_PTE_TRANSITION)
        return end_walk(out, KDMP_E_NOT_PRESENT, soft.state, 0);
    *base_out = transition_frame(space, &soft, &out->flags, &known);
    *rights_out = mmu_soft_rights(soft.protection);
    if (level == 1 && !known)
        return end_walk(out, KDMP_E_NOT_IN_DUMP, KDMP_PTE_TRANSITION,
                        *base_out | in_page);
    return KDMP_OK;
}

/* What a walk carries from level to level. */
struct walk_state {
    uint64_t table;
    uint32_t rights; /* not yet forbidden */
    uint32_t flags;
};

/* The end of a walk at 'level', which has read 'depth' entries. */
KDMP_INLINE enum kdmp_status
end_at(const struct mmu *mmu, struct kdmp_translation *out, int level,
       int depth)
{
    out->level = (uint8_t)level;
    out->depth = (uint8_t)depth;
    out->page_size = UINT64_C(1) << mmu->shift(level);
    return (enum kdmp_status)out->status;
}

/* An entry the CPU would not take: 1 if the walk ends with it. */
static KDMP_COLD int
step_invalid(const struct mmu *mmu, const struct kdmp_space *space,
             uint64_t value, int level, struct walk_state *state,
             struct kdmp_translation *out)
{
    uint32_t granted = 0;

    if (kdmp_walk_invalid(mmu, space, value, level, &state->table, &granted,
                          out)
        != KDMP_OK)
        return 1;
    if (level > 1) { /* a page table that Windows was about to reuse */
        out->protection = 0;
        return 0;
    }
    out->flags |= state->flags | (state->rights & (granted | KDMP_T_USER))
                  | (granted & KDMP_T_COPY_ON_WRITE);
    end_walk(out, KDMP_OK,
             out->prototype != 0 ? KDMP_PTE_PROTOTYPE : KDMP_PTE_TRANSITION,
             state->table | (out->vaddr & (PAGE_SIZE - 1)));
    return 1;
}

/* One level: read the entry and follow it.  1 if the walk ends here. */
KDMP_INLINE int
walk_level(const struct mmu *mmu, const struct kdmp_space *space,
           uint64_t vaddr, int level, struct walk_state *state,
           struct kdmp_translation *out)
{
    unsigned shift = mmu->shift(level);
    uint64_t index =
        vaddr >> shift & ((UINT64_C(1) << mmu->index_bits(level)) - 1);
    uint64_t paddr = state->table + index * mmu->entry_size, value = 0;
    int depth = mmu->levels - level;
    enum kdmp_status status;
    struct mmu_step step;

    status = load_entry(space, paddr, mmu->entry_size, &value);
    if (status != KDMP_OK) {
        end_walk(out, status, depth > 0 ? KDMP_PTE_TABLE : KDMP_PTE_NONE,
                 paddr);
        end_at(mmu, out, level, depth);
        return 1;
    }
    out->entries[depth].paddr = paddr;
    out->entries[depth].value = value;
    mmu->decode(value, level, vaddr, &step);
    if (step.kind == MMU_TABLE) {
        state->rights &= step.allow;
        state->flags |= step.flags;
        state->table = step.base;
        return 0;
    }
    if (step.kind == MMU_LEAF) {
        out->flags |= state->flags | step.flags | (state->rights & step.allow);
        end_walk(out, KDMP_OK, KDMP_PTE_VALID,
                 step.base | (vaddr & ((UINT64_C(1) << shift) - 1)));
    } else if (step.kind == MMU_BAD) {
        end_walk(out, KDMP_E_BAD_ENTRY, KDMP_PTE_BAD, 0);
    } else {
        /* A copy, so that the state itself can live in registers. */
        struct walk_state copy = *state;

        if (!step_invalid(mmu, space, value, level, &copy, out)) {
            state->table = copy.table;
            return 0;
        }
    }
    end_at(mmu, out, level, depth + 1);
    return 1;
}

/* Inlined once per mode with a constant 'mmu', so that every level becomes
 * straight code. */
KDMP_INLINE enum kdmp_status
walk(const struct mmu *mmu, const struct kdmp_space *space, uint64_t vaddr,
     struct kdmp_translation *out)
{
    struct walk_state state = {space->root & mmu->root_mask, RIGHTS, 0};

    if (vaddr > mmu->last_address || mmu->hole(vaddr) != 0)
        return end_walk(out, KDMP_E_NON_CANONICAL, KDMP_PTE_NONE, 0);
    if ((mmu->levels >= 5 && walk_level(mmu, space, vaddr, 5, &state, out))
        || (mmu->levels >= 4 && walk_level(mmu, space, vaddr, 4, &state, out))
        || (mmu->levels >= 3 && walk_level(mmu, space, vaddr, 3, &state, out))
        || walk_level(mmu, space, vaddr, 2, &state, out)
        || walk_level(mmu, space, vaddr, 1, &state, out))
        return (enum kdmp_status)out->status;
    /* The last level decodes to a page, never to a table. */
    return end_walk(out, KDMP_E_BAD_ENTRY, KDMP_PTE_BAD, 0);
}

const struct mmu *
kdmp_mmu_of(enum kdmp_paging paging)
{
    switch (paging) {
    case KDMP_PAGING_X64:
        return &mmu_x64;
    case KDMP_PAGING_LA57:
        return &mmu_la57;
    case KDMP_PAGING_X86:
        return &mmu_x86;
    case KDMP_PAGING_PAE:
        return &mmu_pae;
    case KDMP_PAGING_ARM64:
        return &mmu_arm64;
    default:
        return NULL;
    }
}

int
kdmp_paging_levels(enum kdmp_paging paging)
{
    const struct mmu *mmu = kdmp_mmu_of(paging);

    return mmu != NULL ? mmu->levels : 0;
}

uint64_t
kdmp_last_address(enum kdmp_paging paging)
{
    const struct mmu *mmu = kdmp_mmu_of(paging);

    return mmu != NULL ? mmu->last_address : UINT64_MAX;
}

uint64_t
kdmp_canonical_rest(enum kdmp_paging paging, uint64_t vaddr)
{
    switch (paging) {
    case KDMP_PAGING_X64:
    case KDMP_PAGING_ARM64:
        return vaddr >> 63 ? 0 - vaddr : (UINT64_C(1) << 47) - vaddr;
    case KDMP_PAGING_LA57:
        return vaddr >> 63 ? 0 - vaddr : (UINT64_C(1) << 56) - vaddr;
    default:
        return kdmp_last_address(paging) - vaddr + 1;
    }
}

uint64_t
kdmp_canonical_hole(enum kdmp_paging paging, uint64_t vaddr)
{
    const struct mmu *mmu = kdmp_mmu_of(paging);

    return vaddr > mmu->last_address ? UINT64_MAX : mmu->hole(vaddr);
}

unsigned
kdmp_table_shift(enum kdmp_paging paging, int level)
{
    const struct mmu *mmu = kdmp_mmu_of(paging);

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
    out->pagefile = 0;
    out->pagefile_page = 0;
    out->prototype = 0;
    out->prototype_value = 0;
    switch (space->paging) {
    case KDMP_PAGING_PHYSICAL:
        out->page_size = PAGE_SIZE;
        out->flags = RIGHTS;
        return end_walk(out, KDMP_OK, KDMP_PTE_NONE, vaddr);
    case KDMP_PAGING_X64:
        return walk(&mmu_x64, space, vaddr, out);
    case KDMP_PAGING_LA57:
        return walk(&mmu_la57, space, vaddr, out);
    case KDMP_PAGING_X86:
        return walk(&mmu_x86, space, vaddr, out);
    case KDMP_PAGING_PAE:
        return walk(&mmu_pae, space, vaddr, out);
    case KDMP_PAGING_ARM64:
        return walk(&mmu_arm64, space, vaddr, out);
    default:
        return end_walk(out, KDMP_E_UNSUPPORTED, KDMP_PTE_NONE, 0);
    }
}
