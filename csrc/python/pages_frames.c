/*
 * The frames of kdmp.Pages: one or several, as memoryviews of the file.
 *
 * SPDX-License-Identifier: MIT
 */
#include "pages.h"

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

PyObject *
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

const char pages_buffer_doc[] = PyDoc_STR(
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

PyObject *
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
