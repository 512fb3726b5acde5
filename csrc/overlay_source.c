/*
 * overlay_source.c: an overlay as a page source, and its list of frames.
 *
 * SPDX-License-Identifier: MIT
 */
#include "overlay_internal.h"

/* A place in the overlay's own pages, given as one in the file. */
#define IN_OVERLAY (UINT64_C(1) << 63)

/* How many of 'pages' frames from 'pfn' on are the base's own. */
static uint64_t
untouched(const struct kdmp_overlay *o, uint64_t pfn, uint64_t pages)
{
    uint64_t i;

    if (pages <= o->version_count) {
        for (i = 0; i < pages; i++)
            if (pfn_map_find(&o->index, pfn + i) != PFN_MAP_NONE)
                return i;
        return pages;
    }
    for (i = 0; i < o->version_count; i++) {
        uint64_t other = o->versions[i].pfn;

        if (other >= pfn && other - pfn < pages)
            pages = other - pfn;
    }
    return pages;
}

static enum kdmp_status
overlay_locate(const struct kdmp_source *self, uint64_t paddr, uint64_t want,
               struct kdmp_extent *out)
{
    const struct kdmp_overlay *o = self->context;
    uint64_t in_page = paddr & (PAGE_SIZE - 1), pages;
    const struct version *version = find_version(o, paddr >> PAGE_SHIFT);
    enum kdmp_status status;

    if (version != NULL && version->kind == V_REMAP) {
        paddr = version->target << PAGE_SHIFT | in_page;
        want = min_u64(want, PAGE_SIZE - in_page);
        /* A target is not remapped itself. */
        version = find_version(o, version->target);
        if (version == NULL)
            return o->base->locate(o->base, paddr, want, out);
    }
    if (version != NULL) {
        out->ptr = o->copies ? NULL : version->page + in_page;
        out->file_offset = IN_OVERLAY | version->pfn << PAGE_SHIFT | in_page;
        out->length = min_u64(want, PAGE_SIZE - in_page);
        return KDMP_OK;
    }
    status = o->base->locate(o->base, paddr, want, out);
    if (out->length <= PAGE_SIZE - in_page)
        return status;
    pages = (out->length - 1 + in_page) / PAGE_SIZE + 1;
    pages = untouched(o, paddr >> PAGE_SHIFT, pages);
    out->length = min_u64(out->length, (pages << PAGE_SHIFT) - in_page);
    return status;
}

static enum kdmp_status
overlay_read_file(const struct kdmp_source *self, uint64_t file_offset,
                  void *buffer, size_t size)
{
    const struct kdmp_overlay *o = self->context;
    const struct version *version;
    struct kdmp_extent extent;
    enum kdmp_status status;
    uint64_t paddr = file_offset & ~IN_OVERLAY;

    if (!(file_offset & IN_OVERLAY))
        return o->base->read_file(o->base, file_offset, buffer, size);
    version = find_version(o, paddr >> PAGE_SHIFT);
    if (version != NULL && version->kind == V_PAGE) {
        memcpy(buffer, version->page + (paddr & (PAGE_SIZE - 1)), size);
        return KDMP_OK;
    }
    /* It has been taken back since it was located. */
    status = o->base->locate(o->base, paddr, size, &extent);
    if (status != KDMP_OK || extent.length < size)
        return KDMP_E_NOT_IN_DUMP;
    return o->base->read_file(o->base, extent.file_offset, buffer, size);
}

/* The base's runs, and the frames that were made up, which have no place in
 * a file. */
static int
overlay_next_run(const struct kdmp_source *self, uint64_t pfn,
                 struct kdmp_run *out)
{
    const struct kdmp_overlay *o = self->context;
    int found = o->base->next_run(o->base, pfn, out);
    uint64_t i, best = UINT64_MAX;

    for (i = 0; i < o->version_count && o->synthetic_count > 0; i++)
        if (o->versions[i].synthetic && o->versions[i].pfn >= pfn)
            best = min_u64(best, o->versions[i].pfn);
    if (best == UINT64_MAX || (found && out->pfn < best))
        return found;
    out->pfn = best;
    out->count = 1;
    out->file_offset = 0;
    return 1;
}

enum kdmp_status
kdmp_overlay_exists(const struct kdmp_overlay *o, uint64_t paddr)
{
    struct kdmp_extent extent;

    return overlay_locate(&o->source, paddr, 1, &extent);
}

void
kdmp_overlay_init_source(struct kdmp_overlay *o)
{
    o->source.locate = overlay_locate;
    o->source.read_file = overlay_read_file;
    o->source.next_run = overlay_next_run;
    o->source.context = o;
}

/* ---- the frames that are not the base's ---- */

uint64_t
kdmp_overlay_count(const struct kdmp_overlay *o)
{
    return o->version_count;
}

static void
describe(const struct version *version, struct kdmp_overlay_frame *out)
{
    memset(out, 0, sizeof(*out));
    out->pfn = version->pfn;
    out->bytes = version->page;
    out->target = version->target;
    out->remapped = version->kind == V_REMAP;
    out->synthetic = version->synthetic;
}

int
kdmp_overlay_get(const struct kdmp_overlay *o, uint64_t number,
                 struct kdmp_overlay_frame *out)
{
    if (number >= o->version_count)
        return 0;
    describe(&o->versions[number], out);
    return 1;
}

int
kdmp_overlay_find(const struct kdmp_overlay *o, uint64_t pfn,
                  struct kdmp_overlay_frame *out)
{
    const struct version *version = find_version(o, pfn);

    if (version == NULL)
        return 0;
    describe(version, out);
    return 1;
}

uint64_t
kdmp_overlay_remap_count(const struct kdmp_overlay *o)
{
    return o->remap_count;
}

int
kdmp_overlay_get_remap(const struct kdmp_overlay *o, uint64_t number,
                       struct kdmp_overlay_frame *out)
{
    return number < o->remap_count
           && kdmp_overlay_find(o, o->remaps[number].pfn, out);
}
