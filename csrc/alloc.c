/*
 * alloc.c: zeroed memory with a checked size, and in the test build an
 * allocator that fails on command.
 *
 * SPDX-License-Identifier: MIT
 */
#include <stdlib.h>

#include "internal.h"

#ifdef KDMP_TEST_ALLOC
static long countdown = -1;
static int failed;

void
kdmp_test_fail_alloc(long nth)
{
    countdown = nth;
    failed = 0;
}

int
kdmp_test_alloc_failed(void)
{
    return failed;
}
#endif

void *
kdmp_calloc(uint64_t count, uint64_t size)
{
#ifdef KDMP_TEST_ALLOC
    if (countdown == 0)
        failed = 1;
    if (countdown >= 0 && countdown-- == 0)
        return NULL;
#endif
    if (mul_sat(count, size) > SIZE_MAX / 2)
        return NULL;
    return calloc((size_t)count, (size_t)size);
}

void
kdmp_free(void *memory)
{
    free(memory);
}
