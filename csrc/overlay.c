/*
 * overlay.c: writes over a page source that never changes.
 *
 * A frame is copied when it is first written; reads see the copies.  With
 * snapshots the version that a snapshot needs is kept: each frame has the
 * generation in which its version was made, and the first write in a later
 * one puts the old version in the undo log.  Going back pops the log, so it
 * costs what was changed, not what there is.
 *
 * SPDX-License-Identifier: MIT
 */
#include "overlay_internal.h"
#include "tlb.h"

/* ---- memory ---- */

void *
kdmp_overlay_grow(void *array, uint64_t *room, uint64_t used, uint64_t count,
                  uint64_t size)
{
    uint64_t wanted = *room != 0 ? *room : 16;
    void *grown;

    if (count <= *room && array != NULL)
        return array;
    while (wanted < count)
        wanted *= 2;
    grown = kdmp_calloc(wanted, size);
    if (grown == NULL)
        return NULL;
    if (used != 0)
        memcpy(grown, array, (size_t)(used * size));
    kdmp_free(array);
    *room = wanted;
    return grown;
}

static int
room_for_versions(struct kdmp_overlay *o, uint64_t more)
{
    void *grown;

    if (kdmp_pfn_map_reserve(&o->index, more) < 0)
        return -1;
    if (!ROOM(o, versions, version, more))
        return -1;
    o->versions = grown;
    if (!ROOM(o, remaps, remap, more))
        return -1;
    o->remaps = grown;
    return 0;
}

/* A page to fill; NULL without memory.  'spare' always has room for all. */
static uint8_t *
new_page(struct kdmp_overlay *o)
{
    void *grown;
    uint8_t *page;

    if (o->spare_count > 0)
        return o->spare[--o->spare_count];
    if (!ROOM(o, spare, spare, o->page_count + 1 - o->spare_count))
        return NULL;
    o->spare = grown;
    page = kdmp_calloc(1, PAGE_SIZE);
    if (page != NULL)
        o->page_count++;
    return page;
}

static void
free_page(struct kdmp_overlay *o, uint8_t *page)
{
    if (page != NULL)
        o->spare[o->spare_count++] = page;
}

/* ---- versions ---- */

static void
set_clean(struct kdmp_overlay *o)
{
    o->source.clean = o->version_count == 0 ? o->base : NULL;
}

/* Count a version that is in 'versions' from now on. */
static void
count_in(struct kdmp_overlay *o, const struct version *version)
{
    o->synthetic_count += version->synthetic;
    /* A transition PTE may mean one frame or another by which exists. */
    o->epoch += version->synthetic;
    if (version->kind == V_REMAP)
        o->remaps[o->remap_count++] =
            (struct remap){version->pfn, version->target};
}

/* ... or no more. */
static void
count_out(struct kdmp_overlay *o, const struct version *version)
{
    uint64_t at = 0;

    o->synthetic_count -= version->synthetic;
    o->epoch += version->synthetic;
    if (version->kind != V_REMAP)
        return;
    while (o->remaps[at].pfn != version->pfn)
        at++;
    o->remaps[at] = o->remaps[--o->remap_count];
}

/* Take a version out; its page is the caller's. */
static void
drop(struct kdmp_overlay *o, struct version *version)
{
    struct version *last = &o->versions[o->version_count - 1];

    kdmp_pfn_map_remove(&o->index, version->pfn);
    count_out(o, version);
    if (version != last) {
        *version = *last;
        kdmp_pfn_map_set(&o->index, version->pfn,
                         (uint32_t)(version - o->versions));
    }
    o->version_count--;
    set_clean(o);
}

/* Put a version in the place of whatever stands for its frame; there must be
 * room.  Its page is the overlay's from now on. */
static void
put_version(struct kdmp_overlay *o, const struct version *version)
{
    struct version *old = find_version(o, version->pfn);

    if (version->kind == V_NONE) {
        if (old != NULL)
            drop(o, old);
        return;
    }
    if (old == NULL) {
        old = &o->versions[o->version_count++];
        kdmp_pfn_map_set(&o->index, version->pfn,
                         (uint32_t)(old - o->versions));
    } else {
        count_out(o, old);
    }
    *old = *version;
    count_in(o, old);
    set_clean(o);
}

/* Take entries out of the log, from 'from' to before 'to': all of them, or
 * with 'seen' those of frames that an earlier one of them is about, which
 * alone matters to an older snapshot. */
static void
trim_log(struct kdmp_overlay *o, uint64_t from, uint64_t to,
         struct pfn_map *seen)
{
    uint64_t kept = from, i;

    for (i = from; i < to; i++) {
        if (seen != NULL
            && pfn_map_find(seen, o->undo[i].pfn) == PFN_MAP_NONE) {
            kdmp_pfn_map_set(seen, o->undo[i].pfn, 0);
            o->undo[kept++] = o->undo[i];
        } else {
            free_page(o, o->undo[i].page);
        }
    }
    memmove(&o->undo[kept], &o->undo[to],
            (size_t)(o->undo_count - to) * sizeof(*o->undo));
    o->undo_count -= to - kept;
    for (i = 0; i < o->snapshot_count; i++)
        if (o->snapshots[i].undo_count >= to)
            o->snapshots[i].undo_count -= to - kept;
}

/* A frame that is written and reverted over and over is in the log each time,
 * though only the first entry matters: drop the others.  Without memory the
 * log stays as it is, which is not wrong. */
static void
shorten_log(struct kdmp_overlay *o)
{
    struct pfn_map seen = {0};
    uint64_t from;

    if (o->snapshot_count == 0)
        return;
    from = o->snapshots[o->snapshot_count - 1].undo_count;
    if (from == o->undo_count)
        return;
    if (kdmp_pfn_map_reserve(&seen, o->undo_count - from) == 0)
        trim_log(o, from, o->undo_count, &seen);
    kdmp_pfn_map_deinit(&seen);
}

static int
room_for_undo(struct kdmp_overlay *o)
{
    void *grown;

    if (o->undo_count < o->undo_room)
        return 0;
    shorten_log(o);
    if (o->undo_room != 0 && o->undo_count < o->undo_room / 2)
        return 0;
    /* Otherwise the next time would be near. */
    grown = kdmp_overlay_grow(o->undo, &o->undo_room, o->undo_count,
                              o->undo_room + 1, sizeof(*o->undo));
    if (grown == NULL)
        return o->undo_count < o->undo_room ? 0 : -1;
    o->undo = grown;
    return 0;
}

/* Keep what stands for a frame, if a snapshot needs it, and tell the caller
 * what to do with its page: 1 if it is free to be used. */
static int
retire(struct kdmp_overlay *o, uint64_t pfn, const struct version *old)
{
    struct version none = {.pfn = pfn};

    if (o->snapshot_count == 0)
        return 1;
    if (old != NULL && old->born == o->generation)
        return 1;
    o->undo[o->undo_count++] = old != NULL ? *old : none;
    return 0;
}

/* Replace what stands for a frame; -1 without memory. */
static int
replace(struct kdmp_overlay *o, struct version *version)
{
    struct version *old;

    if (room_for_versions(o, 1) < 0 || room_for_undo(o) < 0)
        return -1;
    old = find_version(o, version->pfn);
    version->born = o->generation;
    if (retire(o, version->pfn, old) && old != NULL)
        free_page(o, old->page);
    put_version(o, version);
    return 0;
}

/* ---- being a page source ---- */

static int
in_base(const struct kdmp_overlay *o, uint64_t pfn)
{
    struct kdmp_extent extent;

    return o->base->locate(o->base, pfn << PAGE_SHIFT, PAGE_SIZE, &extent)
           == KDMP_OK;
}

/* ---- changing frames ---- */

/* Copy a whole frame of the base. */
static enum kdmp_status
copy_base(const struct kdmp_overlay *o, uint64_t pfn, uint8_t *page)
{
    uint64_t done = 0;

    while (done < PAGE_SIZE) {
        struct kdmp_extent extent;
        enum kdmp_status status = o->base->locate(
            o->base, (pfn << PAGE_SHIFT) + done, PAGE_SIZE - done, &extent);

        if (status != KDMP_OK)
            return status;
        if (extent.ptr != NULL)
            memcpy(page + done, extent.ptr, (size_t)extent.length);
        else
            status = o->base->read_file(o->base, extent.file_offset,
                                        page + done, (size_t)extent.length);
        if (status != KDMP_OK)
            return status;
        done += extent.length;
    }
    return KDMP_OK;
}

/* The bytes of a frame, to be written: those of this generation. */
static enum kdmp_status
writable_page(struct kdmp_overlay *o, uint64_t pfn, uint8_t **page_out)
{
    struct version *old = find_version(o, pfn),
                   fresh = {.pfn = pfn, .kind = V_PAGE};
    enum kdmp_status status = KDMP_OK;

    if (old != NULL && old->kind == V_REMAP) {
        pfn = fresh.pfn = old->target;
        old = find_version(o, pfn); /* not remapped, see kdmp_overlay_remap() */
    }
    if (old != NULL && (o->snapshot_count == 0 || old->born == o->generation)) {
        *page_out = old->page;
        return KDMP_OK;
    }
    fresh.page = new_page(o);
    if (fresh.page == NULL)
        return KDMP_E_NOMEM;
    if (old != NULL) {
        memcpy(fresh.page, old->page, PAGE_SIZE);
        fresh.synthetic = old->synthetic;
    } else {
        status = copy_base(o, pfn, fresh.page);
    }
    /* Reading a stream may let others change the overlay meanwhile. */
    if (status == KDMP_OK && old == NULL && find_version(o, pfn) != NULL) {
        free_page(o, fresh.page);
        return writable_page(o, pfn, page_out);
    }
    if (status == KDMP_OK && replace(o, &fresh) < 0)
        status = KDMP_E_NOMEM;
    if (status != KDMP_OK) {
        free_page(o, fresh.page);
        return status;
    }
    *page_out = fresh.page;
    return KDMP_OK;
}

/* The frame that a write to 'pfn' goes to. */
static uint64_t
target_of(const struct kdmp_overlay *o, uint64_t pfn)
{
    const struct version *version = find_version(o, pfn);

    return version != NULL && version->kind == V_REMAP ? version->target : pfn;
}

static enum kdmp_status
write_physical(struct kdmp_overlay *o, uint64_t paddr, const uint8_t *data,
               uint64_t size)
{
    uint8_t *page;
    uint64_t pfn = paddr >> PAGE_SHIFT, in_page = paddr & (PAGE_SIZE - 1);
    enum kdmp_status status = writable_page(o, pfn, &page);

    if (status != KDMP_OK)
        return status;
    memcpy(page + in_page, data, (size_t)size);
    kdmp_overlay_touched(o, target_of(o, pfn), in_page, size);
    return KDMP_OK;
}

enum kdmp_status
kdmp_overlay_resolve(const struct kdmp_overlay *o,
                     const struct kdmp_space *space, uint64_t address,
                     uint64_t *paddr_out, struct kdmp_fault *fault)
{
    struct kdmp_translation walk;
    uint8_t byte;
    uint64_t done;
    enum kdmp_status status;

    *paddr_out = address;
    if (space->paging == KDMP_PAGING_PHYSICAL) {
        if (kdmp_overlay_exists(o, address) == KDMP_OK)
            return KDMP_OK;
    } else if (space->tlb != NULL
               && kdmp_tlb_find(space->tlb, address, paddr_out)
               && kdmp_overlay_exists(o, *paddr_out) == KDMP_OK) {
        return KDMP_OK;
    }
    /* Reading one byte says everything that can be wrong. */
    status = kdmp_read(space, address, &byte, 1, &done, fault);
    if (status != KDMP_OK || space->paging == KDMP_PAGING_PHYSICAL)
        return status;
    status = kdmp_translate(space, address, &walk);
    if (status != KDMP_OK) { /* supplied by a page file, or as zeros */
        if (fault != NULL) {
            memset(fault, 0, sizeof(*fault));
            fault->status = status;
            fault->address = address;
            fault->missing = 1;
            fault->walk = walk;
        }
        return status;
    }
    *paddr_out = walk.paddr;
    return kdmp_overlay_exists(o, walk.paddr);
}

/* Where page number 'page' of a write begins. */
static uint64_t
address_of(uint64_t address, uint64_t page)
{
    return page == 0
               ? address
               : (address & ~(uint64_t)(PAGE_SIZE - 1)) + page * PAGE_SIZE;
}

/* Say what went wrong, if nobody has. */
static enum kdmp_status
name_fault(struct kdmp_fault *fault, enum kdmp_status status, uint64_t address)
{
    if (fault != NULL && fault->status == KDMP_OK) {
        fault->status = status;
        fault->address = address;
        fault->missing = 1;
    }
    return status;
}

enum kdmp_status
kdmp_overlay_write(struct kdmp_overlay *o, const struct kdmp_space *space,
                   uint64_t address, const void *data, uint64_t size,
                   uint64_t *done_out, struct kdmp_fault *fault)
{
    const uint8_t *bytes = data;
    uint64_t last = kdmp_last_address(space->paging);
    uint64_t one, *places = &one, pages, i;
    enum kdmp_status status = KDMP_OK;

    *done_out = 0;
    if (fault != NULL)
        memset(fault, 0, sizeof(*fault));
    if (space->source != &o->source)
        return KDMP_E_ARGUMENT;
    if (size == 0)
        return KDMP_OK;
    if (address <= last && size - 1 > last - address) {
        if (fault != NULL) {
            fault->status = KDMP_E_ADDRESS_END;
            fault->address = last;
            fault->missing = UINT64_MAX;
        }
        return KDMP_E_ADDRESS_END;
    }
    /* First everything is looked at, so that a hole changes nothing, and so
     * that a write over page tables does not move under itself. */
    pages = ((address & (PAGE_SIZE - 1)) + size - 1) / PAGE_SIZE + 1;
    if (pages > 1) {
        places = kdmp_calloc(pages, sizeof(*places));
        if (places == NULL)
            return name_fault(fault, KDMP_E_NOMEM, address);
    }
    for (i = 0; i < pages && status == KDMP_OK; i++)
        status = kdmp_overlay_resolve(o, space, address_of(address, i),
                                      &places[i], fault);
    for (i = 0; i < pages && status == KDMP_OK; i++) {
        uint64_t at = address + *done_out;
        uint64_t chunk =
            min_u64(size - *done_out, PAGE_SIZE - (at & (PAGE_SIZE - 1)));

        status = write_physical(o, places[i], bytes + *done_out, chunk);
        if (status == KDMP_OK)
            *done_out += chunk;
    }
    if (places != &one)
        kdmp_free(places);
    return status == KDMP_OK ? KDMP_OK
                             : name_fault(fault, status, address + *done_out);
}

enum kdmp_status
kdmp_overlay_create(struct kdmp_overlay *o, uint64_t pfn)
{
    struct version fresh = {.pfn = pfn, .kind = V_PAGE, .synthetic = 1};

    if (pfn >= MAX_PFN || in_base(o, pfn) || find_version(o, pfn) != NULL)
        return KDMP_E_ARGUMENT;
    fresh.page = new_page(o);
    if (fresh.page == NULL)
        return KDMP_E_NOMEM;
    memset(fresh.page, 0, PAGE_SIZE);
    if (replace(o, &fresh) < 0) {
        free_page(o, fresh.page);
        return KDMP_E_NOMEM;
    }
    kdmp_overlay_touched(o, pfn, 0, PAGE_SIZE);
    return KDMP_OK;
}

enum kdmp_status
kdmp_overlay_remap(struct kdmp_overlay *o, uint64_t pfn, uint64_t target)
{
    struct version fresh = {.pfn = pfn, .kind = V_REMAP, .target = target};
    const struct version *seen = find_version(o, target);

    /* One step only: no frame is remapped and another one's target. */
    if (pfn >= MAX_PFN || target >= MAX_PFN || pfn == target
        || (seen != NULL && seen->kind == V_REMAP)
        || next_remap_to(o, pfn, 0) < o->remap_count)
        return KDMP_E_ARGUMENT;
    if (kdmp_overlay_exists(o, target << PAGE_SHIFT) != KDMP_OK)
        return KDMP_E_NOT_IN_DUMP;
    seen = find_version(o, pfn);
    if (seen != NULL && seen->kind == V_PAGE)
        return KDMP_E_ARGUMENT; /* its content would be lost */
    fresh.synthetic = (uint8_t)!in_base(o, pfn);
    if (replace(o, &fresh) < 0)
        return KDMP_E_NOMEM;
    kdmp_overlay_touched(o, pfn, 0, PAGE_SIZE);
    return KDMP_OK;
}

enum kdmp_status
kdmp_overlay_revert(struct kdmp_overlay *o, uint64_t pfn)
{
    struct version *old = find_version(o, pfn);

    if (old == NULL)
        return KDMP_E_NOT_PRESENT;
    if (old->synthetic && next_remap_to(o, pfn, 0) < o->remap_count)
        return KDMP_E_ARGUMENT; /* nothing would be left to show */
    if (room_for_undo(o) < 0)
        return KDMP_E_NOMEM;
    if (retire(o, pfn, old))
        free_page(o, old->page);
    drop(o, old);
    kdmp_overlay_touched(o, pfn, 0, PAGE_SIZE);
    return KDMP_OK;
}

/* ---- snapshots ---- */

enum kdmp_status
kdmp_overlay_snapshot(struct kdmp_overlay *o, uint64_t *id_out)
{
    void *grown;

    if (!ROOM(o, snapshots, snapshot, 1))
        return KDMP_E_NOMEM;
    o->snapshots = grown;
    o->snapshots[o->snapshot_count].id = ++o->next_snapshot;
    o->snapshots[o->snapshot_count++].undo_count = o->undo_count;
    o->generation++;
    *id_out = o->next_snapshot;
    return KDMP_OK;
}

enum kdmp_status
kdmp_overlay_restore(struct kdmp_overlay *o, uint64_t id, uint64_t *frames_out)
{
    uint64_t at = o->snapshot_count, keep;

    while (at > 0 && o->snapshots[at - 1].id != id)
        at--;
    if (at == 0)
        return KDMP_E_ARGUMENT;
    keep = o->snapshots[at - 1].undo_count;
    *frames_out = o->undo_count - keep;
    /* Each frame in the log is in the index or was not there before; those
     * that come back to life have room, because they had it. */
    if (room_for_versions(o, *frames_out) < 0)
        return KDMP_E_NOMEM;
    while (o->undo_count > keep) {
        const struct version *before = &o->undo[--o->undo_count];
        struct version *now = find_version(o, before->pfn);

        if (now != NULL)
            free_page(o, now->page);
        put_version(o, before);
        kdmp_overlay_touched(o, before->pfn, 0, PAGE_SIZE);
    }
    o->snapshot_count = at;
    o->generation++;
    return KDMP_OK;
}

/* Forget what only the snapshot numbered 'at' needs. */
static void
trim_for(struct kdmp_overlay *o, uint64_t at)
{
    uint64_t to = at + 1 < o->snapshot_count ? o->snapshots[at + 1].undo_count
                                             : o->undo_count;
    struct pfn_map seen = {0};

    if (at == 0) {
        trim_log(o, 0, to, NULL);
        return;
    }
    /* Without memory the log stays as it is, which is not wrong. */
    if (kdmp_pfn_map_reserve(&seen, to - o->snapshots[at - 1].undo_count) == 0)
        trim_log(o, o->snapshots[at - 1].undo_count, to, &seen);
    kdmp_pfn_map_deinit(&seen);
}

enum kdmp_status
kdmp_overlay_drop(struct kdmp_overlay *o, uint64_t id)
{
    uint64_t at = 0;

    while (at < o->snapshot_count && o->snapshots[at].id != id)
        at++;
    if (at == o->snapshot_count)
        return KDMP_E_ARGUMENT;
    if (o->undo_count > 0 && o->snapshot_count > 1)
        trim_for(o, at);
    memmove(&o->snapshots[at], &o->snapshots[at + 1],
            (size_t)(o->snapshot_count - at - 1) * sizeof(*o->snapshots));
    if (--o->snapshot_count == 0)
        kdmp_overlay_forget(o);
    return KDMP_OK;
}

void
kdmp_overlay_forget(struct kdmp_overlay *o)
{
    while (o->undo_count > 0)
        free_page(o, o->undo[--o->undo_count].page);
    o->snapshot_count = 0;
}

void
kdmp_overlay_reset(struct kdmp_overlay *o)
{
    kdmp_overlay_forget(o);
    while (o->version_count > 0) {
        struct version *last = &o->versions[o->version_count - 1];
        uint64_t pfn = last->pfn;

        free_page(o, last->page);
        drop(o, last);
        kdmp_overlay_touched(o, pfn, 0, PAGE_SIZE);
    }
    while (o->spare_count > 0) {
        kdmp_free(o->spare[--o->spare_count]);
        o->page_count--;
    }
}

/* ---- life ---- */

/* Whether a source is a dump all of whose bytes are in memory. */
static int
is_mapped(const struct kdmp_source *source)
{
    const struct kdmp_dump *dump = source->context;

    return source->locate == kdmp_dump_locate && dump->file.ptr != NULL;
}

enum kdmp_status
kdmp_overlay_open(const struct kdmp_source *base, struct kdmp_overlay **out)
{
    struct kdmp_overlay *o = kdmp_calloc(1, sizeof(*o));

    *out = o;
    if (o == NULL)
        return KDMP_E_NOMEM;
    o->base = base;
    o->copies = !is_mapped(base);
    kdmp_overlay_init_source(o);
    set_clean(o);
    return KDMP_OK;
}

const struct kdmp_source *
kdmp_overlay_source(const struct kdmp_overlay *o)
{
    return &o->source;
}

void
kdmp_overlay_close(struct kdmp_overlay *o)
{
    if (o == NULL)
        return;
    kdmp_overlay_reset(o);
    kdmp_free(o->spare);
    kdmp_free(o->versions);
    kdmp_free(o->remaps);
    kdmp_free(o->undo);
    kdmp_free(o->snapshots);
    kdmp_free(o->notes);
    kdmp_pfn_map_deinit(&o->index);
    kdmp_pfn_map_deinit(&o->noted);
    kdmp_free(o);
}
