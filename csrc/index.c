/*
 * index.c: build and question the frame index (see index.h).
 *
 * SPDX-License-Identifier: MIT
 */
#include "index.h"

#include <stdlib.h>

#include "internal.h"

/* How many whole units at 'offset' the file has. */
static uint64_t
units_at(uint64_t offset, uint64_t file_size, unsigned unit_shift)
{
    return offset < file_size ? (file_size - offset) >> unit_shift : 0;
}

enum kdmp_status
kdmp_index_bitmap(struct kdmp_index *index, const uint8_t *bitmap,
                  uint64_t bits, uint64_t first_page, uint64_t file_size)
{
    uint64_t words = bits / 64 + (bits % 64 != 0);
    uint64_t total = 0, base = 0, i;

    index->bitmap = bitmap;
    index->bits = bits;
    index->full_words = bits / 64;
    index->first_page = first_page;
    for (i = 0; i < (bits % 64 + 7) / 8; i++)
        index->tail_word |= (uint64_t)bitmap[8 * index->full_words + i]
                            << (8 * i);
    if (bits % 64 != 0)
        index->tail_word &= (UINT64_C(1) << bits % 64) - 1;

    index->super = kdmp_calloc((words >> WORDS_PER_SUPER_SHIFT) + 1,
                               sizeof(*index->super));
    index->rel = kdmp_calloc(words + 1, sizeof(*index->rel));
    if (index->super == NULL || index->rel == NULL)
        return KDMP_E_NOMEM;
    for (i = 0; i < words; i++) {
        if ((i & ((1u << WORDS_PER_SUPER_SHIFT) - 1)) == 0) {
            index->super[i >> WORDS_PER_SUPER_SHIFT] = total;
            base = total;
        }
        index->rel[i] = (uint16_t)(total - base);
        total += popcount64(index_word(index, i));
    }
    index->pages_described = total;
    index->pages_available =
        min_u64(total, units_at(first_page, file_size, PAGE_SHIFT));
    return KDMP_OK;
}

/* ---- runs to segments ---- */

struct ordered_run {
    struct kdmp_run run;
    uint64_t order; /* place in the file: lower wins */
};

static int
compare_runs(const void *a, const void *b)
{
    const struct ordered_run *x = a, *y = b;

    if (x->run.pfn != y->run.pfn)
        return x->run.pfn < y->run.pfn ? -1 : 1;
    return x->order < y->order ? -1 : x->order > y->order;
}

/* A heap of indices into 'runs', the lowest 'order' on top. */
static void
heap_push(uint64_t *heap, uint64_t *size, const struct ordered_run *runs,
          uint64_t item)
{
    uint64_t child = (*size)++;

    while (child > 0) {
        uint64_t parent = (child - 1) / 2;

        if (runs[heap[parent]].order <= runs[item].order)
            break;
        heap[child] = heap[parent];
        child = parent;
    }
    heap[child] = item;
}

static void
heap_pop(uint64_t *heap, uint64_t *size, const struct ordered_run *runs)
{
    uint64_t item = heap[--*size], parent = 0, child;

    while ((child = 2 * parent + 1) < *size) {
        if (child + 1 < *size
            && runs[heap[child + 1]].order < runs[heap[child]].order)
            child++;
        if (runs[item].order <= runs[heap[child]].order)
            break;
        heap[parent] = heap[child];
        parent = child;
    }
    heap[parent] = item;
}

static uint64_t
run_end(const struct kdmp_run *run)
{
    return run->pfn + run->count;
}

/* Append frames [pfn, end) of 'run'; continue the last segment if possible. */
static void
append_segment(struct kdmp_index *index, const struct kdmp_run *run,
               uint64_t pfn, uint64_t end)
{
    uint64_t offset =
        run->file_offset + ((pfn - run->pfn) << index->unit_shift);
    struct kdmp_segment *last;

    if (index->segment_count > 0) {
        last = &index->segments[index->segment_count - 1];
        if (last->pfn + last->count == pfn
            && last->offset + (last->count << index->unit_shift) == offset) {
            last->count += end - pfn;
            return;
        }
    }
    last = &index->segments[index->segment_count++];
    last->pfn = pfn;
    last->count = end - pfn;
    last->offset = offset;
}

/* Sweep over the sorted runs; of those that cover a frame the first in the
 * file gets it.  At most 2 * count segments come out. */
static void
sweep_runs(struct kdmp_index *index, const struct ordered_run *runs,
           uint64_t count, uint64_t *heap)
{
    uint64_t heap_size = 0, next = 0, pfn = 0;

    while (next < count || heap_size > 0) {
        const struct kdmp_run *top;
        uint64_t end;

        if (heap_size == 0)
            pfn = runs[next].run.pfn;
        for (; next < count && runs[next].run.pfn <= pfn; next++)
            heap_push(heap, &heap_size, runs, next);
        while (heap_size > 0 && run_end(&runs[heap[0]].run) <= pfn)
            heap_pop(heap, &heap_size, runs);
        if (heap_size == 0)
            continue;
        top = &runs[heap[0]].run;
        end = run_end(top);
        if (next < count)
            end = min_u64(end, runs[next].run.pfn);
        append_segment(index, top, pfn, end);
        pfn = end;
    }
}

/* The segments of runs that overlap or are in no order; -1 without memory. */
static int
sort_runs(struct kdmp_index *index, const struct kdmp_run *runs, uint64_t count)
{
    struct ordered_run *sorted = kdmp_calloc(count, sizeof(*sorted));
    uint64_t *heap = kdmp_calloc(count, sizeof(*heap));
    int failed = sorted == NULL || heap == NULL;
    uint64_t i;

    for (i = 0; !failed && i < count; i++) {
        sorted[i].run = runs[i];
        sorted[i].order = i;
    }
    if (!failed) {
        qsort(sorted, (size_t)count, sizeof(*sorted), compare_runs);
        sweep_runs(index, sorted, count, heap);
    }
    kdmp_free(sorted);
    kdmp_free(heap);
    return failed ? -1 : 0;
}

static enum kdmp_status
build_directory(struct kdmp_index *index)
{
    uint64_t base = index->segments[0].pfn;
    uint64_t span = kdmp_index_pfn_end(index) - base, segment = 0, i;

    while (span >> index->directory_shift > 2 * index->segment_count + 1)
        index->directory_shift++;
    index->directory_base = base;
    index->directory_size = (span >> index->directory_shift) + 1;
    index->directory =
        kdmp_calloc(index->directory_size + 1, sizeof(*index->directory));
    if (index->directory == NULL)
        return KDMP_E_NOMEM;
    for (i = 0; i <= index->directory_size; i++) {
        uint64_t start = mul_sat(i, UINT64_C(1) << index->directory_shift);

        while (segment + 1 < index->segment_count
               && index->segments[segment + 1].pfn - base <= start)
            segment++;
        index->directory[i] = (uint32_t)segment;
    }
    return KDMP_OK;
}

enum kdmp_status
kdmp_index_runs(struct kdmp_index *index, unsigned unit_shift,
                const struct kdmp_run *runs, uint64_t count, uint64_t file_size,
                uint64_t *overlapped_out)
{
    uint64_t claimed = 0, i;
    int ordered = 1;

    *overlapped_out = 0;
    index->unit_shift = unit_shift;
    if (count == 0)
        return KDMP_OK;
    if (count > UINT32_MAX / 2)
        return KDMP_E_NOMEM;
    for (i = 0; i < count; i++) {
        claimed += runs[i].count;
        if (i > 0 && runs[i].pfn < run_end(&runs[i - 1]))
            ordered = 0;
    }
    index->segments =
        kdmp_calloc(ordered ? count : 2 * count, sizeof(*index->segments));
    if (index->segments == NULL)
        return KDMP_E_NOMEM;
    if (!ordered && sort_runs(index, runs, count) < 0)
        return KDMP_E_NOMEM;
    for (i = 0; ordered && i < count; i++)
        append_segment(index, &runs[i], runs[i].pfn, run_end(&runs[i]));

    for (i = 0; i < index->segment_count; i++) {
        struct kdmp_segment *segment = &index->segments[i];

        segment->before = index->pages_available;
        segment->available = min_u64(
            segment->count, units_at(segment->offset, file_size, unit_shift));
        index->pages_available += segment->available;
        index->pages_described += segment->count;
    }
    *overlapped_out = claimed - index->pages_described;
    return build_directory(index);
}

void
kdmp_index_deinit(struct kdmp_index *index)
{
    kdmp_free(index->super);
    kdmp_free(index->rel);
    kdmp_free(index->segments);
    kdmp_free(index->directory);
}

/* ---- questions ---- */

uint64_t
kdmp_index_pfn_end(const struct kdmp_index *index)
{
    uint64_t word;

    if (index->bitmap == NULL) {
        const struct kdmp_segment *last;

        if (index->segment_count == 0)
            return 0;
        last = &index->segments[index->segment_count - 1];
        return last->pfn + last->count;
    }
    for (word = index->bits / 64 + 1; word-- > 0;) {
        uint64_t value = index_word(index, word), pfn = 64 * word + 63;

        if (word == index->full_words && index->bits % 64 == 0)
            continue; /* there is no tail */
        for (; value != 0; value <<= 1, pfn--)
            if (value >> 63)
                return pfn + 1;
    }
    return 0;
}

uint64_t
kdmp_index_rank(const struct kdmp_index *index, uint64_t pfn)
{
    const struct kdmp_segment *segment;
    uint64_t rank;

    if (index->bitmap != NULL) {
        if (pfn >= index->bits)
            return index->pages_available;
        rank = index->super[pfn >> (6 + WORDS_PER_SUPER_SHIFT)]
               + index->rel[pfn >> 6]
               + popcount64(index_word(index, pfn >> 6)
                            & ((UINT64_C(1) << (pfn & 63)) - 1));
        return min_u64(rank, index->pages_available);
    }
    segment = index_segment(index, pfn);
    if (segment == NULL)
        return 0;
    return segment->before + min_u64(pfn - segment->pfn, segment->available);
}

/* First frame at or above 'pfn' whose bit is 'set'; 'end' if there is none
 * below it.  end <= index->bits. */
static uint64_t
scan_bits(const struct kdmp_index *index, uint64_t pfn, uint64_t end, int set)
{
    uint64_t word;

    if (pfn >= end)
        return end;
    word = index_word(index, pfn >> 6);
    if (!set)
        word = ~word;
    word &= ~UINT64_C(0) << (pfn & 63);
    pfn &= ~UINT64_C(63);
    while (word == 0) {
        pfn += 64;
        if (pfn >= end)
            return end;
        word = index_word(index, pfn >> 6);
        if (!set)
            word = ~word;
    }
    return min_u64(pfn + ctz64(word), end);
}

int
kdmp_index_next_run(const struct kdmp_index *index, uint64_t pfn,
                    struct kdmp_run *out)
{
    const struct kdmp_segment *segment, *end;

    if (index->bitmap != NULL) {
        uint64_t rank;

        pfn = scan_bits(index, pfn, index->bits, 1);
        rank = kdmp_index_rank(index, pfn);
        if (pfn >= index->bits || rank >= index->pages_available)
            return 0;
        out->pfn = pfn;
        out->count = min_u64(scan_bits(index, pfn, index->bits, 0) - pfn,
                             index->pages_available - rank);
        out->file_offset = index->first_page + (rank << PAGE_SHIFT);
        return 1;
    }
    if (index->segment_count == 0)
        return 0;
    end = index->segments + index->segment_count;
    segment = index_segment(index, pfn);
    if (segment == NULL)
        segment = index->segments;
    for (; segment < end; segment++) {
        uint64_t skip = pfn > segment->pfn ? pfn - segment->pfn : 0;

        if (skip < segment->available) {
            out->pfn = segment->pfn + skip;
            out->count = segment->available - skip;
            out->file_offset = segment->offset + (skip << index->unit_shift);
            return 1;
        }
    }
    return 0;
}

uint64_t
kdmp_index_extent(const struct kdmp_index *index, uint64_t pfn, uint64_t most)
{
    const struct kdmp_segment *segment;
    uint64_t skip;

    if (index->bitmap != NULL) {
        uint64_t end, rank;
        int set;

        if (pfn >= index->bits)
            return most;
        end = most > index->bits - pfn ? index->bits : pfn + most;
        set = (int)(index_word(index, pfn >> 6) >> (pfn & 63) & 1);
        skip = scan_bits(index, pfn, end, !set) - pfn;
        rank = kdmp_index_rank(index, pfn);
        if (set && rank < index->pages_available)
            skip = min_u64(skip, index->pages_available - rank);
        /* Beyond the last bit everything is missing, too. */
        return !set && pfn + skip == index->bits ? most : skip;
    }
    segment = index_segment(index, pfn);
    if (segment == NULL)
        return index->segment_count == 0
                   ? most
                   : min_u64(most, index->segments[0].pfn - pfn);
    skip = pfn - segment->pfn;
    if (skip < segment->available)
        return min_u64(most, segment->available - skip);
    if (skip < segment->count)
        return min_u64(most, segment->count - skip);
    if (segment + 1 == index->segments + index->segment_count)
        return most;
    return min_u64(most, segment[1].pfn - pfn);
}
