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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif /* KDMP_FUZZ_H */
