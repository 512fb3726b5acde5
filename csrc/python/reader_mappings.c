/*
 * Reader.mappings(): the mapped ranges of an address space, one by one or as
 * an array.
 *
 * SPDX-License-Identifier: MIT
 */
#include "reader.h"

/* Fetched from the core at once. */
#define BATCH 64
/* Ranges that a buffer holds, 640 MiB; there is no end to those that the
 * iterator gives, one by one. */
#define MAX_BUFFERED ((size_t)1 << 24)
/* Numbers of states there can be. */
#define STATES 16

typedef struct {
    PyObject_HEAD
    ReaderObject *reader;
    struct kdmp_map_cursor cursor;
    struct kdmp_mapping batch[BATCH];
    size_t count;
    size_t next;
    int over;                /* the limit was reached */
    char busy;               /* a thread is fetching */
    PyObject *names[STATES]; /* of states, made when first needed */
} MappingIterator;

int
reader_bounds(ReaderObject *self, PyObject *start, PyObject *end,
              uint64_t *first_out, uint64_t *last_out)
{
    uint64_t last = kdmp_last_address(self->space.paging);

    *first_out = 0;
    *last_out = last;
    if ((start != NULL && start != Py_None
         && as_u64(start, "start", first_out) < 0)
        || (end != NULL && end != Py_None && as_u64(end, "last", last_out) < 0))
        return -1;
    if (*last_out > last || *first_out > *last_out) {
        PyErr_SetString(PyExc_ValueError,
                        "start and last must be a range of this space");
        return -1;
    }
    return 0;
}

/* Those that the file or the overlay can hold, each several times, since there
   are self maps and shared tables, but not without end; and never more than map
   16 TiB. */
#define MAX_TABLES ((uint64_t)1 << 23)

int
reader_table_limit(ReaderObject *self, uint64_t *limit_out)
{
    uint64_t pages;

    if (self->dump == NULL)
        return reader_not_initialised();
    if (dump_pin(self->dump) < 0)
        return -1;
    pages = kdmp_get_info(self->dump->handle)->pages_available;
    if (self->overlay != NULL && self->overlay->handle != NULL)
        pages += kdmp_overlay_count(self->overlay->handle);
    dump_unpin(self->dump);
    *limit_out = 8 * pages + 0x800;
    if (*limit_out > MAX_TABLES)
        *limit_out = MAX_TABLES;
    return 0;
}

/* 0, or -1 with an exception. */
static int
cursor_init(ReaderObject *self, PyObject *start, PyObject *end,
            struct kdmp_map_cursor *cursor)
{
    memset(cursor, 0, sizeof(*cursor));
    if (reader_bounds(self, start, end, &cursor->next, &cursor->last) < 0
        || reader_table_limit(self, &cursor->tables_left) < 0)
        return -1;
    if (kdmp_paging_levels(self->space.paging) == 0) {
        raise_text(self->state->errors[E_UNSUPPORTED],
                   "a %s reader has no page tables to enumerate",
                   paging_name((int)self->space.paging));
        return -1;
    }
    return 0;
}

int
reader_raise_limit(ReaderObject *self, uint64_t address)
{
    raise_text(self->state->errors[E_KDMP],
               "the page tables refer to each other without an end; stopped "
               "at 0x%llx",
               (unsigned long long)address);
    return -1;
}

/* The next ranges: 0 and *count (and *over at the limit), or -1 with an
   exception. */
static int
fetch(ReaderObject *self, struct kdmp_map_cursor *cursor,
      struct kdmp_mapping *out, size_t room, size_t *count, int *over)
{
    struct kdmp_fault fault = {.status = KDMP_OK};
    struct access access = {.space = &self->space};
    PyThreadState *ts;

    *count = 0;
    if (dump_pin(self->dump) < 0)
        return -1;
    ts = access_release(self, &access, UINT64_MAX);
    fault.status = kdmp_next_mappings(access.space, cursor, out, room, count);
    access_reacquire(self, ts);
    fault.status = access_end(self, fault.status);
    if (fault.status == KDMP_E_LIMIT) {
        *over = 1;
    } else if (fault.status != KDMP_OK) {
        raise_fault(self->state, &self->space, &fault);
        return -1;
    }
    return 0;
}

static PyObject *
next_record(MappingIterator *self)
{
    const struct kdmp_mapping *mapping = &self->batch[self->next];
    PyObject **name = &self->names[mapping->state % STATES];

    if (*name == NULL)
        *name = PyUnicode_InternFromString(state_name(mapping->state));
    if (*name == NULL)
        return NULL;
    self->next++;
    return mapping_record(self->reader->state, mapping, *name);
}

int
reader_raise_busy(void)
{
    PyErr_SetString(PyExc_ValueError,
                    "the iterator is in use by another thread");
    return -1;
}

static PyObject *
iterator_next(PyObject *op)
{
    MappingIterator *self = (MappingIterator *)op;
    ReaderObject *reader = self->reader;
    int rc;

    if (self->busy) {
        (void)reader_raise_busy();
        return NULL;
    }
    if (map_guard_is_lost(&reader->dump->guard)) {
        dump_raise_lost(reader->dump);
        return NULL;
    }
    while (self->next == self->count) {
        if (self->over && !self->cursor.has_pending) {
            self->over = 0;
            self->cursor.done = 1;
            reader_raise_limit(reader, self->cursor.next);
            return NULL;
        }
        if (self->cursor.done && !self->cursor.has_pending)
            return NULL;
        self->next = self->count = 0;
        self->busy = 1;
        rc = fetch(reader, &self->cursor, self->batch, BATCH, &self->count,
                   &self->over);
        self->busy = 0;
        if (rc < 0)
            return NULL;
    }
    return next_record(self);
}

static int
iterator_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((MappingIterator *)op)->reader);
    return 0;
}

static void
iterator_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);

    PyObject_GC_UnTrack(op);
    Py_XDECREF(((MappingIterator *)op)->reader);
    for (size_t i = 0; i < STATES; i++)
        Py_XDECREF(((MappingIterator *)op)->names[i]);
    type->tp_free(op);
    Py_DECREF(type);
}

static PyType_Slot iterator_slots[] = {
    {Py_tp_doc, "Iterator over the mapped ranges of an address space."},
    {Py_tp_traverse, iterator_traverse},
    {Py_tp_dealloc, iterator_dealloc},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, iterator_next},
    {0, NULL},
};

PyType_Spec mapping_iterator_spec = {
    .name = "kdmp._kdmp.MappingIterator",
    .basicsize = sizeof(MappingIterator),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
             | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = iterator_slots,
};

static PyObject *
iterator_new(ReaderObject *reader, const struct kdmp_map_cursor *cursor)
{
    PyTypeObject *type = reader->state->types[T_MAPPING_ITERATOR];
    MappingIterator *self = (MappingIterator *)type->tp_alloc(type, 0);

    if (self != NULL) {
        self->reader = (ReaderObject *)Py_NewRef(reader);
        self->cursor = *cursor;
    }
    return (PyObject *)self;
}

const char reader_mappings_doc[] = PyDoc_STR(
    "mappings($self, /, start=0, last=None)\n--\n\n"
    "Return an iterator over the mapped ranges from `start` to `last`, a "
    "Mapping each.\n\n"
    "Ranges come in ascending order and lazily; empty entries are none, with "
    "the bits of\n"
    "the L1TF mask or without. Prototype PTEs are not followed. A page table "
    "that is not\n"
    "in the dump gives a range with the state \"table\". A page, or what a "
    "missing table\n"
    "maps, comes whole even if `start` or `last` lies inside it: ranges are "
    "not clipped.\n"
    "Tables that refer to each other without an end give KdmpError after a "
    "bounded number\n"
    "of tables.");

PyObject *
reader_mappings(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                PyObject *kwnames)
{
    SIGNATURE("mappings", 2, 2, 0, "start", "last");
    struct kdmp_map_cursor cursor;

    if (bind_args(&sig, args, nargs, kwnames, slot) < 0
        || cursor_init((ReaderObject *)op, slot[0], slot[1], &cursor) < 0) {
        return NULL;
    }
    return iterator_new((ReaderObject *)op, &cursor);
}

const char reader_find_frame_doc[] = PyDoc_STR(
    "find_frame($self, /, pfn, start=0, last=None)\n--\n\n"
    "Return an iterator over the mappings of one frame, a Mapping per page "
    "that has it.\n\n"
    "The address of the frame is `start + (pfn << 12) - pa` of the Mapping.");

PyObject *
reader_find_frame(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                  PyObject *kwnames)
{
    SIGNATURE("find_frame", 3, 3, 1, "pfn", "start", "last");
    struct kdmp_map_cursor cursor;
    uint64_t pfn;

    if (bind_args(&sig, args, nargs, kwnames, slot) < 0
        || as_u64(slot[0], "pfn", &pfn) < 0
        || cursor_init((ReaderObject *)op, slot[1], slot[2], &cursor) < 0) {
        return NULL;
    }
    cursor.filter = 1;
    cursor.only_pfn = pfn;
    return iterator_new((ReaderObject *)op, &cursor);
}

const char reader_mappings_buffer_doc[] = PyDoc_STR(
    "mappings_buffer($self, /, start=0, last=None)\n--\n\n"
    "Return all mapped ranges as bytes, 40 for each range.\n\n"
    "In the host's byte order: start, size, page_size and pa as u64, flags as "
    "u32 (1\n"
    "writable, 2 executable, 4 user), the number of the state as u8, 3 unused "
    "bytes.\n"
    "KdmpError for more than 2**24 ranges; `mappings` has no such limit.");

PyObject *
reader_mappings_buffer(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                       PyObject *kwnames)
{
    SIGNATURE("mappings_buffer", 2, 2, 0, "start", "last");
    ReaderObject *self = (ReaderObject *)op;
    const size_t each = sizeof(struct kdmp_mapping);
    struct kdmp_map_cursor cursor;
    size_t count = 0, room = 1024, got;
    PyObject *bytes;
    int over = 0;

    _Static_assert(sizeof(struct kdmp_mapping) == 40, "documented layout");
    _Static_assert(offsetof(PyBytesObject, ob_sval) % 8 == 0, "aligned");
    if (bind_args(&sig, args, nargs, kwnames, slot) < 0
        || cursor_init(self, slot[0], slot[1], &cursor) < 0)
        return NULL;
    bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(room * each));
    while (bytes != NULL && ((!cursor.done && !over) || cursor.has_pending)) {
        if (room - count < BATCH) {
            if (room >= MAX_BUFFERED) {
                raise_text(self->state->errors[E_KDMP],
                           "more than %llu ranges are mapped; mappings() gives "
                           "them one by one",
                           (unsigned long long)MAX_BUFFERED);
                Py_CLEAR(bytes);
                break;
            }
            room *= 2;
            if (_PyBytes_Resize(&bytes, (Py_ssize_t)(room * each)) < 0)
                return NULL;
        }
        /* The data of bytes objects is aligned to 8 and these are new. */
        if (fetch(self, &cursor,
                  (struct kdmp_mapping *)(void *)PyBytes_AS_STRING(bytes)
                      + count,
                  room - count, &got, &over)
            < 0)
            Py_CLEAR(bytes);
        else
            count += got;
    }
    if (bytes != NULL && over) {
        reader_raise_limit(self, cursor.next);
        Py_CLEAR(bytes);
    }
    if (bytes != NULL)
        _PyBytes_Resize(&bytes, (Py_ssize_t)(count * each));
    return bytes;
}
