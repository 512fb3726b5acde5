/*
 * The speed of the core alone: one sample of each measurement per run.
 *
 *     bench_core DUMP ADDRESSES all|translate
 *
 * "translate" leaves out what touches the data frames, which in a sparse dump
 * would fill the page cache with zeros.  ADDRESSES is a file of little-endian
 * uint64_t: the page-table root, then the virtual addresses.  Prints "name
 * nanoseconds-per-call checksum" lines; the checksum of translations is the sum
 * of the physical addresses.
 *
 * SPDX-License-Identifier: MIT
 */
#define _POSIX_C_SOURCE 200809L

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kdmp.h"

struct input {
    struct kdmp_space space;
    const uint64_t *vaddrs;
    size_t count;
    const struct kdmp_dump *dump;
};

static double
now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static void
die(const char *what, enum kdmp_status status)
{
    fprintf(stderr, "bench_core: %s: %s\n", what,
            kdmp_status_name((int)status));
    exit(1);
}

static uint64_t
translate_all(const struct input *in)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < in->count; i++) {
        struct kdmp_translation t;
        enum kdmp_status st = kdmp_translate(&in->space, in->vaddrs[i], &t);

        if (st != KDMP_OK)
            die("translate", st);
        sum += t.paddr;
    }
    return sum;
}

static uint64_t
translate_one(const struct input *in)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < in->count; i++) {
        struct kdmp_translation t;

        kdmp_translate(&in->space, in->vaddrs[0], &t);
        sum += t.paddr;
    }
    return sum;
}

static uint64_t
read_all(const struct input *in, uint64_t size, uint64_t mask)
{
    static uint64_t buffer[512];
    uint64_t sum = 0;

    for (size_t i = 0; i < in->count; i++) {
        uint64_t done;
        enum kdmp_status st = kdmp_read(&in->space, in->vaddrs[i] & mask,
                                        buffer, size, &done, NULL);

        if (st != KDMP_OK)
            die("read", st);
        sum += buffer[0];
    }
    return sum;
}

static uint64_t
read_8(const struct input *in)
{
    return read_all(in, 8, ~UINT64_C(7));
}

static uint64_t
read_page(const struct input *in)
{
    return read_all(in, 4096, ~UINT64_C(4095));
}

/* What memory allows: the same number of loads, as scattered, from the map. */
static uint64_t
load_8(const struct input *in)
{
    uint64_t size, sum = 0;
    const uint8_t *bytes = kdmp_file_bytes(in->dump, &size);

    for (size_t i = 0; i < in->count; i++) {
        uint64_t value;

        memcpy(&value, bytes + (in->vaddrs[i] & 0x3ffffff8), 8);
        sum += value;
    }
    return sum;
}

static uint64_t
frame_status(const struct input *in)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < in->count; i++)
        sum += kdmp_frame_status(in->dump, in->vaddrs[i] >> 12 & 0x3fffff)
               == KDMP_OK;
    return sum;
}

static void
measure(const char *name, uint64_t (*function)(const struct input *),
        const struct input *in)
{
    uint64_t sum = function(in); /* warm-up */
    double start = now_ns();

    sum = function(in);
    printf("%s %.3f %llu\n", name, (now_ns() - start) / (double)in->count,
           (unsigned long long)sum);
}

static uint64_t *
load(const char *path, size_t *count_out)
{
    FILE *file = fopen(path, "rb");
    uint64_t *numbers;
    long size;

    if (file == NULL || fseek(file, 0, SEEK_END) != 0
        || (size = ftell(file)) < 16
        || (numbers = malloc((size_t)size)) == NULL)
        die(path, KDMP_E_OS);
    rewind(file);
    *count_out = fread(numbers, 8, (size_t)size / 8, file);
    fclose(file);
    return numbers;
}

int
main(int argc, char **argv)
{
    struct kdmp_error error;
    struct kdmp_dump *dump;
    struct input in;
    enum kdmp_status st;
    uint64_t *numbers;
    double start;

    if (argc != 4)
        return 2;
    numbers = load(argv[2], &in.count);
    start = now_ns();
    st = kdmp_open_path(argv[1], 1, &dump, &error);
    if (st != KDMP_OK)
        die(error.message, st);
    printf("open %.0f %llu\n", now_ns() - start,
           (unsigned long long)kdmp_get_info(dump)->pages_available);

    in.space = (struct kdmp_space){.source = kdmp_get_source(dump),
                                   .dump = dump,
                                   .root = numbers[0],
                                   .paging = KDMP_PAGING_X64};
    in.vaddrs = numbers + 1;
    in.count--;
    in.dump = dump;
    measure("translate", translate_all, &in);
    measure("translate-same", translate_one, &in);
    measure("frame-status", frame_status, &in);
    if (strcmp(argv[3], "all") == 0) {
        measure("load-8", load_8, &in);
        measure("read-8", read_8, &in);
        measure("read-page", read_page, &in);
    }
    kdmp_close(dump);
    free(numbers);
    return 0;
}
