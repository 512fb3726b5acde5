/*
 * tlb.h: what walks remember: where pages are, and where tables lie.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef KDMP_TLB_H
#define KDMP_TLB_H

#include "internal.h"

/* Where the bytes of a table lie in memory: direct mapped by frame number.
 * Walks come to the same few tables again and again, and to look a frame up
 * costs more than to read an entry. */
struct table_place {
    uint64_t pfn_plus_1; /* 0: empty */
    const uint8_t *bytes;
};

enum { TABLE_PLACES_SHIFT = 10, TABLE_PLACES = 1 << TABLE_PLACES_SHIFT };

KDMP_INLINE struct table_place *
table_place_of(struct table_place *places, uint64_t pfn)
{
    return &places[pfn * UINT64_C(0x9E3779B97F4A7C15)
                   >> (64 - TABLE_PLACES_SHIFT)];
}

struct page_place {
    uint64_t page; /* vaddr with the low bit set; 0: empty */
    uint64_t paddr;
};

struct kdmp_tlb {
    /* Of the dump itself, mapped: nothing makes them wrong, not even writes
     * to an overlay.  NULL until needed, as the pages. */
    struct table_place *tables;
    struct page_place *pages;
    uint64_t capacity; /* pages */
    struct kdmp_overlay *overlay;
    uint64_t epoch;
    uint64_t hits;
    uint64_t misses;
    uint64_t size;
};

/* The physical address of 'vaddr', if it is known: 1, else 0. */
int kdmp_tlb_find(struct kdmp_tlb *tlb, uint64_t vaddr, uint64_t *paddr_out);

/* Remember a walk that succeeded. */
void kdmp_tlb_keep(struct kdmp_tlb *tlb, const struct kdmp_translation *walk);

/* Remember where the dump has a frame. */
void kdmp_tlb_keep_table(struct kdmp_tlb *tlb, uint64_t pfn,
                         const uint8_t *bytes);

#endif /* KDMP_TLB_H */
