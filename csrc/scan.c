/*
 * scan.c: find patterns in an address space.
 *
 * Long stretches of mapped memory are searched where they are.  At the end of
 * one, as many bytes as the longest pattern has, less one, are carried on in
 * a window, where those of the next stretch join them if it goes on at the
 * next address.  Short stretches, and those that must be read, go through the
 * window as a whole.  So every place is looked at once, in order.
 *
 * SPDX-License-Identifier: MIT
 */
#include "scan.h"

/* Searched at once: all of it, or what fits in the first cache if every part
 * of a matcher goes over it on its own. */
#define BLOCK_ONE 0x40000
#define BLOCK_SEVERAL 0x4000
/* A call begins with so few, for there may be no room for what is found. */
#define BLOCK_FIRST 0x200
/* Bytes that are compared in one block before it is cut: what many long
 * patterns find nearly everywhere would take minutes otherwise. */
#define MOST_WORK (UINT64_C(1) << 26)
/* Bytes of short stretches that are gathered. */
#define GATHERED 0x10000
#define SMALL_WINDOW 1024

struct scan {
    struct scan_source source;
    const struct kdmp_matcher *matcher;
    struct kdmp_search *search;
    struct kdmp_match *out;
    size_t room;
    size_t count;
    size_t block; /* places searched at once */
    size_t most;
    uint64_t cost;
    uint64_t budget;
    uint64_t rest; /* bytes of the longest match but one */
    int stopped;
    enum kdmp_status status;
    uint8_t *window;
    size_t capacity;
    size_t filled;
    uint64_t address;             /* of window[0] */
    struct kdmp_stretch previous; /* what window[0] comes from, perhaps */
    uint8_t small[SMALL_WINDOW];
};

/* ---- blocks ---- */

/* Stop: 'next' is the first place that has not been searched. */
static void
stop(struct scan *s, uint64_t next)
{
    s->stopped = 1;
    s->search->next = next;
}

/* Search 'places' of the 'size' bytes at 'data'. */
static void
search_bytes(struct scan *s, const uint8_t *data, uint64_t places,
             uint64_t size, uint64_t address, const struct kdmp_stretch *from)
{
    while (places > 0 && !s->stopped) {
        struct block block = {.data = data, .size = size, .address = address};
        struct hits hits = {.out = s->out + s->count,
                            .room = s->room - s->count,
                            .most_work = MOST_WORK};
        size_t i;

        if (address > s->search->last) {
            s->search->done = 1;
            stop(s, address);
            return;
        }
        block.starts = min_u64(min_u64(places, s->block),
                               add_sat(s->search->last - address, 1));
        if (block.starts == 1)
            hits.most_work = UINT64_MAX;
        kdmp_match_block(s->matcher, &block, &hits);
        if (hits.full) {
            s->budget -= min_u64(s->budget, hits.work / 4);
            if (s->count > s->room / 2 || (s->count > 0 && block.starts == 1))
                stop(s, address);
            s->block = block.starts / 2; /* one place has room */
            continue;
        }
        if (hits.count <= hits.room / 4)
            s->block = min_u64(2 * s->block, s->most);
        kdmp_sort_matches(hits.out, hits.count);
        for (i = 0; i < hits.count; i++)
            kdmp_scan_place(&s->source, from, &hits.out[i]);
        s->count += hits.count;
        s->search->bytes += block.starts;
        s->budget -= min_u64(s->budget, block.starts * s->cost + hits.work / 4);
        data += block.starts;
        address += block.starts;
        places -= block.starts;
        size -= block.starts;
        if (address - 1 >= s->search->last) { /* 0: after the last of all */
            s->search->done = 1;
            stop(s, address);
        } else if (s->count == s->room || s->budget == 0) {
            stop(s, address);
        }
    }
}

/* ---- the window ---- */

/* Room for 'size' bytes in the window. */
static int
make_window(struct scan *s, uint64_t size)
{
    uint8_t *window;

    if (size <= s->capacity)
        return 1;
    window = kdmp_calloc(1, size);
    if (window == NULL) {
        s->status = KDMP_E_NOMEM;
        stop(s, s->filled > 0 ? s->address : kdmp_scan_position(&s->source));
        return 0;
    }
    memcpy(window, s->window, s->filled);
    if (s->window != s->small)
        kdmp_free(s->window);
    s->window = window;
    s->capacity = (size_t)size;
    return 1;
}

/* Search the first 'places' of the window and forget them. */
static void
search_window(struct scan *s, size_t places)
{
    search_bytes(s, s->window, places, s->filled, s->address, &s->previous);
    if (s->stopped)
        return;
    s->filled -= places;
    s->address += places;
    memmove(s->window, s->window + places, s->filled);
}

/* Memory ends where the window does. */
static void
end_window(struct scan *s)
{
    if (s->filled > 0)
        search_window(s, s->filled);
}

/* Put bytes of a stretch into the window: how many, 0 if there are none. */
static uint64_t
fill_window(struct scan *s, const struct kdmp_stretch *stretch, uint64_t offset,
            uint64_t size)
{
    uint8_t *target = s->window + s->filled;
    uint64_t done = size;

    if (s->filled == 0) {
        s->address = stretch->address + offset;
        s->previous = *stretch;
    }
    if (stretch->ptr != NULL)
        copy_bytes(target, stretch->ptr + offset, size);
    else
        s->status =
            kdmp_scan_read(&s->source, stretch, offset, target, size, &done);
    s->filled += (size_t)done;
    if (s->status != KDMP_OK)
        stop(s, s->address);
    return done;
}

/* A stretch that goes through the window. */
static void
gather(struct scan *s, const struct kdmp_stretch *stretch)
{
    uint64_t offset = 0, want, done;

    want = 4 * s->rest + GATHERED;
    if (stretch->ptr == NULL && s->budget > GATHERED)
        want = 4 * s->rest + min_u64(s->budget, SCAN_READ);
    if (!make_window(s, want))
        return;
    while (offset < stretch->length && !s->stopped) {
        uint64_t size =
            min_u64(s->capacity - s->filled, stretch->length - offset);

        done = fill_window(s, stretch, offset, size);
        if (s->stopped)
            return;
        offset += done;
        if (done < size) { /* not there after all */
            end_window(s);
            return;
        }
        if (s->filled == s->capacity)
            search_window(s, s->filled - (size_t)s->rest);
    }
}

/* A stretch that is searched where it is. */
static void
search_stretch(struct scan *s, const struct kdmp_stretch *stretch)
{
    uint64_t places = stretch->length - s->rest;

    if (s->filled > 0) {
        size_t carried = s->filled;

        if (!make_window(s, s->filled + s->rest))
            return;
        fill_window(s, stretch, 0, s->rest);
        search_window(s, carried);
        s->filled = 0;
    }
    search_bytes(s, stretch->ptr, places, stretch->length, stretch->address,
                 stretch);
    if (!s->stopped && s->rest > 0 && make_window(s, s->rest))
        fill_window(s, stretch, places, s->rest);
}

static void
take_stretch(struct scan *s, const struct kdmp_stretch *stretch)
{
    if (s->filled > 0 && s->address + s->filled != stretch->address)
        end_window(s);
    if (s->stopped)
        return;
    if (stretch->ptr == NULL || stretch->length / 4 < s->rest) {
        gather(s, stretch);
        return;
    }
    if (s->filled > s->rest)
        search_window(s, s->filled - (size_t)s->rest);
    if (!s->stopped)
        search_stretch(s, stretch);
}

/* Every stretch until something stops it. */
static void
scan_all(struct scan *s)
{
    struct kdmp_stretch stretch;

    while (!s->stopped) {
        switch (kdmp_scan_next(&s->source, &stretch, &s->status)) {
        case SCAN_STRETCH_GIVEN:
            take_stretch(s, &stretch);
            break;
        case SCAN_END:
            end_window(s);
            if (!s->stopped) {
                s->search->done = 1;
                return;
            }
            break;
        case SCAN_LATER:
            end_window(s);
            if (!s->stopped)
                stop(s, kdmp_scan_position(&s->source));
            break;
        default:
            stop(s,
                 s->filled > 0 ? s->address : kdmp_scan_position(&s->source));
        }
    }
}

static size_t
passes(const struct kdmp_matcher *matcher)
{
    size_t count = matcher->single_count + 2 * (size_t)matcher->pointer_count;
    int i;

    for (i = 0; i < FILTERS; i++)
        count += matcher->filters[i].needle_count > 0;
    return count;
}

enum kdmp_status
kdmp_scan(const struct kdmp_space *space, const struct kdmp_matcher *matcher,
          struct kdmp_search *search, struct kdmp_match *out, size_t room,
          size_t *count_out)
{
    struct scan s;

    *count_out = 0;
    if (room < matcher->count || room < 8 || search->budget == 0)
        return KDMP_E_ARGUMENT;
    if (search->done || search->next > search->last) {
        search->done = 1;
        return KDMP_OK;
    }
    if (matcher->text_minimum > 0)
        return kdmp_scan_text(space, matcher, search, out, room, count_out);
    s.matcher = matcher;
    s.search = search;
    s.out = out;
    s.room = room;
    s.count = 0;
    s.block = BLOCK_FIRST;
    s.most = passes(matcher) == 1 ? BLOCK_ONE : BLOCK_SEVERAL;
    s.cost = kdmp_match_cost(matcher);
    s.budget = search->budget;
    s.rest = matcher->longest - 1;
    s.stopped = 0;
    s.status = KDMP_OK;
    s.window = s.small;
    s.capacity = sizeof(s.small);
    s.filled = 0;
    kdmp_scan_begin(&s.source, space, search, search->next,
                    add_sat(search->last, s.rest));
    scan_all(&s);
    if (s.window != s.small)
        kdmp_free(s.window);
    search->tables_left = s.source.cursor.tables_left;
    search->met_vad |= s.source.cursor.met_vad;
    if (s.status == KDMP_OK && search->next > search->last)
        search->done = 1; /* it went on behind `last` and found no memory */
    *count_out = s.count;
    return s.status;
}
