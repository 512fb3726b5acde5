/*
 * diff.c: which frames of two page sources differ.
 *
 * SPDX-License-Identifier: MIT
 */
#include "internal.h"

/* Frames read at a time from a file that is not mapped. */
#define CHUNK_FRAMES 4u

struct sink {
    struct kdmp_frame_run *runs;
    size_t room;
    size_t count;
};

/* Add frames to the runs, to the last one if they go on with it; 0 if there is
 * no room. */
static int
note(struct sink *sink, uint64_t pfn, uint64_t count, uint64_t change)
{
    struct kdmp_frame_run *last = sink->runs + sink->count;

    if (sink->count > 0 && last[-1].change == change
        && last[-1].pfn + last[-1].count == pfn) {
        last[-1].count += count;
        return 1;
    }
    if (sink->count == sink->room)
        return 0;
    last->pfn = pfn;
    last->count = count;
    last->change = change;
    sink->count++;
    return 1;
}

/* How many bytes of two frames differ. */
static uint64_t
differing_bytes(const uint8_t *a, const uint8_t *b)
{
    const uint64_t low = UINT64_C(0x7f7f7f7f7f7f7f7f);
    uint64_t count = 0;

    for (size_t i = 0; i < PAGE_SIZE; i += 8) {
        uint64_t x = load_le64(a + i) ^ load_le64(b + i);

        /* The top bit of each byte that is not 0. */
        if (x != 0)
            count += popcount64((((x & low) + low) | x) & ~low);
    }
    return count;
}

/* Compare 'frames' frames from state->next on; stops early without room. */
static void
compare_bytes(const uint8_t *a, const uint8_t *b, uint64_t frames,
              struct kdmp_comparison *state, struct sink *sink)
{
    for (; frames > 0; frames--, a += PAGE_SIZE, b += PAGE_SIZE) {
        if (memcmp(a, b, PAGE_SIZE) == 0) {
            state->same++;
        } else {
            if (!note(sink, state->next, 1, KDMP_FRAME_CHANGED))
                return;
            state->changed++;
            state->changed_bytes += differing_bytes(a, b);
        }
        state->next++;
    }
}

/* The bytes of an extent's first 'size' bytes: where they are, or in 'buffer';
 * NULL if they cannot be read. */
static const uint8_t *
fetch(const struct kdmp_source *source, const struct kdmp_extent *extent,
      uint8_t *buffer, uint64_t size, enum kdmp_status *status)
{
    if (extent->ptr != NULL)
        return extent->ptr;
    *status =
        source->read_file(source, extent->file_offset, buffer, (size_t)size);
    return *status == KDMP_OK ? buffer : NULL;
}

/* Frames that both have: compare what can be had at once. */
static enum kdmp_status
compare_both(const struct kdmp_source *first, const struct kdmp_extent *a,
             const struct kdmp_source *second, const struct kdmp_extent *b,
             uint64_t frames, struct kdmp_comparison *state, struct sink *sink)
{
    uint8_t buffers[2][CHUNK_FRAMES * PAGE_SIZE];
    const uint8_t *left, *right;
    enum kdmp_status status = KDMP_OK;

    if (a->ptr == NULL || b->ptr == NULL)
        frames = min_u64(frames, CHUNK_FRAMES);
    left = fetch(first, a, buffers[0], frames << PAGE_SHIFT, &status);
    if (left == NULL)
        return status;
    right = fetch(second, b, buffers[1], frames << PAGE_SHIFT, &status);
    if (right == NULL)
        return status;
    compare_bytes(left, right, frames, state, sink);
    return KDMP_OK;
}

/* Frames that at most one has; 0 without room. */
static int
skip_missing(int in_first, int in_second, uint64_t frames,
             struct kdmp_comparison *state, struct sink *sink)
{
    if (in_first) {
        if (!note(sink, state->next, frames, KDMP_FRAME_ONLY_FIRST))
            return 0;
        state->only_first += frames;
    } else if (in_second) {
        if (!note(sink, state->next, frames, KDMP_FRAME_ONLY_SECOND))
            return 0;
        state->only_second += frames;
    }
    state->next += frames;
    return 1;
}

enum kdmp_status
kdmp_compare_frames(const struct kdmp_source *first,
                    const struct kdmp_source *second,
                    struct kdmp_comparison *state, struct kdmp_frame_run *out,
                    size_t room, size_t *count_out)
{
    struct sink sink = {out, room, 0};
    enum kdmp_status status = KDMP_OK;

    *count_out = 0;
    state->end = min_u64(state->end, MAX_PFN);
    while (status == KDMP_OK && state->next < state->end) {
        uint64_t pa = state->next << PAGE_SHIFT, before = state->next;
        uint64_t want = (state->end << PAGE_SHIFT) - pa, frames;
        struct kdmp_extent a, b;
        int in_first = first->locate(first, pa, want, &a) == KDMP_OK;
        int in_second = second->locate(second, pa, want, &b) == KDMP_OK;

        frames = min_u64(a.length, b.length) >> PAGE_SHIFT;
        if (frames == 0)
            return KDMP_E_ARGUMENT;
        if (in_first && in_second)
            status = compare_both(first, &a, second, &b, frames, state, &sink);
        else
            skip_missing(in_first, in_second, frames, state, &sink);
        *count_out = sink.count;
        if (state->next == before)
            break; /* no room, or an error */
    }
    return status;
}
