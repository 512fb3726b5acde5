/*
 * fuzz_layout.c: where the pages of a dump are, by runs, bitmaps and ranges.
 *
 * The input is a flag (bit 0: 64-bit), DumpType, how many pages follow the
 * rest (u8, at most 15) and how many times 16 bytes follow those (u8), 0x70
 * bytes of the header from NumberOfRuns on, and what comes after the header.
 * The dump is made of that, so that inputs are small and all of them counts.
 *
 * SPDX-License-Identifier: MIT
 */
#include "fuzz_use.h"

enum { HEAD = 4 + 0x70, PAGE = 0x1000 };

const struct fuzz_shape fuzz_shape = {FUZZ_LAYOUT, HEAD, 0};

/* Every page begins with its own number, so that the wrong one shows. */
static size_t
make_dump(uint8_t *out, const uint8_t *data, size_t size)
{
    int is64 = data[0] & 1;
    size_t header = is64 ? 0x2000 : 0x1000, at = header + (size - HEAD), i;

    for (i = 0; i < header; i++)
        out[i] = (uint8_t)"PAGE"[i % 4];
    memcpy(out, is64 ? "PAGEDU64" : "PAGEDUMP", 8);
    fuzz_store(out + (is64 ? 0x30 : 0x20), is64 ? 0x8664 : 0x14c, 4);
    fuzz_store(out + (is64 ? 0xf98 : 0xf88), data[1], 4);
    memcpy(out + (is64 ? 0x88 : 0x64), data + 4, 0x70);
    memcpy(out + header, data + HEAD, size - HEAD);
    for (i = 0; i < data[2] % 16u; i++, at += PAGE) {
        memset(out + at, 0, PAGE);
        fuzz_store(out + at, i + 1, 8);
    }
    memset(out + at, 0xee, data[3] * 16u);
    return at + data[3] * 16u;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bytes bytes;
    struct kdmp_stream stream = {read_at, &bytes, 0};
    struct kdmp_dump *dump, *other;
    struct kdmp_error err, other_err;
    enum kdmp_status status;
    uint8_t *image, *copy;

    if (size < HEAD)
        return 0;
    image = malloc(0x2000 + size + 15 * PAGE + 255 * 16);
    REQUIRE(image != NULL);
    bytes.size = stream.size = make_dump(image, data, size);
    copy = malloc(bytes.size); /* exact, so overreads show */
    REQUIRE(copy != NULL);
    memcpy(copy, image, bytes.size);
    free(image);
    bytes.ptr = copy;
    status = kdmp_open_memory(copy, bytes.size, &dump, &err);
    REQUIRE(kdmp_open_stream(&stream, &other, &other_err) == status);
    if (status == KDMP_OK) {
        struct kdmp_space mapped = {.source = kdmp_get_source(dump)};
        struct kdmp_space streamed = {.source = kdmp_get_source(other)};

        REQUIRE(memcmp(kdmp_get_info(dump), kdmp_get_info(other),
                       sizeof(struct kdmp_info))
                == 0);
        use_runs(dump, &mapped, &streamed);
        read_both(&mapped, &streamed, 0, BUFFER);
        read_both(&mapped, &streamed, data[2] * 0x1800u, BUFFER);
    } else {
        REQUIRE(strcmp(err.message, other_err.message) == 0);
        REQUIRE(err.where == other_err.where);
    }
    kdmp_close(dump);
    kdmp_close(other);
    free(copy);
    return 0;
}
