/*
 * mmu_arm64.h: ARM64 descriptors as Windows uses them: 4 KiB granule, 48-bit
 * addresses, four levels, one root page for both halves.
 *
 * Levels are numbered as for x64: 4 is the Arm ARM's level 0, 1 its level 3.
 * Software bits as in the ARM64 _MMPTE types.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef KDMP_MMU_ARM64_H
#define KDMP_MMU_ARM64_H

#include "mmu_x64.h"

#define ARM64_ADDRESS UINT64_C(0x0000FFFFFFFFF000) /* bits 12-47 */
#define ARM64_BIT(n) (UINT64_C(1) << (n))
#define ARM64_EL0 ARM64_BIT(6)
#define ARM64_READ_ONLY ARM64_BIT(7)
#define ARM64_ACCESSED ARM64_BIT(10)
#define ARM64_NOT_GLOBAL ARM64_BIT(11)
#define ARM64_PXN ARM64_BIT(53)
#define ARM64_UXN ARM64_BIT(54)
#define ARM64_WRITABLE ARM64_BIT(55)      /* software */
#define ARM64_COPY_ON_WRITE ARM64_BIT(56) /* software */
#define ARM64_PXN_TABLE ARM64_BIT(59)
#define ARM64_UXN_TABLE ARM64_BIT(60)
#define ARM64_NO_EL0_TABLE ARM64_BIT(61)
#define ARM64_READ_ONLY_TABLE ARM64_BIT(62)

/* "Executable" means by the one whose half it is: EL1 for kernel addresses,
 * EL0 for user addresses. */
KDMP_INLINE uint32_t
arm64_execute(int no_el1, int no_el0, uint64_t vaddr)
{
    int kernel = (int)(vaddr >> 63);

    return ((kernel ? no_el1 : no_el0) ? 0u : KDMP_T_EXECUTABLE)
           | (no_el1 ? 0u : KDMP_T_KERNEL_EXECUTABLE);
}

KDMP_INLINE void
arm64_decode(uint64_t value, int level, uint64_t vaddr, struct mmu_step *out)
{
    int is_table = level > 1 && (value & 3) == 3;

    out->flags = 0;
    out->base = value & ARM64_ADDRESS;
    if (!(value & 1)) {
        out->kind = MMU_INVALID;
        return;
    }
    if (is_table) {
        out->kind = MMU_TABLE;
        out->allow = (value & ARM64_READ_ONLY_TABLE
                          ? 0u
                          : KDMP_T_WRITABLE | KDMP_T_HARDWARE_WRITABLE)
                     | (value & ARM64_NO_EL0_TABLE ? 0u : KDMP_T_USER)
                     | arm64_execute((value & ARM64_PXN_TABLE) != 0,
                                     (value & ARM64_UXN_TABLE) != 0, vaddr);
        return;
    }
    /* 01 is a block at the two middle levels and reserved elsewhere. */
    if (level == 4 || (level == 1 && (value & 3) == 1)) {
        out->kind = MMU_BAD;
        return;
    }
    out->kind = MMU_LEAF;
    out->base &= ~(ARM64_BIT(x64_shift(level)) - 1);
    out->allow =
        (value & ARM64_READ_ONLY ? 0u
                                 : KDMP_T_WRITABLE | KDMP_T_HARDWARE_WRITABLE)
        | (value & ARM64_WRITABLE ? KDMP_T_WRITABLE : 0u)
        | (value & ARM64_EL0 ? KDMP_T_USER : 0u)
        | arm64_execute((value & ARM64_PXN) != 0, (value & ARM64_UXN) != 0,
                        vaddr);
    /* Windows names the read-only bit NotDirty. */
    out->flags = (value & ARM64_NOT_GLOBAL ? 0u : KDMP_T_GLOBAL)
                 | (value & ARM64_ACCESSED ? KDMP_T_ACCESSED : 0u)
                 | (value & ARM64_READ_ONLY ? 0u : KDMP_T_DIRTY)
                 | (value & ARM64_COPY_ON_WRITE ? KDMP_T_COPY_ON_WRITE : 0u);
}

static const struct mmu mmu_arm64 = {
    .levels = 4,
    .entry_size = 8,
    .root_mask = ARM64_ADDRESS,
    .last_address = UINT64_MAX,
    .hole = x64_hole,
    .shift = x64_shift,
    .index_bits = x64_index_bits,
    .decode = arm64_decode,
    .paged_levels = 4,
    .format = {.frame_mask = ARM64_ADDRESS,
               .protection = 1,
               .prototype_protection = 1,
               .prototype_read_only = 8,
               .prototype_address = 16,
               .pagefile_low = 6,
               .pagefile_high = 32},
};

#endif /* KDMP_MMU_ARM64_H */
