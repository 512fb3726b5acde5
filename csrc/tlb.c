/*
 * tlb.c: remember where pages are, for reads that come back to them, and where
 * tables lie.
 *
 * Direct mapped: a page has one place, and whoever comes later takes it.  What
 * is kept is allocated with the first that is.
 *
 * SPDX-License-Identifier: MIT
 */
#include "tlb.h"

/* The place of a page, out of 'capacity' many. */
static struct page_place *
place_of(const struct kdmp_tlb *tlb, uint64_t vaddr)
{
    uint64_t hash = (vaddr >> PAGE_SHIFT) * UINT64_C(0x9E3779B97F4A7C15) >> 32;

    return &tlb->pages[hash * tlb->capacity >> 32];
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
    const struct page_place *place;

    catch_up(tlb);
    if (tlb->pages != NULL) {
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
    struct page_place *place;

    if (!note_tables(tlb, walk))
        return;
    if (tlb->pages == NULL)
        tlb->pages = kdmp_calloc(tlb->capacity, sizeof(*tlb->pages));
    if (tlb->pages == NULL)
        return; /* a cache may fail */
    place = place_of(tlb, walk->vaddr);
    tlb->size += place->page == 0;
    place->page = page_of(walk->vaddr);
    place->paddr = walk->paddr & ~(uint64_t)(PAGE_SIZE - 1);
}

void
kdmp_tlb_keep_table(struct kdmp_tlb *tlb, uint64_t pfn, const uint8_t *bytes)
{
    struct table_place *place;

    if (tlb->tables == NULL)
        tlb->tables = kdmp_calloc(TABLE_PLACES, sizeof(*tlb->tables));
    if (tlb->tables == NULL)
        return; /* a cache may fail */
    place = table_place_of(tlb->tables, pfn);
    place->pfn_plus_1 = pfn + 1;
    place->bytes = bytes;
}

void
kdmp_tlb_flush(struct kdmp_tlb *tlb)
{
    if (tlb->pages != NULL)
        memset(tlb->pages, 0, (size_t)tlb->capacity * sizeof(*tlb->pages));
    tlb->size = 0;
}

int
kdmp_tlb_flush_page(struct kdmp_tlb *tlb, uint64_t vaddr)
{
    struct page_place *place;

    if (tlb->pages == NULL)
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
    kdmp_free(tlb->pages);
    tlb->pages = NULL;
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
    kdmp_free(tlb->tables);
    kdmp_free(tlb->pages);
    kdmp_free(tlb);
}
