/*
 * mmu.h: what a page walk needs to know of an architecture.
 *
 * A paging mode is described by a constant struct mmu: its levels and three
 * small functions without loops or memory access.  The walk in translate.c
 * drives them and is inlined once per mode, so that the compiler sees through
 * the pointers.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef KDMP_MMU_H
#define KDMP_MMU_H

#include "internal.h"

enum mmu_kind {
    MMU_TABLE,   /* 'base' is the next table */
    MMU_LEAF,    /* 'base' is the page */
    MMU_INVALID, /* the CPU would fault; ask soft() what Windows means */
    MMU_BAD      /* valid, but with reserved bits set */
};

/* One entry, decoded. */
struct mmu_step {
    enum mmu_kind kind;
    uint64_t base;
    uint32_t allow; /* rights (KDMP_T_*) that this level does not forbid */
    uint32_t flags; /* leaf only: everything that is not a right */
};

/* An invalid entry in Windows' terms. */
struct mmu_soft {
    enum kdmp_pte_state state;
    uint8_t protection; /* 5-bit MM protection */
    uint8_t pagefile;
    uint64_t pagefile_page;
    uint64_t frame; /* TRANSITION: the page's address as stored */
    int swizzled;   /* SwizzleBit is 0: high bits may have been added */
};

enum {
    PTE_PROTOTYPE = 0x400, /* the same bits in all software formats */
    PTE_TRANSITION = 0x800
};

struct mmu {
    int levels;
    unsigned entry_size;
    uint64_t root_mask;
    uint64_t last_address;
    /* 0 if the address can be translated, else how many bytes from it on
     * cannot, for lack of canonical form. */
    uint64_t (*hole)(uint64_t vaddr);
    /* log2 of what one entry at a level maps. */
    unsigned (*shift)(int level);
    /* Number of bits of a table index at a level. */
    unsigned (*index_bits)(int level);
    void (*decode)(uint64_t value, int level, uint64_t vaddr,
                   struct mmu_step *out);
    /* Entries above this level are never paged: 4 PDPTEs of PAE. */
    int paged_levels;
    struct kdmp_pte_format format; /* of current builds */
};

/* The description of a paging mode that has page tables, else NULL. */
const struct mmu *kdmp_mmu_of(enum kdmp_paging paging);

/*
 * Decide about an entry that is not valid.  KDMP_OK: *base_out is the frame it
 * still names (a page at level 1, a table above), *rights_out what a page
 * grants.  Otherwise the reason, with state and evidence in *out, whose vaddr
 * must be set.
 */
enum kdmp_status kdmp_walk_invalid(const struct mmu *mmu,
                                   const struct kdmp_space *space,
                                   uint64_t value, int level,
                                   uint64_t *base_out, uint32_t *rights_out,
                                   struct kdmp_translation *out);

/* ---- tables.c: whole tables, for those who go through a space ---- */

/* An address of such a walk, which counts from 0 without a hole, as it is
 * written, and back. */
static inline uint64_t
mmu_canonical(const struct mmu *mmu, uint64_t linear)
{
    unsigned bits = mmu->shift(mmu->levels) + mmu->index_bits(mmu->levels);

    if (mmu->last_address == UINT32_MAX || !(linear >> (bits - 1) & 1))
        return linear;
    return linear | ~((UINT64_C(1) << bits) - 1);
}

static inline uint64_t
mmu_linear(const struct mmu *mmu, uint64_t vaddr)
{
    unsigned bits = mmu->shift(mmu->levels) + mmu->index_bits(mmu->levels);

    return vaddr & ((UINT64_C(1) << bits) - 1);
}

struct kdmp_tables {
    const struct mmu *mmu;
    const struct kdmp_source *source;
    uint8_t *copies; /* a page for each level, where the file is not mapped;
                        to be freed */
};

/*
 * The 'size' bytes of a table, NULL in *bytes_out if they are not in the dump.
 * They stay until another table of that level is loaded.  KDMP_OK, KDMP_E_NOMEM
 * or why the file cannot be read.
 */
enum kdmp_status kdmp_load_table(struct kdmp_tables *tables, uint64_t table,
                                 uint64_t size, int level,
                                 const uint8_t **bytes_out);

#define RIGHTS                                                                 \
    (KDMP_T_WRITABLE | KDMP_T_EXECUTABLE | KDMP_T_USER                         \
     | KDMP_T_HARDWARE_WRITABLE | KDMP_T_KERNEL_EXECUTABLE)

/* Rights and flags of a Windows software protection (0-31); the table of
 * MmProtectToValue: 1 R, 2 X, 3 RX, 4 RW, 5 WC, 6 RWX, 7 XWC. */
static inline uint32_t
mmu_soft_rights(unsigned protection)
{
    uint32_t flags = 0;

    if (protection & 4)
        flags |= KDMP_T_WRITABLE;
    if (protection & 2)
        flags |= KDMP_T_EXECUTABLE | KDMP_T_KERNEL_EXECUTABLE;
    if ((protection & 5) == 5)
        flags |= KDMP_T_COPY_ON_WRITE;
    return flags;
}

/* Decode an invalid entry; undoing the swizzle is the caller's. */
static inline void
mmu_decode_soft(const struct kdmp_pte_format *format, unsigned entry_size,
                uint64_t value, struct mmu_soft *out)
{
    uint64_t all_ones = entry_size == 4 ? UINT32_MAX : UINT64_MAX;
    int ask_vad;

    out->protection = (uint8_t)(value >> format->protection & 31);
    out->frame = value & format->frame_mask & ~(uint64_t)(PAGE_SIZE - 1);
    out->swizzled = format->swizzle != 0 && !(value >> format->swizzle & 1);
    out->pagefile = (uint8_t)(value >> format->pagefile_low & 15);
    out->pagefile_page = value >> format->pagefile_high;
    ask_vad = out->pagefile_page == all_ones >> format->pagefile_high;
    /* In the order in which Windows' fault handler asks. */
    if (value == 0) {
        out->state = KDMP_PTE_ZERO;
    } else if (value & PTE_PROTOTYPE) {
        /* Before Transition: in a prototype PTE bit 11 is Combined. */
        out->state = ask_vad ? KDMP_PTE_VAD : KDMP_PTE_PROTOTYPE;
        out->protection = (uint8_t)(value >> format->prototype_protection & 31);
    } else if (value & PTE_TRANSITION) {
        out->state = KDMP_PTE_TRANSITION;
    } else if (ask_vad) {
        out->state = KDMP_PTE_VAD;
    } else if (out->pagefile_page == 0 && out->pagefile == 0) {
        out->state = KDMP_PTE_DEMAND_ZERO;
    } else {
        out->state = KDMP_PTE_PAGEFILE;
    }
}

#endif /* KDMP_MMU_H */
