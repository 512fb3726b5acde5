/*
 * test_overlay.c: what overlays promise and a binding has no way to ask for.
 *
 * SPDX-License-Identifier: MIT
 */
#include "check.h"
#include "tlb.h"
#include "minidump.h"
#include "pfnmap.h"

enum { KEYS = 300, STEPS = 20000 };
/* What an overlay can log before it needs more memory. */
enum { FIRST_ROOM = 16 };

/* ---- the map of frames ---- */

/* Against an array; half full, so that entries are often moved. */
static void
test_map(void)
{
    static uint32_t model[KEYS];
    struct pfn_map map = {0};
    uint64_t random = 1, pfn, count = 0;
    unsigned step;

    memset(model, 0xff, sizeof(model));
    CHECK_EQ(pfn_map_find(&map, 5), PFN_MAP_NONE);
    for (step = 0; step < STEPS; step++) {
        random = random * UINT64_C(6364136223846793005) + 1442695040888963407u;
        pfn = (random >> 33) % KEYS;
        if (random >> 63) {
            CHECK_EQ(kdmp_pfn_map_reserve(&map, 1), 0);
            count += model[pfn] == PFN_MAP_NONE;
            kdmp_pfn_map_set(&map, pfn, step);
            model[pfn] = step;
        } else if (model[pfn] != PFN_MAP_NONE) {
            kdmp_pfn_map_remove(&map, pfn);
            model[pfn] = PFN_MAP_NONE;
            count--;
        }
        CHECK_EQ(map.count, count);
        if (step % 64 == 0)
            for (pfn = 0; pfn < KEYS; pfn++)
                CHECK_EQ(pfn_map_find(&map, pfn), model[pfn]);
    }
    kdmp_pfn_map_deinit(&map);
}

/* ---- writes ---- */

static struct kdmp_space
overlay_space(const struct kdmp_dump *dump, const struct kdmp_overlay *overlay,
              enum kdmp_paging paging)
{
    struct kdmp_space space = mini_space(dump, paging);

    space.source = kdmp_overlay_source(overlay);
    return space;
}

static void
test_writes(const struct kdmp_dump *dump, struct kdmp_overlay *overlay)
{
    struct kdmp_space space = overlay_space(dump, overlay, KDMP_PAGING_X64);
    struct kdmp_space other = mini_space(dump, KDMP_PAGING_X64);
    uint64_t done = 9;

    /* Through a space that does not show the overlay. */
    CHECK_EQ(kdmp_overlay_write(overlay, &other, 0x6000, "x", 1, &done, NULL),
             KDMP_E_ARGUMENT);
    CHECK_EQ(done, 0);
    /* Nothing, even where nothing is. */
    CHECK_EQ(kdmp_overlay_write(overlay, &space, 0x8000, "x", 0, &done, NULL),
             KDMP_OK);
    /* The reason is not asked for. */
    CHECK_EQ(kdmp_overlay_write(overlay, &space, 0x8000, "x", 1, &done, NULL),
             KDMP_E_NOT_PRESENT);
    CHECK_EQ(kdmp_overlay_count(overlay), 0);
}

/* A page of zeros that is not in memory reads, but has no frame to write to. */
static void
test_supplied_page(const struct kdmp_dump *dump, struct kdmp_overlay *overlay)
{
    static const uint8_t demand_zero[8] = {0x80}; /* a protection alone */
    struct kdmp_space space = overlay_space(dump, overlay, KDMP_PAGING_X64);
    struct kdmp_fault fault;
    uint64_t done, count;
    uint8_t byte = 1;

    space.root = 0x4000;
    space.paging = KDMP_PAGING_PHYSICAL;
    CHECK_EQ(kdmp_overlay_write(overlay, &space, 0x4000 + 8 * 8, demand_zero, 8,
                                &done, NULL),
             KDMP_OK);
    count = kdmp_overlay_count(overlay);
    space = overlay_space(dump, overlay, KDMP_PAGING_X64);
    space.zero_fill = 1;
    CHECK_EQ(kdmp_read(&space, 0x8123, &byte, 1, &done, NULL), KDMP_OK);
    CHECK_EQ(byte, 0);
    CHECK_EQ(
        kdmp_overlay_write(overlay, &space, 0x8123, "xyz", 3, &done, &fault),
        KDMP_E_NOT_PRESENT);
    CHECK_EQ(done, 0);
    CHECK_EQ(fault.status, KDMP_E_NOT_PRESENT);
    CHECK_EQ(fault.address, 0x8123);
    CHECK_EQ(fault.walk.state, KDMP_PTE_DEMAND_ZERO);
    CHECK_EQ(kdmp_overlay_write(overlay, &space, 0x8123, "xyz", 3, &done, NULL),
             KDMP_E_NOT_PRESENT);
    CHECK_EQ(kdmp_overlay_count(overlay), count);
    kdmp_overlay_reset(overlay);
}

/* Reverting keeps what a snapshot needs, which takes memory when the log is
 * full: first to shorten it, which may fail, then to let it grow. */
static void
test_revert_without_memory(struct kdmp_overlay *overlay)
{
    uint64_t snapshot, frames, pfn;
    struct kdmp_overlay_frame frame;

    CHECK_EQ(kdmp_overlay_create(overlay, 0x100), KDMP_OK);
    CHECK_EQ(kdmp_overlay_snapshot(overlay, &snapshot), KDMP_OK);
    for (pfn = 0x200; pfn < 0x200 + FIRST_ROOM; pfn++)
        CHECK_EQ(kdmp_overlay_create(overlay, pfn), KDMP_OK);
    kdmp_test_fail_alloc(1);
    CHECK_EQ(kdmp_overlay_revert(overlay, 0x100), KDMP_E_NOMEM);
    CHECK_EQ(kdmp_overlay_find(overlay, 0x100, &frame), 1);
    kdmp_test_fail_alloc(0);
    CHECK_EQ(kdmp_overlay_revert(overlay, 0x100), KDMP_OK);
    CHECK(kdmp_test_alloc_failed());
    CHECK_EQ(kdmp_overlay_find(overlay, 0x100, &frame), 0);
    CHECK_EQ(kdmp_overlay_restore(overlay, snapshot, &frames), KDMP_OK);
    CHECK_EQ(frames, FIRST_ROOM + 1);
    CHECK_EQ(kdmp_overlay_count(overlay), 1);
    CHECK_EQ(kdmp_overlay_find(overlay, 0x100, &frame), 1);
    kdmp_overlay_reset(overlay);
}

/* ---- a frame taken back between finding and reading it ---- */

static void
test_taken_back(const struct kdmp_dump *dump)
{
    struct kdmp_overlay *overlay;
    struct kdmp_space space;
    const struct kdmp_source *source;
    struct kdmp_extent changed, made;
    uint8_t bytes[2];
    uint64_t done;

    CHECK_EQ(kdmp_overlay_open(kdmp_get_source(dump), &overlay), KDMP_OK);
    source = kdmp_overlay_source(overlay);
    space = overlay_space(dump, overlay, KDMP_PAGING_PHYSICAL);
    CHECK_EQ(kdmp_overlay_write(overlay, &space, 0x8123, "xy", 2, &done, NULL),
             KDMP_OK);
    CHECK_EQ(kdmp_overlay_create(overlay, 0x100), KDMP_OK);
    CHECK_EQ(source->locate(source, 0x8123, 2, &changed), KDMP_OK);
    CHECK_EQ(source->locate(source, 0x100123, 2, &made), KDMP_OK);
    CHECK(changed.ptr == NULL && made.ptr == NULL);
    CHECK_EQ(source->read_file(source, changed.file_offset, bytes, 2), KDMP_OK);
    CHECK_EQ(bytes[1], 'y');
    CHECK_EQ(kdmp_overlay_revert(overlay, 8), KDMP_OK);
    CHECK_EQ(kdmp_overlay_revert(overlay, 0x100), KDMP_OK);
    CHECK_EQ(source->read_file(source, changed.file_offset, bytes, 2), KDMP_OK);
    CHECK_EQ(bytes[1], mini_byte(8, 0x124));
    CHECK_EQ(source->read_file(source, made.file_offset, bytes, 2),
             KDMP_E_NOT_IN_DUMP);
    kdmp_overlay_close(overlay);
}

/* A source may end inside a frame: that one cannot be copied. */
static enum kdmp_status
half_locate(const struct kdmp_source *self, uint64_t paddr, uint64_t want,
            struct kdmp_extent *out)
{
    out->length = min_u64(want, PAGE_SIZE / 2 - paddr % (PAGE_SIZE / 2));
    out->ptr = self->context;
    out->file_offset = 0;
    return paddr < PAGE_SIZE / 2 ? KDMP_OK : KDMP_E_TRUNCATED;
}

static int
no_next_run(const struct kdmp_source *self, uint64_t pfn, struct kdmp_run *out)
{
    return 0;
}

static void
test_half_a_frame(void)
{
    static uint8_t bytes[PAGE_SIZE / 2];
    const struct kdmp_source source = {
        .locate = half_locate, .next_run = no_next_run, .context = bytes};
    struct kdmp_overlay *overlay;
    struct kdmp_space space = {.paging = KDMP_PAGING_PHYSICAL};
    struct kdmp_fault fault;
    uint64_t done;

    CHECK_EQ(kdmp_overlay_open(&source, &overlay), KDMP_OK);
    space.source = kdmp_overlay_source(overlay);
    CHECK_EQ(kdmp_overlay_write(overlay, &space, 0x10, "x", 1, &done, &fault),
             KDMP_E_TRUNCATED);
    CHECK_EQ(fault.status, KDMP_E_TRUNCATED);
    CHECK_EQ(fault.address, 0x10);
    CHECK_EQ(kdmp_overlay_count(overlay), 0);
    kdmp_overlay_close(overlay);
}

/* ---- what is noted of frames ---- */

/* A watched page table goes on being noted when it is no more watched. */
static void
test_watched_table(const struct kdmp_dump *dump, struct kdmp_overlay *overlay)
{
    struct kdmp_space space = overlay_space(dump, overlay, KDMP_PAGING_X64);
    struct kdmp_space plain =
        overlay_space(dump, overlay, KDMP_PAGING_PHYSICAL);
    uint64_t done, epoch, found[4];
    uint8_t byte;

    CHECK_EQ(kdmp_overlay_watch(overlay, MAX_PFN), KDMP_E_ARGUMENT);
    CHECK_EQ(kdmp_tlb_open(16, overlay, &space.tlb), KDMP_OK);
    CHECK_EQ(kdmp_overlay_watch(overlay, 8), KDMP_OK);
    CHECK_EQ(kdmp_overlay_watch(overlay, 4), KDMP_OK);
    CHECK_EQ(kdmp_read(&space, 0x6123, &byte, 1, &done, NULL), KDMP_OK);
    epoch = kdmp_overlay_epoch(overlay);
    CHECK_EQ(kdmp_overlay_write(overlay, &plain, 0x4100, "xy", 2, &done, NULL),
             KDMP_OK);
    CHECK(kdmp_overlay_epoch(overlay) != epoch);
    kdmp_overlay_unwatch(overlay, 4);
    kdmp_overlay_unwatch(overlay, 4); /* once too often does nothing */
    CHECK_EQ(kdmp_overlay_take_dirty(overlay, found, 4), 0);
    /* Of two watched frames the second alone has changed. */
    CHECK_EQ(kdmp_overlay_watch(overlay, 4), KDMP_OK);
    CHECK_EQ(kdmp_overlay_take_dirty(overlay, found, 4), 0);
    epoch = kdmp_overlay_epoch(overlay);
    CHECK_EQ(kdmp_overlay_write(overlay, &plain, 0x4108, "xy", 2, &done, NULL),
             KDMP_OK);
    CHECK(kdmp_overlay_epoch(overlay) != epoch);
    CHECK_EQ(kdmp_overlay_take_dirty(overlay, found, 4), 1);
    CHECK_EQ(found[0], 0x4108);
    kdmp_overlay_unwatch(overlay, 4);
    kdmp_overlay_unwatch(overlay, 8);
    kdmp_tlb_close(space.tlb);
    kdmp_overlay_reset(overlay);
}

/* Walks through a prototype PTE are not kept over an overlay: where that one
 * is in memory is not known, nor when it changes. */
static void
test_prototypes_are_not_cached(const struct kdmp_dump *dump,
                               struct kdmp_overlay *overlay)
{
    struct kdmp_space space = mini_space(dump, KDMP_PAGING_X64);
    struct kdmp_translation walk;
    struct kdmp_tlb *tlb;
    struct kdmp_tlb_info info;
    uint64_t paddr;

    CHECK_EQ(kdmp_translate(&space, 0x6000, &walk), KDMP_OK);
    CHECK_EQ(kdmp_tlb_open(16, overlay, &tlb), KDMP_OK);
    walk.prototype = UINT64_C(0xffff800000001000);
    kdmp_tlb_keep(tlb, &walk);
    CHECK_EQ(kdmp_tlb_find(tlb, 0x6000, &paddr), 0);
    walk.prototype = 0;
    CHECK_EQ(kdmp_tlb_flush_page(tlb, 0x6000), 0);
    kdmp_tlb_keep(tlb, &walk);
    CHECK_EQ(kdmp_tlb_find(tlb, 0x6000, &paddr), 1);
    CHECK_EQ(paddr, 0x8000);
    CHECK_EQ(kdmp_tlb_flush_page(tlb, 0x5000), 0);
    CHECK_EQ(kdmp_tlb_flush_page(tlb, 0x6000), 1);
    kdmp_tlb_get_info(tlb, &info);
    CHECK_EQ(info.size, 0);
    kdmp_tlb_close(tlb);
}

int
main(void)
{
    static uint8_t image[MINI_MAX];
    struct mini_bytes bytes = {image, 0};
    struct kdmp_stream stream = {mini_read_at, &bytes, 0};
    struct kdmp_dump *dump, *streamed;
    struct kdmp_overlay *overlay;

    stream.size = bytes.size = mini_dump(image, 1);
    CHECK_EQ(kdmp_open_memory(image, bytes.size, &dump, NULL), KDMP_OK);
    CHECK_EQ(kdmp_open_stream(&stream, &streamed, NULL), KDMP_OK);
    CHECK_EQ(kdmp_overlay_open(kdmp_get_source(dump), &overlay), KDMP_OK);
    test_map();
    test_writes(dump, overlay);
    test_supplied_page(dump, overlay);
    test_revert_without_memory(overlay);
    test_taken_back(streamed);
    test_half_a_frame();
    test_watched_table(dump, overlay);
    test_prototypes_are_not_cached(dump, overlay);
    kdmp_overlay_close(overlay);
    kdmp_close(streamed);
    kdmp_close(dump);
    return checks_passed("overlay");
}
