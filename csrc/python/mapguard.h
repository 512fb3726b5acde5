/*
 * What happens when a page of a mapped file cannot be had any more.
 *
 * A file that shrinks, or a medium that fails, turns the next access to its
 * mapping into SIGBUS, which ends the process.  A handler looks whether the
 * address lies in a mapping of an open dump.  If so it notes the loss in the
 * dump's map_guard and puts zeros in the place of the lost bytes, so that
 * whatever was going on goes on, and the call into the binding raises at its
 * end.  All other faults go to the handler that was there before.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef KDMP_MAPGUARD_H
#define KDMP_MAPGUARD_H

#include <stdatomic.h>
#include <stdint.h>

#include "kdmp.h"

/* Whether there is such a handler on this platform. */
#ifdef _WIN32
#define MAP_GUARD 0 /* it would be EXCEPTION_IN_PAGE_ERROR */
#else
#define MAP_GUARD 1
#endif

/* The mapped files of one dump: the dump's own and page files.  It must stay
   where it is until all of them are unmapped. */
struct map_guard {
    _Atomic(uintptr_t) lost;   /* see map_guard_loss(); 0 while all is well */
    _Atomic(uintptr_t) looked; /* when the sizes were looked at; ms */
    int file;                  /* which is mapped next: 0 the dump, or */
    int mappings;              /* 1 + n page file n;  how many are mapped */
};

/* Begin anew; nothing is mapped. */
void map_guard_init(struct map_guard *guard);

/* Make a watch for kdmp_input of it. */
struct kdmp_map_watch map_guard_watch(struct map_guard *guard);

/* Whether a page was lost: what was read of a mapping until then is true only
   if this is 0 afterwards. */
static inline int
map_guard_is_lost(const struct map_guard *guard)
{
    /* Reads of the mapping stay before the look at the note.  Costs nothing
       but on weakly ordered machines. */
    atomic_thread_fence(memory_order_acquire);
    return atomic_load_explicit(&guard->lost, memory_order_relaxed) != 0;
}

/* What was lost first: 1, with the number of the file and the offset in it from
   which on it is gone, or 0. */
int map_guard_loss(const struct map_guard *guard, int *file, uint64_t *offset);

/* Look whether a file has become shorter than its mapping: within the last
   page of a file the system shows zeros without a signal.  As
   map_guard_is_lost(), at the price of a system call for each file. */
int map_guard_check(struct map_guard *guard);

/* The same after a long call: at the first time and then at most once in
   GLANCE_MS by a coarse clock, so after every call that takes twice that. */
#define GLANCE_MS 10
void map_guard_glance(struct map_guard *guard);

/* How many mappings there are in this process, for tests. */
int map_guard_count(void);

#endif /* KDMP_MAPGUARD_H */
