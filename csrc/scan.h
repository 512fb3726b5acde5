/*
 * scan.h: what the two kinds of searches through memory share.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef KDMP_SCAN_H
#define KDMP_SCAN_H

#include "match.h"

/* Stretches fetched at once, and how long they get: a call should not go
 * through much more page tables than its budget needs. */
#define SCAN_BATCH 32
#define SCAN_STRETCH (UINT64_C(1) << 20)
/* Fetches without a stretch after which a call returns. */
#define SCAN_PATIENCE 8
/* Read from a file at once. */
#define SCAN_READ (UINT64_C(1) << 20)

/* The stretches of a search, one after the other. */
struct scan_source {
    struct kdmp_space space; /* without translation cache */
    struct kdmp_extent_cursor cursor;
    struct kdmp_stretch batch[SCAN_BATCH];
    size_t count;
    size_t next;
    unsigned empty; /* fetches that gave nothing */
};

enum scan_next {
    SCAN_STRETCH_GIVEN,
    SCAN_END,    /* nothing follows */
    SCAN_LATER,  /* nothing was found for long: stop here */
    SCAN_FAILURE /* see status_out */
};

/* Bytes of 'source' from 'first' to 'last'. */
void kdmp_scan_begin(struct scan_source *source, const struct kdmp_space *space,
                     const struct kdmp_search *search, uint64_t first,
                     uint64_t last);

/* The next stretch, which is at least partly new. */
enum scan_next kdmp_scan_next(struct scan_source *source,
                              struct kdmp_stretch *out,
                              enum kdmp_status *status_out);

/* The first address that no stretch has been given of. */
uint64_t kdmp_scan_position(const struct scan_source *source);

/* Read bytes of a stretch that has no pointer.  *done_out may be less than
 * 'size' with KDMP_OK, if memory is not there after all. */
enum kdmp_status kdmp_scan_read(const struct scan_source *source,
                                const struct kdmp_stretch *stretch,
                                uint64_t offset, uint8_t *buffer, uint64_t size,
                                uint64_t *done_out);

/* Say where a match is, by the stretch if it begins in that, which may be
 * NULL. */
void kdmp_scan_place(const struct scan_source *source,
                     const struct kdmp_stretch *stretch,
                     struct kdmp_match *match);

/* In ascending order of address and number. */
void kdmp_sort_matches(struct kdmp_match *matches, size_t count);

/* ---- scan_text.c ---- */

enum kdmp_status kdmp_scan_text(const struct kdmp_space *space,
                                const struct kdmp_matcher *matcher,
                                struct kdmp_search *search,
                                struct kdmp_match *out, size_t room,
                                size_t *count_out);

#endif /* KDMP_SCAN_H */
