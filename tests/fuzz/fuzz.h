/*
 * fuzz.h: what the fuzz targets share.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef KDMP_FUZZ_H
#define KDMP_FUZZ_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kdmp.h"

/* What must be true of every input. */
#define REQUIRE(condition)                                                     \
    do {                                                                       \
        if (!(condition)) {                                                    \
            fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__,       \
                    #condition);                                               \
            abort();                                                           \
        }                                                                      \
    } while (0)

/* What the inputs of a target look like, for the mutator. */
enum fuzz_kind {
    FUZZ_BYTES = 0,
    FUZZ_DUMP,   /* a dump of any kind, from the first byte on */
    FUZZ_RAW,    /* see fuzz_raw.c */
    FUZZ_TRIAGE, /* see fuzz_triage.c */
    FUZZ_LAYOUT, /* see fuzz_layout.c */
    FUZZ_PROGRAM /* a head, then commands of one size */
};

struct fuzz_shape {
    enum fuzz_kind kind;
    size_t head;
    size_t command;
};

/* Each target defines this one. */
extern const struct fuzz_shape fuzz_shape;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* mutator.c; the other is libFuzzer's own, or standalone.c's. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size,
                               unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

static inline uint64_t
fuzz_load(const uint8_t *p, unsigned size)
{
    uint64_t value = 0;

    while (size-- > 0)
        value = value << 8 | p[size];
    return value;
}

static inline void
fuzz_store(uint8_t *p, uint64_t value, unsigned size)
{
    unsigned i;

    for (i = 0; i < size; i++)
        p[i] = (uint8_t)(value >> 8 * i);
}

#endif /* KDMP_FUZZ_H */
