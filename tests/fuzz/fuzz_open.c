/*
 * fuzz_open.c: open arbitrary bytes as a dump and use what opens.
 *
 * SPDX-License-Identifier: MIT
 */
#include "fuzz_use.h"

const struct fuzz_shape fuzz_shape = {FUZZ_DUMP, 0, 0};

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size ? size : 1); /* exact, so overreads show */
    struct bytes bytes = {copy, size};
    struct kdmp_stream stream = {read_at, &bytes, size};
    struct kdmp_dump *dump, *other;
    struct kdmp_error err, other_err;
    enum kdmp_status status;

    REQUIRE(copy != NULL);
    memcpy(copy, data, size);
    status = kdmp_open_memory(copy, size, &dump, &err);
    REQUIRE(kdmp_open_stream(&stream, &other, &other_err) == status);
    use_both(status, dump, other, &err, &other_err);
    free(copy);
    return 0;
}
