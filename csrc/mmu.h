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
    uint64_t frame;     /* TRANSITION: the page's address as stored */
    int swizzled;       /* SwizzleBit is 0: high bits may have been added */
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
    void (*soft)(uint64_t value, int level, struct mmu_soft *out);
};

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

#endif /* KDMP_MMU_H */
