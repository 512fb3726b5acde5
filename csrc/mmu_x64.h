/*
 * mmu_x64.h: x86-64 page-table entries, 4 levels and LA57.
 *
 * Bits as in the Intel SDM, volume 3A, chapter "Paging"; software bits as in
 * _MMPTE_HARDWARE, _MMPTE_TRANSITION and _MMPTE_SOFTWARE.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef KDMP_MMU_X64_H
#define KDMP_MMU_X64_H

#include "mmu.h"

#define X64_ADDRESS UINT64_C(0x000FFFFFFFFFF000) /* bits 12-51 */
#define X64_NX (UINT64_C(1) << 63)

enum {
    X64_P = 1,
    X64_RW = 2,
    X64_US = 4,
    X64_PWT = 8,
    X64_PCD = 0x10,
    X64_A = 0x20,
    X64_D = 0x40,
    X64_PS = 0x80,  /* levels 2 and 3 */
    X64_PAT = 0x80, /* level 1; bit 12 in a large page */
    X64_G = 0x100,
    X64_COPY_ON_WRITE = 0x200, /* software */
    X64_WRITE = 0x800,         /* software, valid leaf: logically writable */
    X64_LARGE_PAT = 0x1000
};

KDMP_INLINE unsigned
x64_shift(int level)
{
    return 12 + 9 * (unsigned)(level - 1);
}

KDMP_INLINE unsigned
x64_index_bits(int level)
{
    (void)level;
    return 9;
}

KDMP_INLINE uint64_t
x64_hole(uint64_t vaddr)
{
    uint64_t first = UINT64_C(1) << 47, end = UINT64_C(0xFFFF800000000000);

    return vaddr - first < end - first ? end - vaddr : 0;
}

KDMP_INLINE uint64_t
la57_hole(uint64_t vaddr)
{
    uint64_t first = UINT64_C(1) << 56, end = UINT64_C(0xFF00000000000000);

    return vaddr - first < end - first ? end - vaddr : 0;
}

KDMP_INLINE void
x64_decode_leaf(uint64_t value, int level, struct mmu_step *out)
{
    uint64_t pat = level == 1 ? X64_PAT : X64_LARGE_PAT;

    out->kind = MMU_LEAF;
    out->base = value & X64_ADDRESS & ~((UINT64_C(1) << x64_shift(level)) - 1);
    /* Windows maps a writable page that is still clean without R/W; its own
     * Write bit tells. */
    if (value & X64_WRITE)
        out->allow |= KDMP_T_WRITABLE;
    out->flags = (value & X64_G ? KDMP_T_GLOBAL : 0u)
                 | (value & X64_A ? KDMP_T_ACCESSED : 0u)
                 | (value & X64_D ? KDMP_T_DIRTY : 0u)
                 | (value & X64_PWT ? KDMP_T_WRITE_THROUGH : 0u)
                 | (value & X64_PCD ? KDMP_T_CACHE_DISABLE : 0u)
                 | (value & pat ? KDMP_T_PAT : 0u)
                 | (value & X64_COPY_ON_WRITE ? KDMP_T_COPY_ON_WRITE : 0u);
}

KDMP_INLINE void
x64_decode_levels(uint64_t value, int level, int top, uint64_t vaddr,
                  struct mmu_step *out)
{
    out->flags = 0;
    if (!(value & X64_P)) {
        out->kind = MMU_INVALID;
        return;
    }
    out->allow =
        (value & X64_RW ? KDMP_T_WRITABLE | KDMP_T_HARDWARE_WRITABLE : 0u)
        | (value & X64_US ? KDMP_T_USER : 0u)
        | (value & X64_NX ? 0u : KDMP_T_EXECUTABLE | KDMP_T_KERNEL_EXECUTABLE);
    if (level == 1 || (value & X64_PS && level <= 3)) {
        x64_decode_leaf(value, level, out);
        return;
    }
    if (value & X64_PS) {
        out->kind = MMU_BAD;
        return;
    }
    out->kind = MMU_TABLE;
    out->base = value & X64_ADDRESS;
    /* KVA shadow sets NX in the top-level user entries of the kernel's tables
     * to catch a kernel that returns to user mode with the wrong tables: it
     * says nothing about the page. */
    if (level == top && value & X64_NX && !(vaddr >> 63)) {
        out->allow |= KDMP_T_EXECUTABLE;
        out->flags = KDMP_T_TOP_NX_IGNORED;
    }
}

KDMP_INLINE void
x64_decode(uint64_t value, int level, uint64_t vaddr, struct mmu_step *out)
{
    x64_decode_levels(value, level, 4, vaddr, out);
}

KDMP_INLINE void
la57_decode(uint64_t value, int level, uint64_t vaddr, struct mmu_step *out)
{
    x64_decode_levels(value, level, 5, vaddr, out);
}

/* From Windows 10 1809 (17763) on, and in kernels serviced since 2018-08. */
#define X64_FORMAT                                                             \
    {.frame_mask = X64_ADDRESS,                                                \
     .swizzle = 4,                                                             \
     .protection = 5,                                                          \
     .prototype_protection = 5,                                                \
     .prototype_read_only = 3,                                                 \
     .prototype_address = 16,                                                  \
     .pagefile_low = 12,                                                       \
     .pagefile_high = 32}

static const struct mmu mmu_x64 = {
    .levels = 4,
    .entry_size = 8,
    .root_mask = X64_ADDRESS,
    .last_address = UINT64_MAX,
    .hole = x64_hole,
    .shift = x64_shift,
    .index_bits = x64_index_bits,
    .decode = x64_decode,
    .paged_levels = 4,
    .format = X64_FORMAT,
};

static const struct mmu mmu_la57 = {
    .levels = 5,
    .entry_size = 8,
    .root_mask = X64_ADDRESS,
    .last_address = UINT64_MAX,
    .hole = la57_hole,
    .shift = x64_shift,
    .index_bits = x64_index_bits,
    .decode = la57_decode,
    .paged_levels = 5,
    .format = X64_FORMAT,
};

#endif /* KDMP_MMU_X64_H */
