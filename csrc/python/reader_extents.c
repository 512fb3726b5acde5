/*
 * Reader.extents(): what an address space can read, in pieces.
 *
 * SPDX-License-Identifier: MIT
 */
#include "reader.h"

/* Fetched from the core at once. */
#define BATCH 128

typedef struct {
    PyObject_HEAD
    ReaderObject *reader;
    struct kdmp_extent_cursor cursor;
    struct kdmp_stretch batch[BATCH];
    size_t count;
    size_t next;
    char over; /* the limit was reached */
    char busy; /* a thread is fetching */
} ExtentIterator;

/* The next extents: 0, or -1 with an exception.  The VADs are asked once if
   an entry refers to them, and the same extents fetched again. */
static int
fetch(ExtentIterator *self)
{
    struct kdmp_fault fault = {.status = KDMP_OK};
    struct kdmp_extent_cursor before = self->cursor;
    ReaderObject *reader = self->reader;
    struct access access = {.space = &reader->space};
    PyThreadState *ts;
    int again = 0;

    self->next = self->count = 0;
    if (dump_pin(reader->dump) < 0)
        return -1;
    do {
        self->cursor = before;
        ts = access_release(reader, &access, UINT64_MAX);
        fault.status = kdmp_next_extents(access.space, &self->cursor,
                                         self->batch, BATCH, &self->count);
        access_reacquire(reader, ts);
        fault.status = access_end(reader, fault.status);
        self->over = fault.status == KDMP_E_LIMIT;
        if (fault.status != KDMP_OK && !self->over)
            raise_fault(reader->state, &reader->space, &fault);
        again = PyErr_Occurred() ? -1
                : self->cursor.met_vad && !reader->views_asked
                    ? access_ask_vads(reader, &access)
                    : 0;
    } while (again > 0);
    if (again < 0) { /* the next call tries again */
        self->cursor = before;
        self->count = 0;
    }
    return again;
}

/* Whether there is another extent: 1, 0, or -1 with an exception. */
static int
ready(ExtentIterator *self)
{
    int rc;

    if (self->busy)
        return reader_raise_busy();
    while (self->next == self->count) {
        if (self->over && !self->cursor.has_pending) {
            self->over = 0;
            self->cursor.done = 1;
            reader_raise_limit(self->reader, self->cursor.next);
            return -1;
        }
        if (self->cursor.done && !self->cursor.has_pending)
            return 0;
        self->busy = 1;
        rc = fetch(self);
        self->busy = 0;
        if (rc < 0)
            return -1;
    }
    return 1;
}

static PyObject *
iterator_next(PyObject *op)
{
    ExtentIterator *self = (ExtentIterator *)op;

    if (ready(self) <= 0)
        return NULL;
    return extent_record(self->reader->state, &self->batch[self->next++]);
}

static PyObject *
iterator_skip(PyObject *op, PyObject *arg)
{
    ExtentIterator *self = (ExtentIterator *)op;
    uint64_t left, last = 0;
    int rc;

    if (as_u64(arg, "size", &left) < 0)
        return NULL;
    if (left == 0) {
        PyErr_SetString(PyExc_ValueError, "size must not be 0");
        return NULL;
    }
    while (left > 0) {
        struct kdmp_stretch *first;

        rc = ready(self);
        if (rc < 0)
            return NULL;
        if (rc == 0)
            Py_RETURN_NONE;
        first = &self->batch[self->next];
        if (first->length <= left) {
            last = first->address + (first->length - 1);
            left -= first->length;
            self->next++;
            continue;
        }
        last = first->address + (left - 1);
        first->address += left;
        first->length -= left;
        if (first->paddr != UINT64_MAX)
            first->paddr += left;
        if (first->file_offset != UINT64_MAX)
            first->file_offset += left;
        left = 0;
    }
    return PyLong_FromUnsignedLongLong(last);
}

static int
iterator_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((ExtentIterator *)op)->reader);
    return 0;
}

static void
iterator_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);

    PyObject_GC_UnTrack(op);
    Py_XDECREF(((ExtentIterator *)op)->reader);
    type->tp_free(op);
    Py_DECREF(type);
}

PyDoc_STRVAR(
    iterator_skip_doc,
    "skip($self, size, /)\n--\n\n"
    "Leave out the next `size` readable bytes, the first part of an extent if "
    "need be, and\n"
    "return the address of the last of them; None if there were fewer, which "
    "are left out.\n\n"
    "It makes no Extents and is much faster than the iteration. Raises as the "
    "iteration.");

static PyMethodDef iterator_methods[] = {
    {"skip", iterator_skip, METH_O, iterator_skip_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot iterator_slots[] = {
    {Py_tp_doc, "Iterator over what an address space can read, an Extent "
                "each; made by Reader.extents()."},
    {Py_tp_methods, iterator_methods},
    {Py_tp_traverse, iterator_traverse},
    {Py_tp_dealloc, iterator_dealloc},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, iterator_next},
    {0, NULL},
};

PyType_Spec extent_iterator_spec = {
    .name = "kdmp._kdmp.ExtentIterator",
    .basicsize = sizeof(ExtentIterator),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = iterator_slots,
};

const char reader_extents_doc[] = PyDoc_STR(
    "extents($self, /, start=0, last=None)\n--\n\n"
    "Return an iterator over what can be read from `start` to `last`, an "
    "Extent each.\n\n"
    "Extents come in ascending order and lazily, and cover the bytes that "
    "reads read\n"
    "there, each once. Every extent is in one piece in the file, or not in the "
    "file at all: a\n"
    "frame of an overlay, pages of a page file. What follows each other in "
    "address, frame\n"
    "and file is one extent.\n"
    "Page tables that refer to each other without an end give KdmpError after "
    "a bounded\n"
    "number of tables.");

PyObject *
reader_extents(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
               PyObject *kwnames)
{
    SIGNATURE("extents", 2, 2, 0, "start", "last");
    ReaderObject *reader = (ReaderObject *)op;
    struct kdmp_extent_cursor cursor = {.next = 0};
    ExtentIterator *self;
    PyTypeObject *type = reader->state->types[T_EXTENT_ITERATOR];

    if (bind_args(&sig, args, nargs, kwnames, slot) < 0
        || reader_bounds(reader, slot[0], slot[1], &cursor.next, &cursor.last)
               < 0
        || reader_table_limit(reader, &cursor.tables_left) < 0)
        return NULL;
    self = (ExtentIterator *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->reader = (ReaderObject *)Py_NewRef(reader);
        self->cursor = cursor;
    }
    return (PyObject *)self;
}
