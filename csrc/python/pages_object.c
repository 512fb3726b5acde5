/*
 * kdmp.Pages: the captured frames, and the iterators it gives out.
 *
 * Everything is asked of the frame index when it is needed; a Pages is two
 * frame numbers.
 *
 * SPDX-License-Identifier: MIT
 */
#include "pages.h"

/* Both iterators: 'run' is what is left of the run being shown. */
typedef struct {
    PyObject_HEAD
    struct module_state *state;
    DumpObject *dump;
    uint64_t next; /* where to look for another run */
    uint64_t stop;
    struct kdmp_run run;
} IteratorObject;

/* --- iterators --------------------------------------------------------- */

static IteratorObject *
iterator_new(PagesObject *pages, enum type_index which)
{
    PyTypeObject *type = pages->state->types[which];
    IteratorObject *self = (IteratorObject *)type->tp_alloc(type, 0);

    if (self != NULL) {
        self->state = pages->state;
        self->dump = (DumpObject *)Py_NewRef(pages->dump);
        self->next = pages->start;
        self->stop = pages->stop;
    }
    return self;
}

static int
iterator_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((IteratorObject *)op)->dump);
    return 0;
}

static void
iterator_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);

    PyObject_GC_UnTrack(op);
    Py_XDECREF(((IteratorObject *)op)->dump);
    type->tp_free(op);
    Py_DECREF(type);
}

/* Get another run, cut to the window.  1, 0 at the end, -1 on error. */
static int
next_run(IteratorObject *self)
{
    struct kdmp_run run;
    int found;

    if (dump_pin(self->dump) < 0)
        return -1;
    found = self->next < self->stop
            && kdmp_next_run(self->dump->handle, self->next, &run)
            && run.pfn < self->stop && run.count > 0;
    if (dump_done(self->dump) < 0)
        return -1;
    if (!found) {
        self->next = self->stop;
        return 0;
    }
    if (run.count > self->stop - run.pfn)
        run.count = self->stop - run.pfn;
    self->next = run.pfn + run.count;
    self->run = run;
    return 1;
}

static PyObject *
page_iterator_next(PyObject *op)
{
    IteratorObject *self = (IteratorObject *)op;

    if (map_guard_is_lost(&self->dump->guard)) {
        dump_raise_lost(self->dump);
        return NULL;
    }
    if (self->run.count == 0 && next_run(self) <= 0)
        return NULL;
    self->run.count--;
    return PyLong_FromUnsignedLongLong(self->run.pfn++);
}

static PyObject *
run_iterator_next(PyObject *op)
{
    IteratorObject *self = (IteratorObject *)op;

    return next_run(self) > 0 ? run_record(self->state, &self->run) : NULL;
}

static PyType_Slot page_iterator_slots[] = {
    {Py_tp_doc, "Iterator over frame numbers."},
    {Py_tp_traverse, iterator_traverse},
    {Py_tp_dealloc, iterator_dealloc},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, page_iterator_next},
    {0, NULL},
};

static PyType_Slot run_iterator_slots[] = {
    {Py_tp_doc, "Iterator over runs of frames."},
    {Py_tp_traverse, iterator_traverse},
    {Py_tp_dealloc, iterator_dealloc},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, run_iterator_next},
    {0, NULL},
};

PyType_Spec page_iterator_spec = {
    .name = "kdmp._kdmp.PageIterator",
    .basicsize = sizeof(IteratorObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = page_iterator_slots,
};

PyType_Spec run_iterator_spec = {
    .name = "kdmp._kdmp.RunIterator",
    .basicsize = sizeof(IteratorObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = run_iterator_slots,
};

/* --- Pages ------------------------------------------------------------- */

PyObject *
pages_new(DumpObject *dump, uint64_t start, uint64_t stop)
{
    PyTypeObject *type = dump->state->types[T_PAGES];
    PagesObject *self = (PagesObject *)type->tp_alloc(type, 0);
    uint64_t end;

    if (self == NULL)
        return NULL;
    self->state = dump->state;
    self->dump = (DumpObject *)Py_NewRef(dump);
    if (dump_pin(dump) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    end = kdmp_get_info(dump->handle)->pfn_end;
    self->stop = stop < end ? stop : end;
    self->start = start < self->stop ? start : self->stop;
    self->count = kdmp_count_frames(dump->handle, self->start, self->stop);
    if (dump_done(dump) < 0)
        Py_CLEAR(self);
    return (PyObject *)self;
}

static int
pages_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((PagesObject *)op)->dump);
    return 0;
}

static void
pages_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);

    PyObject_GC_UnTrack(op);
    Py_XDECREF(((PagesObject *)op)->dump);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyObject *
pages_repr(PyObject *op)
{
    PagesObject *self = (PagesObject *)op;

    return format_text("<Pages: %llu frames in [0x%llx, 0x%llx)>",
                       (unsigned long long)self->count,
                       (unsigned long long)self->start,
                       (unsigned long long)self->stop);
}

static Py_ssize_t
pages_length(PyObject *op)
{
    PagesObject *self = (PagesObject *)op;

    if (dump_pin(self->dump) < 0)
        return -1;
    dump_unpin(self->dump);
    if (self->count > PY_SSIZE_T_MAX) {
        PyErr_SetString(PyExc_OverflowError, "too many frames");
        return -1;
    }
    return (Py_ssize_t)self->count;
}

static int
pages_contains(PyObject *op, PyObject *arg)
{
    PagesObject *self = (PagesObject *)op;
    uint64_t pfn;
    int found;

    if (!PyIndex_Check(arg))
        return 0;
    if (as_u64(arg, "pfn", &pfn) < 0) {
        if (!PyErr_ExceptionMatches(PyExc_OverflowError))
            return -1;
        PyErr_Clear();
        return 0;
    }
    if (dump_pin(self->dump) < 0)
        return -1;
    found = pfn >= self->start && pfn < self->stop
            && kdmp_frame_status(self->dump->handle, pfn) == KDMP_OK;
    return dump_done(self->dump) < 0 ? -1 : found;
}

/* One end of a slice: None or a frame number; too large ones are cut. */
static int
slice_end(PyObject *arg, const char *name, uint64_t missing, uint64_t *out)
{
    PyObject *number;
    int overflow;
    long long value;

    if (arg == Py_None) {
        *out = missing;
        return 0;
    }
    number = PyNumber_Index(arg);
    if (number == NULL)
        return -1;
    value = PyLong_AsLongLongAndOverflow(number, &overflow);
    Py_DECREF(number);
    if (overflow < 0 || (overflow == 0 && value < 0)) {
        PyErr_Format(PyExc_ValueError,
                     "%s of a slice of frame numbers must not be negative",
                     name);
        return -1;
    }
    *out = overflow > 0 ? UINT64_MAX : (uint64_t)value;
    return 0;
}

static PyObject *
pages_slice(PagesObject *self, PySliceObject *slice)
{
    uint64_t start, stop, step;

    if (slice_end(slice->step, "step", 1, &step) < 0
        || slice_end(slice->start, "start", 0, &start) < 0
        || slice_end(slice->stop, "stop", UINT64_MAX, &stop) < 0) {
        return NULL;
    }
    if (step != 1) {
        PyErr_SetString(PyExc_ValueError,
                        "a slice of frame numbers has no step");
        return NULL;
    }
    return pages_new(self->dump, start > self->start ? start : self->start,
                     stop < self->stop ? stop : self->stop);
}

static PyObject *
pages_subscript(PyObject *op, PyObject *key)
{
    PagesObject *self = (PagesObject *)op;
    uint64_t pfn, end;

    if (PySlice_Check(key))
        return pages_slice(self, (PySliceObject *)key);
    if (as_u64(key, "pfn", &pfn) < 0)
        return NULL;
    if (pfn >= self->start && pfn < self->stop)
        return pages_frame(self, pfn);
    if (dump_pin(self->dump) < 0)
        return NULL;
    end = kdmp_get_info(self->dump->handle)->pfn_end;
    dump_unpin(self->dump);
    if (pfn >= end)
        return pages_frame(self, pfn); /* which says why not */
    return raise_text(PyExc_IndexError,
                      "frame 0x%llx is outside of [0x%llx, 0x%llx)",
                      (unsigned long long)pfn, (unsigned long long)self->start,
                      (unsigned long long)self->stop);
}

static PyObject *
pages_iter(PyObject *op)
{
    return (PyObject *)iterator_new((PagesObject *)op, T_PAGE_ITERATOR);
}

PyDoc_STRVAR(runs_doc,
             "runs($self, /)\n--\n\n"
             "Iterate over the runs of frames in ascending order, as Run.\n\n"
             "The frames of a run are contiguous in memory and in the file.");

static PyObject *
pages_runs(PyObject *op, PyObject *unused)
{
    return (PyObject *)iterator_new((PagesObject *)op, T_RUN_ITERATOR);
}

static PyMethodDef pages_methods[] = {
    {"runs", pages_runs, METH_NOARGS, runs_doc},
    {"buffer", (PyCFunction)(void (*)(void))pages_buffer,
     METH_FASTCALL | METH_KEYWORDS, pages_buffer_doc},
    {NULL},
};

PyDoc_STRVAR(
    pages_doc,
    "The captured frames of a dump, sorted, or those in a window of frame "
    "numbers.\n\n"
    "`len(pages)` and `pfn in pages` take constant time; iteration gives "
    "frame numbers in\n"
    "ascending order. `pages[pfn]` is a read-only memoryview of the frame's "
    "4096 bytes,\n"
    "without a copy if the dump is in memory; the dump cannot be closed "
    "while it lives. If the\n"
    "mapped file is lost (`dump.lost`) it shows zeros: nobody can raise then.\n"
    "NotInDumpError or TruncatedError (both LookupError) if the frame is not "
    "there.\n"
    "`pages[first:end]` is the window of frame numbers from `first` up to "
    "`end`.");

static PyType_Slot pages_slots[] = {
    {Py_tp_doc, (void *)pages_doc},     {Py_tp_traverse, pages_traverse},
    {Py_tp_dealloc, pages_dealloc},     {Py_tp_repr, pages_repr},
    {Py_tp_iter, pages_iter},           {Py_tp_methods, pages_methods},
    {Py_sq_contains, pages_contains},   {Py_mp_length, pages_length},
    {Py_mp_subscript, pages_subscript}, {0, NULL},
};

PyType_Spec pages_spec = {
    .name = "kdmp.Pages",
    .basicsize = sizeof(PagesObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = pages_slots,
};
