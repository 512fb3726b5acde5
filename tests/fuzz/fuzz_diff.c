/*
 * fuzz_diff.c: the comparison of two page sources, beside memcmp.
 *
 * The input is a flag (1: the first is read, 2: so is the second, 4: the
 * second is an overlay of the first, 8: its files are cut), the room for runs,
 * first and last frame, and then commands of 4 bytes.  The first half of them
 * is for the first source, the rest for the second: frame, count and place in
 * the file of a run, and a byte that changes this place in the file.
 *
 * SPDX-License-Identifier: MIT
 */
#include "fuzz_use.h"

enum {
    HEAD = 4,
    COMMAND = 4,
    PAGE = 0x1000,
    FRAMES = 40,
    STORED = 6, /* pages in a file */
    MAX_RUNS = 12
};

const struct fuzz_shape fuzz_shape = {FUZZ_BYTES, 0, 0};

struct side {
    struct kdmp_run runs[MAX_RUNS];
    size_t run_count;
    uint8_t *file;
    size_t size;
    struct bytes bytes;
    struct kdmp_stream stream;
    struct kdmp_dump *dump;
    const struct kdmp_source *source;
};

/* A frame as the runs have it, the first that covers it counts. */
static const uint8_t *
slow_frame(const struct side *side, uint64_t pfn)
{
    size_t i;

    for (i = 0; i < side->run_count; i++) {
        const struct kdmp_run *run = &side->runs[i];
        uint64_t at;

        if (pfn < run->pfn || pfn - run->pfn >= run->count)
            continue;
        at = run->file_offset + (pfn - run->pfn) * PAGE;
        return at + PAGE <= side->size ? side->file + at : NULL;
    }
    return NULL;
}

static int
open_side(struct side *side, const uint8_t *data, size_t commands, int stream,
          int cut)
{
    struct kdmp_raw raw = {0};
    struct kdmp_input input = {0};
    size_t i;

    memset(side, 0, sizeof(*side));
    side->size = STORED * PAGE - (cut ? 0x10 : 0);
    side->file = calloc(1, side->size);
    REQUIRE(side->file != NULL);
    for (i = 0; i < commands && i < MAX_RUNS; i++, data += COMMAND) {
        struct kdmp_run *run = &side->runs[side->run_count];

        side->file[data[2] % STORED * PAGE + (data[3] & 0xff0) % 0xff0] =
            data[3];
        run->pfn = data[0] % FRAMES;
        run->count = data[1] % 9;
        run->file_offset = (uint64_t)(data[2] % STORED) * PAGE;
        side->run_count += run->count > 0;
    }
    side->bytes.ptr = side->file;
    side->bytes.size = side->size;
    side->stream.read_at = read_at;
    side->stream.context = &side->bytes;
    side->stream.size = side->size;
    raw.runs = side->runs;
    raw.run_count = side->run_count;
    input.data = side->file;
    input.size = side->size;
    if (stream) {
        input.data = NULL;
        input.stream = &side->stream;
    }
    if (side->run_count == 0
        || kdmp_open_input(&input, &raw, &side->dump, NULL) != KDMP_OK) {
        free(side->file);
        return 0;
    }
    side->source = kdmp_get_source(side->dump);
    return 1;
}

static void
close_side(struct side *side)
{
    kdmp_close(side->dump);
    free(side->file);
}

/* The frames of the second source where it is an overlay on the first. */
struct changed {
    struct kdmp_overlay *overlay;
    uint8_t pages[FRAMES + 1][PAGE];
    uint8_t has[FRAMES + 1];
};

static void
change(struct changed *changed, const struct side *base, const uint8_t *data,
       size_t commands)
{
    struct kdmp_space space = {0};
    uint64_t pfn, done;
    size_t i;

    REQUIRE(kdmp_overlay_open(base->source, &changed->overlay) == KDMP_OK);
    space.source = kdmp_overlay_source(changed->overlay);
    for (pfn = 0; pfn <= FRAMES; pfn++) {
        const uint8_t *bytes = slow_frame(base, pfn);

        changed->has[pfn] = bytes != NULL;
        if (bytes != NULL)
            memcpy(changed->pages[pfn], bytes, PAGE);
    }
    for (i = 0; i < commands; i++, data += COMMAND) {
        pfn = data[0] % (FRAMES + 1);
        if (data[1] & 1
            && kdmp_overlay_create(changed->overlay, pfn) == KDMP_OK) {
            REQUIRE(!changed->has[pfn]);
            changed->has[pfn] = 1;
            memset(changed->pages[pfn], 0, PAGE);
        }
        if (changed->has[pfn]) {
            REQUIRE(kdmp_overlay_write(changed->overlay, &space,
                                       pfn * PAGE + data[2] * 16, &data[3], 1,
                                       &done, NULL)
                    == KDMP_OK);
            changed->pages[pfn][data[2] * 16] = data[3];
        }
    }
}

/* What a frame is, by looking at each byte; counts as the comparison does. */
static uint64_t
slow_change(const uint8_t *one, const uint8_t *two,
            struct kdmp_comparison *counts)
{
    uint64_t bytes = 0;
    size_t i;

    if (one == NULL && two == NULL)
        return 0;
    if (one == NULL || two == NULL) {
        counts->only_first += one != NULL;
        counts->only_second += two != NULL;
        return one != NULL ? KDMP_FRAME_ONLY_FIRST : KDMP_FRAME_ONLY_SECOND;
    }
    for (i = 0; i < PAGE; i++)
        bytes += one[i] != two[i];
    counts->changed_bytes += bytes;
    counts->changed += bytes > 0;
    counts->same += bytes == 0;
    return bytes > 0 ? KDMP_FRAME_CHANGED : 0;
}

static void
compare(const struct side *one, const struct side *two,
        const struct changed *changed, uint64_t first, uint64_t end,
        size_t room)
{
    const struct kdmp_source *second =
        changed != NULL ? kdmp_overlay_source(changed->overlay) : two->source;
    struct kdmp_comparison state = {.next = first, .end = end};
    struct kdmp_comparison want = {.next = first, .end = end};
    uint64_t changes[FRAMES + 64] = {0}, seen[FRAMES + 64] = {0}, pfn, last = 0;
    struct kdmp_frame_run runs[8];
    size_t count, i;

    for (pfn = first; pfn < end; pfn++) {
        const uint8_t *bytes = changed == NULL ? slow_frame(two, pfn)
                               : pfn > FRAMES || !changed->has[pfn]
                                   ? slow_frame(one, pfn)
                                   : changed->pages[pfn];

        changes[pfn] = slow_change(slow_frame(one, pfn), bytes, &want);
    }
    while (state.next < state.end) {
        uint64_t before = state.next;

        REQUIRE(
            kdmp_compare_frames(one->source, second, &state, runs, room, &count)
            == KDMP_OK);
        REQUIRE(count <= room && state.next > before);
        for (i = 0; i < count; i++) {
            REQUIRE(runs[i].count > 0 && runs[i].pfn >= last);
            last = runs[i].pfn + runs[i].count;
            REQUIRE(last <= end);
            for (pfn = runs[i].pfn; pfn < last; pfn++)
                seen[pfn] = runs[i].change;
        }
    }
    REQUIRE(memcmp(changes, seen, sizeof(seen)) == 0);
    REQUIRE(state.same == want.same && state.changed == want.changed);
    REQUIRE(state.only_first == want.only_first);
    REQUIRE(state.only_second == want.only_second);
    REQUIRE(state.changed_bytes == want.changed_bytes);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct changed changed;
    struct side one, two;
    size_t commands, half, room;
    uint64_t first, end;

    if (size < HEAD)
        return 0;
    commands = (size - HEAD) / COMMAND;
    half = commands / 2;
    room = data[1] % 8 + 1u;
    first = data[2] % 60;
    end = data[3] % 60;
    if (!open_side(&one, data + HEAD, half, data[0] & 1, data[0] & 8))
        return 0;
    if (data[0] & 4) {
        change(&changed, &one, data + HEAD + half * COMMAND, commands - half);
        compare(&one, NULL, &changed, first, end, room);
        kdmp_overlay_close(changed.overlay);
    } else if (open_side(&two, data + HEAD + half * COMMAND, commands - half,
                         data[0] & 2, data[0] & 8)) {
        compare(&one, &two, NULL, first, end, room);
        close_side(&two);
    }
    close_side(&one);
    return 0;
}
