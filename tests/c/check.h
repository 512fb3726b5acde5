/*
 * check.h: a check that says what was expected, and a count at the end.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef KDMP_TEST_CHECK_H
#define KDMP_TEST_CHECK_H

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static unsigned checks_done;

/* The condition holds, or the program ends here. */
#define CHECK(condition)                                                       \
    do {                                                                       \
        checks_done++;                                                         \
        if (!(condition)) {                                                    \
            fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__,       \
                    #condition);                                               \
            abort();                                                           \
        }                                                                      \
    } while (0)

/* Two integers are equal; prints both in hex if not. */
#define CHECK_EQ(got, want)                                                    \
    check_equal((uint64_t)(got), (uint64_t)(want), #got, __FILE__, __LINE__)

static inline void
check_equal(uint64_t got, uint64_t want, const char *text, const char *file,
            int line)
{
    checks_done++;
    if (got != want) {
        fprintf(stderr, "%s:%d: %s is 0x%" PRIx64 ", expected 0x%" PRIx64 "\n",
                file, line, text, got, want);
        abort();
    }
}

static inline int
checks_passed(const char *name)
{
    printf("%s: %u checks passed\n", name, checks_done);
    return checks_done > 0 ? 0 : 1;
}

#endif /* KDMP_TEST_CHECK_H */
