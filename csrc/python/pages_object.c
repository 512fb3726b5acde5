/*
 * kdmp.Pages: the captured frames, and the iterators and frames it gives out.
 *
 * Everything is asked of the frame index when it is needed; a Pages is two
 * frame numbers.
 *
 * SPDX-License-Identifier: MIT
 */
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

/* Both iterators: 'run' is what is left of the run being shown. */
typedef struct {
    PyObject_HEAD
    struct module_state *state;
    DumpObject *dump;
    uint64_t next; /* where to look for another run */
    uint64_t stop;
    struct kdmp_run run;
} IteratorObject;

/* Pages inside the mapping, for a memoryview to hold on to. */
typedef struct {
    PyObject_HEAD
    DumpObject *dump;
    const uint8_t *bytes;
    Py_ssize_t size;
} FrameObject;

/* --- frames ------------------------------------------------------------ */

static int
frame_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((FrameObject *)op)->dump);
    return 0;
}

static void
frame_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);

    PyObject_GC_UnTrack(op);
    Py_XDECREF(((FrameObject *)op)->dump);
    type->tp_free(op);
    Py_DECREF(type);
}

static int
frame_getbuffer(PyObject *op, Py_buffer *view, int flags)
{
    FrameObject *self = (FrameObject *)op;

    view->obj = NULL;
    if (dump_pin(self->dump) < 0)
        return -1;
    if (PyBuffer_FillInfo(view, op, (void *)self->bytes, self->size, 1, flags)
        < 0) {
        dump_unpin(self->dump);
        return -1;
    }
    return 0;
}

static void
frame_releasebuffer(PyObject *op, Py_buffer *view)
{
    dump_unpin(((FrameObject *)op)->dump);
}

static PyType_Slot frame_slots[] = {
    {Py_tp_doc, "Owner of the memoryview of pages."},
    {Py_tp_traverse, frame_traverse},
    {Py_tp_dealloc, frame_dealloc},
    {Py_bf_getbuffer, frame_getbuffer},
    {Py_bf_releasebuffer, frame_releasebuffer},
    {0, NULL},
};

PyType_Spec frame_spec = {
    .name = "kdmp._kdmp.Frame",
    .basicsize = sizeof(FrameObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = frame_slots,
};

/* A memoryview of the object, which is stolen and may be NULL. */
static PyObject *
view_of(PyObject *owner)
{
    PyObject *view = owner != NULL ? PyMemoryView_FromObject(owner) : NULL;

    Py_XDECREF(owner);
    return view;
}

static PyObject *
mapped_frames(PagesObject *self, const uint8_t *bytes, Py_ssize_t size)
{
    PyTypeObject *type = self->state->types[T_FRAME];
    FrameObject *frame = (FrameObject *)type->tp_alloc(type, 0);

    if (frame != NULL) {
        frame->dump = (DumpObject *)Py_NewRef(self->dump);
        frame->bytes = bytes;
        frame->size = size;
    }
    return view_of((PyObject *)frame);
}

static PyObject *
copied_frame(PagesObject *self, uint64_t pfn)
{
    struct kdmp_space space = {.paging = KDMP_PAGING_PHYSICAL};
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, PAGE_SIZE);
    struct kdmp_fault fault;
    enum kdmp_status status;
    uint64_t done;

    if (bytes == NULL || dump_pin(self->dump) < 0) {
        Py_XDECREF(bytes);
        return NULL;
    }
    space.dump = self->dump->handle;
    space.source = kdmp_get_source(self->dump->handle);
    status = kdmp_read(&space, pfn << PAGE_SHIFT, PyBytes_AS_STRING(bytes),
                       PAGE_SIZE, &done, &fault);
    if (dump_end(self->dump, status) != KDMP_OK) {
        Py_DECREF(bytes);
        return raise_fault(self->state, &space, &fault);
    }
    return view_of(bytes);
}

static PyObject *
pages_frame(PagesObject *self, uint64_t pfn)
{
    const struct kdmp_source *source;
    struct kdmp_extent extent = {.ptr = NULL};
    enum kdmp_status status = KDMP_E_NOT_IN_DUMP;

    if (dump_pin(self->dump) < 0)
        return NULL;
    source = kdmp_get_source(self->dump->handle);
    if (pfn < PFN_END)
        status = source->locate(source, pfn << PAGE_SHIFT, PAGE_SIZE, &extent);
    status = dump_end(self->dump, status);
    if (status == KDMP_OK && extent.ptr != NULL && extent.length >= PAGE_SIZE)
        return mapped_frames(self, extent.ptr, PAGE_SIZE);
    if (status == KDMP_E_OS)
        return NULL; /* the file is lost */
    if (pfn < PFN_END)
        return copied_frame(self, pfn);
    return raise_text(self->state->errors[E_NOT_IN_DUMP],
                      "there is no frame 0x%llx: the last one is 0x%llx",
                      (unsigned long long)pfn,
                      (unsigned long long)(PFN_END - 1));
}

/* --- several frames ---------------------------------------------------- */

/* Find 'size' bytes at 'paddr' that follow each other in memory.  *done_out
   is how many do.  KDMP_OK, a reason for which the next one is missing, or
   KDMP_E_UNSUPPORTED if it is elsewhere. */
static enum kdmp_status
locate_all(const struct kdmp_source *source, uint64_t paddr, uint64_t size,
           const uint8_t **bytes_out, uint64_t *done_out)
{
    struct kdmp_extent extent;
    enum kdmp_status status;

    *bytes_out = NULL;
    for (*done_out = 0; *done_out < size; *done_out += extent.length) {
        status = source->locate(source, paddr + *done_out, size - *done_out,
                                &extent);
        if (status != KDMP_OK)
            return status;
        if (extent.ptr == NULL
            || (*bytes_out != NULL && extent.ptr != *bytes_out + *done_out))
            return KDMP_E_UNSUPPORTED;
        if (*bytes_out == NULL)
            *bytes_out = extent.ptr;
    }
    return KDMP_OK;
}

static PyObject *
raise_not_contiguous(PagesObject *self, uint64_t address)
{
    PyObject *text, *exc = NULL, *number;

    text = format_text(self->dump->io == IO_MAP || self->dump->io == IO_MEMORY
                           ? "physical address 0x%llx does not follow in the "
                             "file what is before it"
                           : "physical address 0x%llx is not in memory: the "
                             "file of this dump is read, not mapped",
                       (unsigned long long)address);
    if (text != NULL)
        exc = PyObject_CallOneArg(self->state->errors[E_NOT_CONTIGUOUS], text);
    number = exc != NULL ? PyLong_FromUnsignedLongLong(address) : NULL;
    if (number != NULL && PyObject_SetAttrString(exc, "address", number) == 0)
        PyErr_SetObject(self->state->errors[E_NOT_CONTIGUOUS], exc);
    Py_XDECREF(number);
    Py_XDECREF(exc);
    Py_XDECREF(text);
    return NULL;
}

/* Raise the reason for which the byte at a physical address is missing. */
static PyObject *
raise_missing(PagesObject *self, uint64_t address)
{
    struct kdmp_space space = {.paging = KDMP_PAGING_PHYSICAL};
    struct kdmp_fault fault;
    enum kdmp_status status;

    if (dump_pin(self->dump) < 0)
        return NULL;
    space.dump = self->dump->handle;
    space.source = kdmp_get_source(self->dump->handle);
    status = kdmp_probe_byte(&space, address, &fault);
    if (dump_end(self->dump, status) == KDMP_OK) /* it has just come back */
        return raise_not_contiguous(self, address);
    return raise_fault(self->state, &space, &fault);
}

PyDoc_STRVAR(
    buffer_doc,
    "buffer($self, /, pfn, count=1)\n--\n\n"
    "Return frames that follow each other as one read-only memoryview, "
    "without a copy.\n\n"
    "`count` frames from `pfn` on, such as those of a Run; the dump cannot be "
    "closed while it\n"
    "lives. NotInDumpError or TruncatedError if a frame is not there, "
    "NotContiguousError if\n"
    "they do not follow each other in the file, or it is not in memory; "
    "IndexError outside of\n"
    "the window, ValueError for a `count` below 1.");

static PyObject *
pages_buffer(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
             PyObject *kwnames)
{
    SIGNATURE("buffer", 2, 2, 1, "pfn", "count");
    PagesObject *self = (PagesObject *)op;
    const struct kdmp_source *source;
    const uint8_t *bytes;
    enum kdmp_status status;
    uint64_t pfn, count = 1, done, end;

    if (bind_args(&sig, args, nargs, kwnames, slot) < 0
        || as_u64(slot[0], "pfn", &pfn) < 0
        || (slot[1] != NULL && as_u64(slot[1], "count", &count) < 0)
        || dump_pin(self->dump) < 0) {
        return NULL;
    }
    end = kdmp_get_info(self->dump->handle)->pfn_end;
    dump_unpin(self->dump);
    if (count == 0) {
        PyErr_SetString(PyExc_ValueError, "count must be at least 1");
        return NULL;
    }
    if (pfn >= PFN_END)
        return pages_frame(self, pfn); /* which says why not */
    if (count > PFN_END - pfn)
        count = PFN_END - pfn;
    /* Behind the last frame of all the reason is that it is not there. */
    if (pfn < self->start
        || (self->stop < end
            && (pfn >= self->stop || count > self->stop - pfn))) {
        return raise_text(
            PyExc_IndexError,
            "frames 0x%llx to 0x%llx are not inside of "
            "[0x%llx, 0x%llx)",
            (unsigned long long)pfn, (unsigned long long)(pfn + count - 1),
            (unsigned long long)self->start, (unsigned long long)self->stop);
    }
    /* One byte less than 2^64 if it is all of memory: then it ends earlier. */
    count = count << PAGE_SHIFT != 0 ? count << PAGE_SHIFT : UINT64_MAX;
    if (dump_pin(self->dump) < 0)
        return NULL;
    source = kdmp_get_source(self->dump->handle);
    status = locate_all(source, pfn << PAGE_SHIFT, count, &bytes, &done);
    status = dump_end(self->dump, status);
    if (status == KDMP_OK)
        return mapped_frames(self, bytes, (Py_ssize_t)done);
    if (status == KDMP_E_UNSUPPORTED)
        return raise_not_contiguous(self, (pfn << PAGE_SHIFT) + done);
    if (PyErr_Occurred())
        return NULL;
    return raise_missing(self, (pfn << PAGE_SHIFT) + done);
}

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
    if (value == -1 && overflow == 0 && PyErr_Occurred())
        return -1;
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
     METH_FASTCALL | METH_KEYWORDS, buffer_doc},
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
