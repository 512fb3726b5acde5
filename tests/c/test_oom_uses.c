/*
 * test_oom_uses.c: every allocation fails once, of the formats that
 * test_oom.c does not open, and of everything that is done with a dump.
 *
 * Built with KDMP_TEST_ALLOC; leaks are left to the sanitizer or valgrind.
 *
 * SPDX-License-Identifier: MIT
 */
#include "check.h"
#include "internal.h"
#include "minidump.h"

enum { TRIAGE_SIZE = MINI_HEADER + 0x200, ELF_HEAD = 64 + 56 };

struct world {
    struct mini_bytes bytes;
    const struct kdmp_raw *raw;
    int by_stream;
    struct kdmp_dump *dump;
    struct kdmp_dump *other;
};

/* Whether a call may do without the memory that it asks for. */
enum tolerance { MUST_FAIL, MAY_DO_WITHOUT };

typedef enum kdmp_status (*call)(struct world *);

/* Make each allocation of a call fail; how many there are. */
static long
fail_each(call what, struct world *world, enum tolerance tolerance)
{
    long nth;

    for (nth = 0; nth < 1000; nth++) {
        enum kdmp_status status;
        int failed;

        kdmp_test_fail_alloc(nth);
        status = what(world);
        failed = kdmp_test_alloc_failed();
        kdmp_test_fail_alloc(-1);
        if (!failed) {
            CHECK_EQ(status, KDMP_OK);
            return nth;
        }
        CHECK(status == KDMP_E_NOMEM
              || (status == KDMP_OK && tolerance == MAY_DO_WITHOUT));
        CHECK_EQ(what(world), KDMP_OK); /* nothing is broken by it */
    }
    CHECK(!"the number of allocations has an end");
    return 0;
}

static enum kdmp_status
open_world(struct world *world, struct kdmp_dump **out)
{
    struct kdmp_stream stream = {mini_read_at, &world->bytes,
                                 world->bytes.size};
    struct kdmp_input input = {0};

    if (world->by_stream) {
        input.stream = &stream;
    } else {
        input.data = world->bytes.ptr;
        input.size = world->bytes.size;
    }
    return kdmp_open_input(&input, world->raw, out, NULL);
}

static enum kdmp_status
open_and_close(struct world *world)
{
    struct kdmp_dump *dump;
    enum kdmp_status status = open_world(world, &dump);

    CHECK((dump != NULL) == (status == KDMP_OK));
    kdmp_close(dump);
    return status;
}

/* ---- what is opened ---- */

/* A triage dump: a data block, a stack, a KDBG with what leads to copies. */
static size_t
triage_dump(uint8_t *out)
{
    uint8_t *head = out + MINI_HEADER;
    unsigned i;

    memset(out, 0, TRIAGE_SIZE);
    for (i = 0; i < MINI_HEADER; i += 4)
        memcpy(out + i, "PAGE", 4);
    memcpy(out, "PAGEDU64", 8);
    store_le(out + 0x30, 0x8664, 4);
    store_le(out + 0x80, 0x40000, 8);
    store_le(out + 0xf98, 4, 4);
    store_le(head + 0x28, MINI_HEADER + 0x100, 4); /* stack */
    store_le(head + 0x2c, 0x40, 4);
    store_le(head + 0x48, 0x10000, 8);
    store_le(head + 0x78, MINI_HEADER + 0x80, 4); /* blocks */
    store_le(head + 0x7c, 2, 4);
    for (i = 0; i < 2; i++) {
        store_le(head + 0x80 + 16 * i, 0x20000 + 0x20 * i, 8);
        store_le(head + 0x88 + 16 * i, MINI_HEADER + 0x140 + 0x20 * i, 4);
        store_le(head + 0x8c + 16 * i, 0x20, 4);
    }
    return TRIAGE_SIZE;
}

/* An ELF core with one page of memory. */
static size_t
elf_core(uint8_t *out)
{
    memset(out, 0, ELF_HEAD + MINI_PAGE);
    memcpy(out, "\177ELF\2\1\1", 7);
    store_le(out + 16, 4, 2);
    store_le(out + 18, 62, 2);
    store_le(out + 32, 64, 8);
    store_le(out + 54, 56, 2);
    store_le(out + 56, 1, 2);
    store_le(out + 64, 1, 4);
    store_le(out + 64 + 8, ELF_HEAD, 8);
    store_le(out + 64 + 24, 0x5000, 8);
    store_le(out + 64 + 32, MINI_PAGE, 8);
    return ELF_HEAD + MINI_PAGE;
}

static void
fail_opening(uint8_t *image)
{
    static const struct kdmp_run runs[] = {{1, 1, 0}, {4, 2, 0x1000}};
    static const struct kdmp_raw flat = {.machine = KDMP_MACHINE_X64};
    static const struct kdmp_raw pieces = {runs, 2, KDMP_MACHINE_X64};
    struct world world = {.bytes = {image, 0}};
    int by_stream;

    for (by_stream = 0; by_stream < 2; by_stream++) {
        world.by_stream = by_stream;
        world.raw = NULL;
        world.bytes.size = triage_dump(image);
        CHECK(fail_each(open_and_close, &world, MUST_FAIL) >= 3);
        world.raw = &flat;
        world.bytes.size = elf_core(image);
        CHECK(fail_each(open_and_close, &world, MUST_FAIL) >= 3);
        world.bytes.size = mini_dump(image, 1);
        CHECK(fail_each(open_and_close, &world, MUST_FAIL) >= 3);
        world.raw = &pieces;
        CHECK(fail_each(open_and_close, &world, MUST_FAIL) >= 3);
    }
}

/* ---- what is done with a dump ---- */

static enum kdmp_status
translate_many(struct world *world)
{
    static const uint64_t addresses[] = {0x5000, 0x6123, 0x7000, 0x8000,
                                         UINT64_MAX};
    struct kdmp_space space = mini_space(world->dump, KDMP_PAGING_X64);
    uint64_t paddrs[5];
    uint8_t statuses[5];
    enum kdmp_status status =
        kdmp_translate_many(&space, addresses, 5, paddrs, statuses);

    CHECK(status != KDMP_OK || paddrs[1] == 0x8123);
    return status;
}

static enum kdmp_status
read_many(struct world *world)
{
    static const uint64_t addresses[] = {0x5000, 0x6123, 0x7000, 0x5ff8};
    struct kdmp_space space = mini_space(world->dump, KDMP_PAGING_X64);
    uint8_t statuses[4], bytes[4 * 16];
    enum kdmp_status status =
        kdmp_read_many(&space, addresses, 4, 16, bytes, statuses);

    CHECK(status != KDMP_OK || bytes[16] == mini_byte(8, 0x123));
    return status;
}

static enum kdmp_status
read_cached(struct world *world)
{
    struct kdmp_space space = mini_space(world->dump, KDMP_PAGING_X64);
    uint8_t bytes[16];
    uint64_t done;
    enum kdmp_status status = kdmp_tlb_open(7, NULL, &space.tlb);

    if (status == KDMP_OK)
        status = kdmp_read(&space, 0x5ff8, bytes, 16, &done, NULL);
    if (status == KDMP_OK)
        status = kdmp_tlb_resize(space.tlb, 9);
    if (status == KDMP_OK)
        status = kdmp_read(&space, 0x5ff8, bytes, 16, &done, NULL);
    kdmp_tlb_close(space.tlb);
    return status;
}

static enum kdmp_status
find_root(struct world *world)
{
    uint64_t root;
    enum kdmp_status status =
        kdmp_find_root(world->dump, KDMP_PAGING_X64, &root);

    return status == KDMP_E_NOT_PRESENT ? KDMP_OK : status;
}

static enum kdmp_status
compare(struct world *world)
{
    struct kdmp_comparison state = {.end = 64};
    struct kdmp_frame_run runs[4];
    enum kdmp_status status = KDMP_OK;
    size_t count;

    while (status == KDMP_OK && state.next < state.end)
        status = kdmp_compare_frames(kdmp_get_source(world->dump),
                                     kdmp_get_source(world->other), &state,
                                     runs, 4, &count);
    CHECK(status != KDMP_OK || state.same == MINI_PAGES);
    return status;
}

static enum kdmp_status
choose_paging(struct world *world)
{
    enum kdmp_paging paging;
    enum kdmp_paging_source source;

    return kdmp_choose_paging(world->dump, 0x1000, &paging, &source);
}

static enum kdmp_status
list_mappings(struct world *world)
{
    struct kdmp_map_cursor cursor = {.last = UINT64_MAX, .tables_left = 100};
    struct kdmp_space space = mini_space(world->dump, KDMP_PAGING_X64);
    struct kdmp_mapping mapping;
    enum kdmp_status status = KDMP_OK;
    size_t count = 1, total = 0;

    while (status == KDMP_OK && count > 0) {
        status = kdmp_next_mappings(&space, &cursor, &mapping, 1, &count);
        total += count;
    }
    CHECK(status != KDMP_OK || total > 0);
    return status;
}

static enum kdmp_status
list_extents(struct world *world)
{
    struct kdmp_extent_cursor cursor = {.last = UINT64_MAX,
                                        .tables_left = 1000};
    struct kdmp_space space = mini_space(world->dump, KDMP_PAGING_X64);
    struct kdmp_stretch stretch;
    enum kdmp_status status = KDMP_OK;
    size_t count, total = 0;

    while (status == KDMP_OK && (!cursor.done || cursor.has_pending)) {
        status = kdmp_next_extents(&space, &cursor, &stretch, 1, &count);
        total += count;
    }
    CHECK(status != KDMP_OK || total > 0);
    return status;
}

/* Go through all that a space reads; how many matches there are. */
static enum kdmp_status
search_all(struct world *world, const struct kdmp_matcher_spec *spec,
           enum kdmp_paging paging, size_t *total_out)
{
    struct kdmp_space space = mini_space(world->dump, paging);
    struct kdmp_search search = {.last = 0xffff, /* all that is mapped */
                                 .tables_left = 100,
                                 .budget = 1 << 20};
    struct kdmp_matcher *matcher;
    struct kdmp_match matches[64];
    enum kdmp_status status = kdmp_matcher_open(spec, &matcher, NULL);
    size_t count;

    *total_out = 0;
    if (status == KDMP_OK) /* room for less than may begin at one address */
        CHECK_EQ(kdmp_scan(&space, matcher, &search, matches, 1, &count),
                 KDMP_E_ARGUMENT);
    while (status == KDMP_OK && !search.done) {
        status = kdmp_scan(&space, matcher, &search, matches, 64, &count);
        *total_out += count;
    }
    if (status == KDMP_OK) /* it is over */
        CHECK(kdmp_scan(&space, matcher, &search, matches, 64, &count)
                  == KDMP_OK
              && count == 0);
    kdmp_matcher_close(matcher);
    return status;
}

/* Patterns of all kinds: alone, long, with a mask, many; and pointers. */
static enum kdmp_status
search_patterns(struct world *world)
{
    static const struct kdmp_pointer_range pointers = {1, 2, 8};
    enum { FEW = 8, ALL = 14, LONG = 1000 };
    uint8_t bytes[ALL][LONG], mask[LONG];
    struct kdmp_pattern patterns[ALL];
    struct kdmp_matcher_spec spec = {
        .patterns = patterns, .pointers = &pointers, .alignment = 1};
    enum kdmp_status status;
    size_t total, i, k;

    memset(mask, 0xff, sizeof(mask));
    mask[1] = 0;
    for (i = 0; i < ALL; i++) {
        for (k = 0; k < LONG; k++) /* what page 8 has there */
            bytes[i][k] = mini_byte(8, 0x100 + i + k);
        patterns[i].bytes = bytes[i];
        patterns[i].mask = i == 3 ? mask : NULL;
        patterns[i].length = i < FEW ? i + 4 : LONG;
    }
    spec.pattern_count = 1;
    status = search_all(world, &spec, KDMP_PAGING_X64, &total);
    CHECK(status != KDMP_OK || total >= 1);
    if (status != KDMP_OK)
        return status;
    spec.pattern_count = ALL;
    spec.pointer_count = 1;
    status = search_all(world, &spec, KDMP_PAGING_PHYSICAL, &total);
    CHECK(status != KDMP_OK || total >= ALL);
    if (status == KDMP_OK)
        status = search_all(world, &spec, KDMP_PAGING_X64, &total);
    CHECK(status != KDMP_OK || total >= ALL);
    return status;
}

static enum kdmp_status
search_text(struct world *world)
{
    static const struct kdmp_matcher_spec spec = {
        .text_minimum = 2, .text_kinds = 3, .alignment = 1};
    size_t total;
    enum kdmp_status status =
        search_all(world, &spec, KDMP_PAGING_PHYSICAL, &total);

    CHECK(status != KDMP_OK || total > 0);
    return status;
}

/* Everything that an overlay keeps, from a fresh one to a dropped snapshot. */
static enum kdmp_status
use_overlay(struct world *world)
{
    struct kdmp_space space = mini_space(world->dump, KDMP_PAGING_PHYSICAL);
    struct kdmp_overlay *overlay;
    enum kdmp_status status =
        kdmp_overlay_open(kdmp_get_source(world->dump), &overlay);
    uint64_t first = 0, second = 0, done, frames, pfn, places[8];
    uint8_t data[0x2010] = {1};

    if (status != KDMP_OK)
        return status;
    space.source = kdmp_overlay_source(overlay);
    for (pfn = 0x40; pfn < 0x60 && status == KDMP_OK; pfn++)
        status = kdmp_overlay_watch(overlay, pfn);
    for (pfn = 1; pfn < 5 && status == KDMP_OK; pfn++)
        status = kdmp_overlay_note_table(overlay, pfn);
    if (status == KDMP_OK)
        status = kdmp_overlay_snapshot(overlay, &first);
    if (status == KDMP_OK)
        status = kdmp_overlay_write(overlay, &space, 0x1ff8, data, sizeof(data),
                                    &done, NULL);
    for (pfn = 0x40; pfn < 0x60 && status == KDMP_OK; pfn++)
        status = kdmp_overlay_create(overlay, pfn);
    if (status == KDMP_OK)
        status = kdmp_overlay_snapshot(overlay, &second);
    if (status == KDMP_OK)
        status =
            kdmp_overlay_write(overlay, &space, 0x1ff8, data, 16, &done, NULL);
    if (status == KDMP_OK)
        status = kdmp_overlay_revert(overlay, 2);
    while (status == KDMP_OK && kdmp_overlay_take_dirty(overlay, places, 8) > 0)
        continue;
    if (status == KDMP_OK)
        status = kdmp_overlay_drop(overlay, second);
    if (status == KDMP_OK)
        status = kdmp_overlay_restore(overlay, first, &frames);
    CHECK(status != KDMP_OK || kdmp_overlay_count(overlay) == 0);
    /* Whatever failed, the base shows again. */
    kdmp_overlay_reset(overlay);
    CHECK_EQ(kdmp_read(&space, 0x5123, data, 1, &done, NULL), KDMP_OK);
    CHECK_EQ(data[0], mini_byte(5, 0x123));
    kdmp_overlay_close(overlay);
    return status;
}

static void
fail_uses(uint8_t *image)
{
    static const struct {
        call what;
        enum tolerance tolerance;
        long least; /* allocations where the dump is a stream */
    } uses[] = {
        {translate_many, MUST_FAIL, 1},   {read_many, MUST_FAIL, 1},
        {read_cached, MAY_DO_WITHOUT, 3}, {find_root, MUST_FAIL, 0},
        {compare, MUST_FAIL, 0},          {choose_paging, MUST_FAIL, 0},
        {list_mappings, MUST_FAIL, 1},    {use_overlay, MAY_DO_WITHOUT, 10},
        {list_extents, MUST_FAIL, 1},     {search_patterns, MAY_DO_WITHOUT, 12},
        {search_text, MAY_DO_WITHOUT, 1},
    };
    struct world world = {.bytes = {image, 0}};
    size_t type, i;

    for (type = 0; type < sizeof(mini_types) / sizeof(mini_types[0]); type++) {
        world.bytes.size = mini_dump(image, mini_types[type]);
        for (world.by_stream = 0; world.by_stream < 2; world.by_stream++) {
            CHECK_EQ(open_world(&world, &world.dump), KDMP_OK);
            CHECK_EQ(open_world(&world, &world.other), KDMP_OK);
            for (i = 0; i < sizeof(uses) / sizeof(uses[0]); i++) {
                long count = fail_each(uses[i].what, &world, uses[i].tolerance);

                CHECK(!world.by_stream || count >= uses[i].least);
            }
            kdmp_close(world.dump);
            kdmp_close(world.other);
        }
    }
}

int
main(void)
{
    static uint8_t image[MINI_MAX];

    fail_opening(image);
    fail_uses(image);
    return checks_passed("oom_uses");
}
