/*
 * DumpBase.compare(): which frames of two dumps differ.
 *
 * SPDX-License-Identifier: MIT
 */
#include "pykdmp.h"

/* Runs that there is room for at first; more follows need. */
#define FIRST_ROOM 256

const char dump_compare_doc[] = PyDoc_STR(
    "compare($self, /, other, first, end)\n--\n\n"
    "Compare the frames [`first`, `end`) of two dumps by content.\n\n"
    "Returns the runs of frames that differ, and the counts of frames that are "
    "the\n"
    "same, changed, only here, only in `other`, and of bytes that differ in "
    "changed\n"
    "frames. A run is three native 64-bit numbers: the first frame, how many, "
    "and 1\n"
    "changed, 2 only here, 3 only in `other`. OSError if a file cannot be "
    "read.");

struct runs {
    struct kdmp_frame_run *items;
    size_t room;
    size_t count;
};

/* Room for as many again; needs no interpreter. */
static int
runs_grow(struct runs *runs)
{
    size_t room = runs->room == 0 ? FIRST_ROOM : 2 * runs->room;
    struct kdmp_frame_run *items = NULL;

    if (room <= PY_SSIZE_T_MAX / sizeof(*items))
        items = PyMem_RawRealloc(runs->items, room * sizeof(*items));
    if (items == NULL)
        return -1;
    runs->items = items;
    runs->room = room;
    return 0;
}

/* The whole comparison; the caller frees the runs. */
static enum kdmp_status
compare_all(const DumpObject *first, const DumpObject *second,
            struct kdmp_comparison *state, struct runs *runs)
{
    enum kdmp_status status = KDMP_OK;

    while (status == KDMP_OK && state->next < state->end) {
        size_t count;

        if (runs->count == runs->room && runs_grow(runs) < 0)
            return KDMP_E_NOMEM;
        status = kdmp_compare_frames(
            kdmp_get_source(first->handle), kdmp_get_source(second->handle),
            state, runs->items + runs->count, runs->room - runs->count, &count);
        runs->count += count;
    }
    return status;
}

/* The result; frees the runs. */
static PyObject *
compare_result(const struct kdmp_comparison *state, struct runs *runs)
{
    PyObject *bytes = PyBytes_FromStringAndSize(
        (const char *)runs->items,
        (Py_ssize_t)(runs->count * sizeof(*runs->items)));

    PyMem_RawFree(runs->items);
    return bytes == NULL
               ? NULL
               : Py_BuildValue("(N(KKKKK))", bytes,
                               (unsigned long long)state->same,
                               (unsigned long long)state->changed,
                               (unsigned long long)state->only_first,
                               (unsigned long long)state->only_second,
                               (unsigned long long)state->changed_bytes);
}

static PyObject *
compare_pinned(DumpObject *self, DumpObject *other, uint64_t first,
               uint64_t end)
{
    struct kdmp_comparison state = {.next = first, .end = end};
    struct runs runs = {NULL, 0, 0};
    struct kdmp_error err = {.status = KDMP_OK};
    /* A file object calls Python and needs the interpreter. */
    PyThreadState *ts =
        other->file == NULL && end - first >= RELEASE_GIL_MIN >> 12
            ? work_begin(self, UINT64_MAX)
            : NULL;

    err.status = compare_all(self, other, &state, &runs);
    if (ts != NULL) {
        (void)map_guard_check(&self->guard);
        (void)map_guard_check(&other->guard);
    }
    work_end(ts);
    err.status = dump_end(other, err.status);
    err.status = dump_end(self, err.status);
    if (err.status == KDMP_OK)
        return compare_result(&state, &runs);
    PyMem_RawFree(runs.items);
    return PyErr_Occurred() ? NULL : raise_error(self->state, &err, NULL);
}

PyObject *
dump_compare(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
             PyObject *kwnames)
{
    SIGNATURE("compare", 3, 3, 3, "other", "first", "end");
    DumpObject *self = (DumpObject *)op, *other;
    uint64_t first, end;

    if (bind_args(&sig, args, nargs, kwnames, slot) < 0)
        return NULL;
    if (!PyObject_TypeCheck(slot[0], self->state->types[T_DUMP])) {
        return PyErr_Format(PyExc_TypeError, "other must be a dump, not %.100s",
                            Py_TYPE(slot[0])->tp_name);
    }
    other = (DumpObject *)slot[0];
    if (as_u64(slot[1], "first", &first) < 0 || as_u64(slot[2], "end", &end) < 0
        || dump_pin(self) < 0) {
        return NULL;
    }
    if (dump_pin(other) < 0) {
        dump_unpin(self);
        return NULL;
    }
    return compare_pinned(self, other, first, end > first ? end : first);
}
