/*
 * tlb.c: remember where pages are, for reads that come back to them.
 *
 * Direct mapped: a page has one place, and whoever comes later takes it.  The
 * table is allocated with the first page that is kept.
 *
 * SPDX-License-Identifier: MIT
 */
#include "internal.h"

struct place {
    uint64_t page; /* vaddr with the low bit set; 0: empty */
    uint64_t paddr;
};

struct kdmp_tlb {
    struct place *places; /* NULL until needed */
    uint64_t capacity;
    struct kdmp_overlay *overlay;
    uint64_t epoch;
    uint64_t hits;
    uint64_t misses;
    uint64_t size;
};

/* The place of a page, out of 'capacity' many. */
static struct place *
place_of(const struct kdmp_tlb *tlb, uint64_t vaddr)
{
    uint64_t hash = (vaddr >> PAGE_SHIFT) * UINT64_C(0x9E3779B97F4A7C15) >> 32;

    return &tlb->places[hash * tlb->capacity >> 32];
}

static uint64_t
page_of(uint64_t vaddr)
{
    return (vaddr & ~(uint64_t)(PAGE_SIZE - 1)) | 1;
}

/* Empty the cache if a page table has changed. */
static void
catch_up(struct kdmp_tlb *tlb)
{
    uint64_t epoch;

    if (tlb->overlay == NULL)
        return;
    epoch = kdmp_overlay_epoch(tlb->overlay);
    if (epoch != tlb->epoch)
        kdmp_tlb_flush(tlb);
    tlb->epoch = epoch;
}

int
kdmp_tlb_find(struct kdmp_tlb *tlb, uint64_t vaddr, uint64_t *paddr_out)
{
    const struct place *place;

    catch_up(tlb);
    if (tlb->places != NULL) {
        place = place_of(tlb, vaddr);
        if (place->page == page_of(vaddr)) {
            tlb->hits++;
            *paddr_out = place->paddr | (vaddr & (PAGE_SIZE - 1));
            return 1;
        }
    }
    tlb->misses++;
    return 0;
}

/* Whether all that the walk depends on is known to the overlay. */
static int
note_tables(struct kdmp_tlb *tlb, const struct kdmp_translation *walk)
{
    int i;

    if (tlb->overlay == NULL)
        return 1;
    if (walk->prototype != 0) /* where its PTE is in memory is not known */
        return 0;
    for (i = 0; i < walk->depth; i++)
        if (kdmp_overlay_note_table(tlb->overlay,
                                    walk->entries[i].paddr >> PAGE_SHIFT)
            != KDMP_OK)
            return 0;
    return 1;
}

void
kdmp_tlb_keep(struct kdmp_tlb *tlb, const struct kdmp_translation *walk)
{
    struct place *place;

    if (!note_tables(tlb, walk))
        return;
    if (tlb->places == NULL)
        tlb->places = kdmp_calloc(tlb->capacity, sizeof(*tlb->places));
    if (tlb->places == NULL)
        return; /* a cache may fail */
    place = place_of(tlb, walk->vaddr);
    tlb->size += place->page == 0;
    place->page = page_of(walk->vaddr);
    place->paddr = walk->paddr & ~(uint64_t)(PAGE_SIZE - 1);
}

void
kdmp_tlb_flush(struct kdmp_tlb *tlb)
{
    if (tlb->places != NULL)
        memset(tlb->places, 0, (size_t)tlb->capacity * sizeof(*tlb->places));
    tlb->size = 0;
}

int
kdmp_tlb_flush_page(struct kdmp_tlb *tlb, uint64_t vaddr)
{
    struct place *place;

    if (tlb->places == NULL)
        return 0;
    place = place_of(tlb, vaddr);
    if (place->page != page_of(vaddr))
        return 0;
    place->page = 0;
    tlb->size--;
    return 1;
}

enum kdmp_status
kdmp_tlb_resize(struct kdmp_tlb *tlb, uint64_t capacity)
{
    if (capacity == 0 || capacity > UINT32_MAX)
        return KDMP_E_ARGUMENT;
    kdmp_free(tlb->places);
    tlb->places = NULL;
    tlb->capacity = capacity;
    tlb->size = 0;
    return KDMP_OK;
}

enum kdmp_status
kdmp_tlb_open(uint64_t capacity, struct kdmp_overlay *overlay,
              struct kdmp_tlb **out)
{
    struct kdmp_tlb *tlb = kdmp_calloc(1, sizeof(*tlb));

    *out = tlb;
    if (tlb == NULL)
        return KDMP_E_NOMEM;
    tlb->overlay = overlay;
    if (overlay != NULL)
        tlb->epoch = kdmp_overlay_epoch(overlay);
    if (kdmp_tlb_resize(tlb, capacity) != KDMP_OK) {
        kdmp_free(tlb);
        *out = NULL;
        return KDMP_E_ARGUMENT;
    }
    return KDMP_OK;
}

void
kdmp_tlb_get_info(const struct kdmp_tlb *tlb, struct kdmp_tlb_info *out)
{
    out->hits = tlb->hits;
    out->misses = tlb->misses;
    out->size = tlb->size;
    out->capacity = tlb->capacity;
}

void
kdmp_tlb_close(struct kdmp_tlb *tlb)
{
    if (tlb == NULL)
        return;
    kdmp_free(tlb->places);
    kdmp_free(tlb);
}
