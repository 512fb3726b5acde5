/*
 * fuzz_raw.c: open arbitrary bytes as a memory image or ELF core, find
 * page-table roots in it and use it.
 *
 * The input is a machine (u8, enum kdmp_machine), a number of runs (u8, at
 * most MAX_RUNS), the runs (three u64 each: pfn, count, file offset), and the
 * image.
 *
 * SPDX-License-Identifier: MIT
 */
#include "fuzz_use.h"

const struct fuzz_shape fuzz_shape = {FUZZ_RAW, 2, 24};

enum { MAX_RUNS = 8, RUN_SIZE = 24 };

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct kdmp_run runs[MAX_RUNS];
    struct kdmp_raw raw = {.runs = runs};
    struct kdmp_input memory = {0}, streamed = {0};
    struct kdmp_dump *dump, *other;
    struct kdmp_error err, other_err;
    enum kdmp_status status;
    struct bytes bytes;
    struct kdmp_stream stream;
    uint8_t *copy;
    unsigned i;

    if (size < 2)
        return 0;
    raw.machine = (enum kdmp_machine)(data[0] % 6);
    raw.run_count = data[1] % (MAX_RUNS + 1);
    data += 2;
    size -= 2;
    for (i = 0; i < raw.run_count; i++) {
        if (size < RUN_SIZE)
            return 0;
        runs[i].pfn = fuzz_load(data, 8);
        runs[i].count = fuzz_load(data + 8, 8);
        runs[i].file_offset = fuzz_load(data + 16, 8);
        data += RUN_SIZE;
        size -= RUN_SIZE;
    }
    copy = malloc(size ? size : 1); /* exact, so overreads show */
    REQUIRE(copy != NULL);
    memcpy(copy, data, size);
    bytes.ptr = copy;
    bytes.size = size;
    stream.read_at = read_at;
    stream.context = &bytes;
    stream.size = size;
    memory.data = copy;
    memory.size = size;
    streamed.stream = &stream;
    status = kdmp_open_input(&memory, &raw, &dump, &err);
    REQUIRE(kdmp_open_input(&streamed, &raw, &other, &other_err) == status);
    use_both(status, dump, other, &err, &other_err);
    free(copy);
    return 0;
}
