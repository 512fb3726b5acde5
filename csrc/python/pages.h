/*
 * kdmp.Pages, as its two files see it.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef KDMP_PAGES_H
#define KDMP_PAGES_H

#include "pykdmp.h"

#define PAGE_SHIFT 12
#define PAGE_SIZE 4096
#define PFN_END ((uint64_t)1 << (64 - PAGE_SHIFT)) /* of all addresses */

typedef struct {
    PyObject_HEAD
    struct module_state *state;
    DumpObject *dump;
    uint64_t start; /* frame numbers [start, stop) */
    uint64_t stop;
    uint64_t count; /* captured frames among them */
} PagesObject;

/* pages_frames.c: the memoryview of a frame, or the reason for which there is
   none. */
PyObject *pages_frame(PagesObject *self, uint64_t pfn);
extern const char pages_buffer_doc[];
PyObject *pages_buffer(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                       PyObject *kwnames);

#endif /* KDMP_PAGES_H */
