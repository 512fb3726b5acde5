/*
 * index.h: from a frame number to the place of its bytes in the file.
 *
 * Two shapes.  A bitmap is used where it lies, with two levels of rank
 * counters beside it (1/4 of the bitmap's size).  Runs and ranges become a
 * sorted array of segments that do not overlap, with a directory that narrows
 * the search.  Nothing is kept per page.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef KDMP_INDEX_H
#define KDMP_INDEX_H

#include "bytes.h"
#include "kdmp.h"

/* Limits on what a file may claim.  Pages: 64 TiB of stored memory.  Frame
 * numbers: the 52-bit physical address space.  Bits: 256 TiB of
 * addresses; the bitmap of that, 8 GiB, can be a hole in a file and cost its
 * maker nothing. */
#define MAX_PAGES (UINT64_C(1) << 34)
#define MAX_PFN (UINT64_C(1) << 40)
#define MAX_BITMAP_BITS (UINT64_C(1) << 36)

/* Words of 64 bits that one entry of 'super' covers: few enough that the
 * relative counts fit in 16 bits. */
#define WORDS_PER_SUPER_SHIFT 10

/* Units are frames; in the index of a triage dump's virtual ranges, bytes. */
struct kdmp_segment {
    uint64_t pfn;       /* first unit */
    uint64_t count;     /* units described */
    uint64_t available; /* ... whose bytes are in the file (a prefix) */
    uint64_t offset;    /* file offset of the first unit */
    uint64_t before;    /* available units in earlier segments */
};

struct kdmp_index {
    uint64_t pages_described;
    uint64_t pages_available;

    /* bitmap shape */
    const uint8_t *bitmap; /* NULL: segments */
    uint64_t bits;
    uint64_t full_words; /* words that lie wholly inside 'bits' */
    uint64_t tail_word;  /* the rest, masked */
    uint64_t first_page;
    uint64_t *super;
    uint16_t *rel;

    /* segment shape */
    unsigned unit_shift; /* log2 of a unit's bytes: 12, or 0 for bytes */
    struct kdmp_segment *segments;
    uint64_t segment_count;
    uint32_t *directory;     /* last segment that starts at or below a bucket */
    uint64_t directory_base; /* buckets count from the first segment on */
    uint64_t directory_size;
    unsigned directory_shift;
};

/*
 * Build the counters for a bitmap of 'bits' bits whose pages are stored from
 * 'first_page' on in a file of 'file_size' bytes.  'bitmap' stays the
 * caller's and must outlive the index.
 */
enum kdmp_status kdmp_index_bitmap(struct kdmp_index *index,
                                   const uint8_t *bitmap, uint64_t bits,
                                   uint64_t first_page, uint64_t file_size);

/*
 * Build the segments from 'count' runs in the order of the file.  Frames that
 * are described twice belong to the first run that names them;
 * *overlapped_out is how many such repetitions there were.  The runs must
 * have been checked: no empty run, no overflow of pfn + count.  A unit is
 * 2^unit_shift bytes.
 */
enum kdmp_status kdmp_index_runs(struct kdmp_index *index, unsigned unit_shift,
                                 const struct kdmp_run *runs, uint64_t count,
                                 uint64_t file_size, uint64_t *overlapped_out);

void kdmp_index_deinit(struct kdmp_index *index);

/* One above the highest described frame. */
uint64_t kdmp_index_pfn_end(const struct kdmp_index *index);

/* Number of described frames below 'pfn' whose bytes are in the file. */
uint64_t kdmp_index_rank(const struct kdmp_index *index, uint64_t pfn);

/* First run of available frames at or above pfn; 0 if none. */
int kdmp_index_next_run(const struct kdmp_index *index, uint64_t pfn,
                        struct kdmp_run *out);

/*
 * From a frame on: how many frames follow each other in the file (status OK),
 * or are missing for the same cause.  At least 1, at most 'most' (> 0).
 */
uint64_t kdmp_index_extent(const struct kdmp_index *index, uint64_t pfn,
                           uint64_t most);

KDMP_INLINE uint64_t
index_word(const struct kdmp_index *index, uint64_t word)
{
    return word < index->full_words ? load_le64(index->bitmap + 8 * word)
                                    : index->tail_word;
}

/* The segment that contains 'pfn' or is the last that starts below it; NULL
 * if there is none. */
static inline const struct kdmp_segment *
index_segment(const struct kdmp_index *index, uint64_t pfn)
{
    uint64_t bucket, low, high;

    if (index->segment_count == 0 || pfn < index->directory_base)
        return NULL;
    bucket = (pfn - index->directory_base) >> index->directory_shift;
    if (bucket >= index->directory_size)
        return &index->segments[index->segment_count - 1];
    /* The answer is in [directory[bucket], directory[bucket + 1]]. */
    low = index->directory[bucket];
    high = index->directory[bucket + 1];
    while (low < high) {
        uint64_t middle = high - (high - low) / 2;

        if (index->segments[middle].pfn <= pfn)
            low = middle;
        else
            high = middle - 1;
    }
    return &index->segments[low];
}

/* File offset of a frame: KDMP_OK, KDMP_E_NOT_IN_DUMP or KDMP_E_TRUNCATED;
 * 0 unless OK. */
KDMP_INLINE enum kdmp_status
index_find(const struct kdmp_index *index, uint64_t pfn, uint64_t *offset_out)
{
    const struct kdmp_segment *segment;

    *offset_out = 0;
    if (index->bitmap != NULL) {
        uint64_t word, bit, rank;

        if (pfn >= index->bits)
            return KDMP_E_NOT_IN_DUMP;
        word = index_word(index, pfn >> 6);
        bit = UINT64_C(1) << (pfn & 63);
        if (!(word & bit))
            return KDMP_E_NOT_IN_DUMP;
        rank = index->super[pfn >> (6 + WORDS_PER_SUPER_SHIFT)]
               + index->rel[pfn >> 6]
               + (word == UINT64_MAX ? pfn & 63 : popcount64(word & (bit - 1)));
        if (rank >= index->pages_available)
            return KDMP_E_TRUNCATED;
        *offset_out = index->first_page + (rank << 12);
        return KDMP_OK;
    }
    segment = index_segment(index, pfn);
    if (segment == NULL || pfn - segment->pfn >= segment->count)
        return KDMP_E_NOT_IN_DUMP;
    if (pfn - segment->pfn >= segment->available)
        return KDMP_E_TRUNCATED;
    *offset_out = segment->offset + ((pfn - segment->pfn) << index->unit_shift);
    return KDMP_OK;
}

#endif /* KDMP_INDEX_H */
