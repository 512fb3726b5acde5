/*
 * match_pointers.c: find numbers that lie in a range.
 *
 * SPDX-License-Identifier: MIT
 */
#include "match.h"

#if MATCH_X64
#include <immintrin.h>
#endif

struct pursuit {
    const struct kdmp_matcher *matcher;
    const struct pointers *pointers;
    const struct block *block;
    struct hits *hits;
    size_t places; /* where a number may begin */
};

/* 1 to stop the search. */
static int
note(const struct pursuit *p, size_t at)
{
    uint64_t address = p->block->address + at;

    if (!is_aligned(p->matcher, address))
        return 0;
    return add_hit(p->hits, address, p->pointers->size, p->pointers->number);
}

/* Every size-th place from 'at' on.  1 to stop the search. */
KDMP_INLINE int
find_plain(const struct pursuit *p, size_t at, unsigned size)
{
    const uint8_t *data = p->block->data;
    uint64_t first = p->pointers->first, span = p->pointers->span;

    for (; at < p->places; at += size)
        if (load_le(data + at, size) - first <= span && note(p, at))
            return 1;
    return 0;
}

#if MATCH_X64

/* The same with vectors; *at_io is how far it came. */
__attribute__((target("avx2"))) static int
find_avx2_8(const struct pursuit *p, size_t *at_io)
{
    const uint8_t *data = p->block->data;
    /* There are signed comparisons only: the lowest number becomes -2^63. */
    const __m256i shift =
        _mm256_set1_epi64x((int64_t)(p->pointers->first + (UINT64_C(1) << 63)));
    const __m256i most =
        _mm256_set1_epi64x((int64_t)(p->pointers->span + (UINT64_C(1) << 63)));
    size_t at = *at_io, end = p->places + 7; /* of the last number */

    for (; at + 128 <= end; at += 128) {
        unsigned above = 0;
        int i;

        for (i = 0; i < 4; i++) {
            __m256i value =
                _mm256_loadu_si256((const void *)(data + at + 32 * i));
            __m256i out =
                _mm256_cmpgt_epi64(_mm256_sub_epi64(value, shift), most);

            above |= (unsigned)_mm256_movemask_pd(_mm256_castsi256_pd(out))
                     << 4 * i;
        }
        for (above ^= 0xFFFF; above != 0; above &= above - 1)
            if (note(p, at + 8 * ctz64(above)))
                return 1;
    }
    *at_io = at;
    return 0;
}

__attribute__((target("avx2"))) static int
find_avx2_4(const struct pursuit *p, size_t *at_io)
{
    const uint8_t *data = p->block->data;
    const __m256i shift =
        _mm256_set1_epi32((int32_t)(p->pointers->first + (UINT32_C(1) << 31)));
    const __m256i most =
        _mm256_set1_epi32((int32_t)(p->pointers->span + (UINT32_C(1) << 31)));
    size_t at = *at_io, end = p->places + 3;

    for (; at + 128 <= end; at += 128) {
        unsigned above = 0;
        int i;

        for (i = 0; i < 4; i++) {
            __m256i value =
                _mm256_loadu_si256((const void *)(data + at + 32 * i));
            __m256i out =
                _mm256_cmpgt_epi32(_mm256_sub_epi32(value, shift), most);

            above |= (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(out))
                     << 8 * i;
        }
        for (above = ~above; above != 0; above &= above - 1)
            if (note(p, at + 4 * ctz64(above)))
                return 1;
    }
    *at_io = at;
    return 0;
}

#endif

void
kdmp_find_pointers(const struct kdmp_matcher *matcher,
                   const struct pointers *pointers, const struct block *block,
                   struct hits *hits)
{
    struct pursuit p = {
        .matcher = matcher, .pointers = pointers, .block = block, .hits = hits};
    uint64_t size = pointers->size, step = 1, phase;

    if (block->size < size)
        return;
    p.places = min_u64(block->starts, block->size - size + 1);
    /* Of the places modulo 'size', those that can be aligned. */
    while (step < size && matcher->alignment % (2 * step) == 0)
        step *= 2;
    for (phase = (0 - block->address) % step; phase < size; phase += step) {
        size_t at = phase;

#if MATCH_X64
        if (matcher->avx2
            && (size == 8 ? find_avx2_8(&p, &at) : find_avx2_4(&p, &at)))
            return;
#endif
        if (size == 8 ? find_plain(&p, at, 8) : find_plain(&p, at, 4))
            return;
    }
}
