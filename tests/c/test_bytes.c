/*
 * test_bytes.c: loads, bit counts and arithmetic at their limits.
 *
 * SPDX-License-Identifier: MIT
 */
#include "bytes.h"
#include "check.h"

static void
test_span_at(void)
{
    static const uint8_t bytes[8] = {0};
    struct span s = {bytes, sizeof(bytes)};

    CHECK(span_at(s, 0, 8) == bytes);
    CHECK(span_at(s, 8, 0) == bytes + 8);
    CHECK(span_at(s, 7, 1) == bytes + 7);
    CHECK(span_at(s, 0, 9) == NULL);
    CHECK(span_at(s, 8, 1) == NULL);
    CHECK(span_at(s, 9, 0) == NULL);
    CHECK(span_at(s, UINT64_MAX, 1) == NULL);
    CHECK(span_at(s, 1, UINT64_MAX) == NULL);
    CHECK(span_at(s, UINT64_MAX, UINT64_MAX) == NULL);
}

static void
test_loads(void)
{
    /* An exact heap block, at an odd address, so that a sanitizer sees both
     * an overread and a misaligned load. */
    uint8_t *block = malloc(9);
    unsigned i;

    CHECK(block != NULL);
    for (i = 0; i < 9; i++)
        block[i] = (uint8_t)(0xf0 + i);
    CHECK_EQ(load_le16(block + 7), 0xf8f7);
    CHECK_EQ(load_le32(block + 5), 0xf8f7f6f5);
    CHECK_EQ(load_le64(block + 1), UINT64_C(0xf8f7f6f5f4f3f2f1));
    CHECK_EQ(load_le(block + 8, 1), 0xf8);
    CHECK_EQ(load_le(block + 7, 2), 0xf8f7);
    CHECK_EQ(load_le(block + 5, 4), 0xf8f7f6f5);
    CHECK_EQ(load_le(block + 1, 8), UINT64_C(0xf8f7f6f5f4f3f2f1));
    free(block);
}

static void
test_bits(void)
{
    uint64_t x = UINT64_C(0x9E3779B97F4A7C15);
    unsigned round, bit;

    CHECK_EQ(popcount64(0), 0);
    CHECK_EQ(popcount64(UINT64_MAX), 64);
    for (bit = 0; bit < 64; bit++) {
        CHECK_EQ(popcount64(UINT64_C(1) << bit), 1);
        CHECK_EQ(ctz64(UINT64_C(1) << bit), bit);
        CHECK_EQ(ctz64(UINT64_MAX << bit), bit);
    }
    for (round = 0; round < 1000; round++) {
        unsigned slow = 0;

        x = x * UINT64_C(6364136223846793005) + 1442695040888963407u;
        for (bit = 0; bit < 64; bit++)
            slow += x >> bit & 1;
        CHECK_EQ(popcount64(x), slow);
    }
}

static void
test_arithmetic(void)
{
    CHECK_EQ(min_u64(1, 2), 1);
    CHECK_EQ(min_u64(UINT64_MAX, 2), 2);
    CHECK_EQ(add_sat(1, 2), 3);
    CHECK_EQ(add_sat(UINT64_MAX - 1, 1), UINT64_MAX);
    CHECK_EQ(add_sat(UINT64_MAX, 1), UINT64_MAX);
    CHECK_EQ(add_sat(UINT64_MAX, UINT64_MAX), UINT64_MAX);
    CHECK_EQ(mul_sat(0, UINT64_MAX), 0);
    CHECK_EQ(mul_sat(UINT64_MAX, 0), 0);
    CHECK_EQ(mul_sat(UINT64_MAX, 1), UINT64_MAX);
    CHECK_EQ(mul_sat(UINT64_C(1) << 32, (UINT64_C(1) << 32) - 1),
             UINT64_MAX - 0xffffffff);
    CHECK_EQ(mul_sat(UINT64_C(1) << 32, UINT64_C(1) << 32), UINT64_MAX);
}

int
main(void)
{
    test_span_at();
    test_loads();
    test_bits();
    test_arithmetic();
    return checks_passed("bytes");
}
