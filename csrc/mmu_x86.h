/*
 * mmu_x86.h: 32-bit x86 page-table entries, without and with PAE.
 *
 * Bits as in the Intel SDM, volume 3A, chapter "Paging"; software bits as in
 * the x86 _MMPTE types.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef KDMP_MMU_X86_H
#define KDMP_MMU_X86_H

#include "mmu_x64.h"

/* ---- two levels, 4-byte entries ---- */

KDMP_INLINE unsigned
x86_shift(int level)
{
    return level == 1 ? 12 : 22;
}

KDMP_INLINE unsigned
x86_index_bits(int level)
{
    (void)level;
    return 10;
}

KDMP_INLINE uint64_t
x86_hole(uint64_t vaddr)
{
    (void)vaddr;
    return 0;
}

KDMP_INLINE void
x86_decode(uint64_t value, int level, uint64_t vaddr, struct mmu_step *out)
{
    uint64_t pfn_high = value >> 13 & 0xff;

    (void)vaddr;
    out->flags = 0;
    if (!(value & X64_P)) {
        out->kind = MMU_INVALID;
        return;
    }
    out->allow =
        (value & X64_RW ? KDMP_T_WRITABLE | KDMP_T_HARDWARE_WRITABLE : 0u)
        | (value & X64_US ? KDMP_T_USER : 0u) | KDMP_T_EXECUTABLE
        | KDMP_T_KERNEL_EXECUTABLE;
    if (level == 2 && !(value & X64_PS)) {
        out->kind = MMU_TABLE;
        out->base = value & 0xFFFFF000;
        return;
    }
    x64_decode_leaf(value, level, out);
    out->base = value & 0xFFFFF000;
    if (level == 2) /* PSE-36: bits 13-20 are address bits 32-39 */
        out->base = (value & 0xFFC00000) | pfn_high << 32;
}

static const struct mmu mmu_x86 = {
    .levels = 2,
    .entry_size = 4,
    .root_mask = 0xFFFFF000,
    .last_address = UINT32_MAX,
    .hole = x86_hole,
    .shift = x86_shift,
    .index_bits = x86_index_bits,
    .decode = x86_decode,
    .paged_levels = 2,
    /* Vista and 7, the last that came without PAE. */
    .format = {.frame_mask = 0xFFFFF000,
               .protection = 5,
               .prototype_protection = 63, /* there is no such field */
               .prototype_read_only = 9,
               .prototype_split = 1,
               .pagefile_low = 1,
               .pagefile_high = 12},
};

/* ---- PAE: three levels, 8-byte entries, a root of four ---- */

/* Bits that must be 0 in a present PDPTE: 1, 2, 5-8 and 63. */
#define PAE_PDPTE_RESERVED (X64_NX | 0x1E6)
#define PAE_FRAME UINT64_C(0x0000003FFFFFF000) /* Windows: PFN in 12-37 */

KDMP_INLINE unsigned
pae_index_bits(int level)
{
    return level == 3 ? 2 : 9;
}

KDMP_INLINE void
pae_decode(uint64_t value, int level, uint64_t vaddr, struct mmu_step *out)
{
    if (level < 3) {
        x64_decode_levels(value, level, 4, vaddr, out);
        return;
    }
    /* A PDPTE has no rights of its own and maps no page. */
    out->flags = 0;
    out->allow = RIGHTS;
    out->base = value & X64_ADDRESS;
    if (!(value & X64_P))
        out->kind = MMU_INVALID;
    else if (value & PAE_PDPTE_RESERVED)
        out->kind = MMU_BAD;
    else
        out->kind = MMU_TABLE;
}

static const struct mmu mmu_pae = {
    .levels = 3,
    .entry_size = 8,
    .root_mask = 0xFFFFFFE0,
    .last_address = UINT32_MAX,
    .hole = x86_hole,
    .shift = x64_shift,
    .index_bits = pae_index_bits,
    .decode = pae_decode,
    .paged_levels = 2,
    .format = {.frame_mask = PAE_FRAME,
               .swizzle = 4,
               .protection = 5,
               .prototype_protection = 5,
               .prototype_read_only = 3,
               .prototype_address = 32,
               .pagefile_low = 12,
               .pagefile_high = 32},
};

#endif /* KDMP_MMU_X86_H */
