/*
 * fuzz_open.c: open arbitrary bytes as a dump and use what opens.
 *
 * SPDX-License-Identifier: MIT
 */
#define _POSIX_C_SOURCE 200809L

#include "fuzz_use.h"

const struct fuzz_shape fuzz_shape = {FUZZ_DUMP, 0, 0};

/* The same through a file, mapped and read. */
static void
use_file(const uint8_t *data, size_t size, enum kdmp_status want)
{
    FILE *file = tmpfile();
    struct kdmp_dump *mapped, *read;
    struct kdmp_error err, other_err;

    REQUIRE(file != NULL);
    REQUIRE(fwrite(data, 1, size, file) == size && fflush(file) == 0);
    REQUIRE(kdmp_open_fd(fileno(file), 1, &mapped, &err) == want);
    REQUIRE(kdmp_open_fd(fileno(file), 0, &read, &other_err) == want);
    use_both(want, mapped, read, &err, &other_err);
    fclose(file);
}

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
    if (size % 16 == 5) /* seldom: files are slow */
        use_file(copy, size, status);
    free(copy);
    return 0;
}
