/*
 * test_threads.c: several threads use one dump at once, by pointer and by
 * stream, while half of them write to overlays over it, each to its own.
 * ThreadSanitizer watches (tools/check.sh tsan).
 *
 * SPDX-License-Identifier: MIT
 */
#define _POSIX_C_SOURCE 200809L

#include <pthread.h>

#include "check.h"
#include "minidump.h"

enum { THREADS = 4, ROUNDS = 2000 };

struct job {
    const struct kdmp_dump *dump;
    pthread_barrier_t *barrier;
    unsigned seed;
    int writes;
    unsigned failures; /* of this thread alone */
};

static void
use_dump(struct job *job, unsigned round)
{
    struct kdmp_space space = mini_space(job->dump, KDMP_PAGING_X64);
    struct kdmp_translation walk;
    struct kdmp_fault fault;
    struct kdmp_run run;
    uint64_t done, offset = round * 37 % 0xf00;
    uint8_t buffer[64];

    job->failures += kdmp_translate(&space, 0x5000 + offset, &walk) != KDMP_OK
                     || walk.paddr != 0x5000 + offset;
    job->failures += kdmp_read(&space, 0x6000 + offset, buffer, sizeof(buffer),
                               &done, &fault)
                         != KDMP_OK
                     || buffer[63] != mini_byte(8, offset + 63);
    job->failures += kdmp_read(&space, 0x6ff8, buffer, 16, &done, &fault)
                         != KDMP_E_NOT_IN_DUMP
                     || done != 8 || fault.address != 0x7000;
    job->failures +=
        kdmp_read_string(&space, 0x5100, 1, buffer, 64, &done, &fault)
            != KDMP_OK
        || done != 5;
    job->failures += !kdmp_next_run(job->dump, 6, &run) || run.pfn != 8;
    job->failures += kdmp_count_frames(job->dump, 0, 6) != 5;
}

/* Write, map another frame, and go back. */
static void
use_overlay(struct job *job, struct kdmp_overlay *overlay, struct kdmp_tlb *tlb,
            unsigned round)
{
    struct kdmp_space space = mini_space(job->dump, KDMP_PAGING_X64), tables;
    uint64_t done, snapshot = 0, frames, offset = round * 37 % 0xf00;
    uint8_t buffer[8], data[8];

    memset(data, (int)(round + job->seed), sizeof(data));
    space.source = kdmp_overlay_source(overlay);
    tables = space;
    tables.paging = KDMP_PAGING_PHYSICAL;
    space.tlb = tlb;
    job->failures += kdmp_overlay_snapshot(overlay, &snapshot) != KDMP_OK;
    job->failures += kdmp_overlay_write(overlay, &space, 0x6000 + offset, data,
                                        sizeof(data), &done, NULL)
                     != KDMP_OK;
    job->failures +=
        kdmp_read(&space, 0x6000 + offset, buffer, 8, &done, NULL) != KDMP_OK
        || memcmp(buffer, data, 8) != 0;
    store_le(buffer, 0x5000 | 3, 8);
    job->failures +=
        kdmp_overlay_write(overlay, &tables, 0x4030, buffer, 8, &done, NULL)
        != KDMP_OK;
    job->failures +=
        kdmp_read(&space, 0x6000 + offset, buffer, 1, &done, NULL) != KDMP_OK
        || buffer[0] != mini_byte(5, offset);
    job->failures += kdmp_overlay_restore(overlay, snapshot, &frames) != KDMP_OK
                     || frames != 2;
    job->failures += kdmp_overlay_drop(overlay, snapshot) != KDMP_OK;
    job->failures +=
        kdmp_read(&space, 0x6000 + offset, buffer, 1, &done, NULL) != KDMP_OK
        || buffer[0] != mini_byte(8, offset);
}

static void *
worker(void *argument)
{
    struct job *job = argument;
    struct kdmp_overlay *overlay = NULL;
    struct kdmp_tlb *tlb = NULL;
    unsigned round;

    if (job->writes) {
        job->failures +=
            kdmp_overlay_open(kdmp_get_source(job->dump), &overlay) != KDMP_OK
            || kdmp_tlb_open(16, overlay, &tlb) != KDMP_OK;
    }
    pthread_barrier_wait(job->barrier);
    for (round = 0; round < ROUNDS; round++) {
        use_dump(job, round + job->seed);
        if (job->writes)
            use_overlay(job, overlay, tlb, round);
    }
    kdmp_tlb_close(tlb);
    kdmp_overlay_close(overlay);
    return NULL;
}

static void
run_threads(const struct kdmp_dump *dump)
{
    pthread_t threads[THREADS];
    struct job jobs[THREADS];
    pthread_barrier_t barrier;
    unsigned i;

    CHECK_EQ(pthread_barrier_init(&barrier, NULL, THREADS), 0);
    for (i = 0; i < THREADS; i++) {
        struct job job = {dump, &barrier, i * 1000, i % 2 != 0, 0};

        jobs[i] = job;
        CHECK_EQ(pthread_create(&threads[i], NULL, worker, &jobs[i]), 0);
    }
    for (i = 0; i < THREADS; i++) {
        CHECK_EQ(pthread_join(threads[i], NULL), 0);
        CHECK_EQ(jobs[i].failures, 0);
    }
    pthread_barrier_destroy(&barrier);
}

int
main(void)
{
    static uint8_t image[MINI_MAX];
    unsigned type;

    for (type = 0; type < sizeof(mini_types) / sizeof(mini_types[0]); type++) {
        struct mini_bytes bytes = {image, mini_dump(image, mini_types[type])};
        struct kdmp_stream stream = {mini_read_at, &bytes, bytes.size};
        struct kdmp_error err;
        struct kdmp_dump *dump;

        CHECK_EQ(kdmp_open_memory(image, bytes.size, &dump, &err), KDMP_OK);
        run_threads(dump);
        kdmp_close(dump);
        CHECK_EQ(kdmp_open_stream(&stream, &dump, &err), KDMP_OK);
        run_threads(dump);
        kdmp_close(dump);
    }
    return checks_passed("threads");
}
