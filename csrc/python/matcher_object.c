/*
 * kdmp._kdmp.Matcher: what to find in memory, compiled.
 *
 * SPDX-License-Identifier: MIT
 */
#include "pykdmp.h"

/* What the arguments say, while the matcher is made. */
struct request {
    struct kdmp_matcher_spec spec;
    struct kdmp_pattern *patterns;
    struct kdmp_pointer_range *pointers;
    Py_buffer *buffers; /* two for each pattern */
    Py_ssize_t buffer_count;
};

static void
request_deinit(struct request *request)
{
    for (Py_ssize_t i = 0; i < request->buffer_count; i++)
        PyBuffer_Release(&request->buffers[i]);
    PyMem_Free(request->buffers);
    PyMem_Free(request->patterns);
    PyMem_Free(request->pointers);
}

/* The bytes of a buffer, which is kept until the end. */
static const uint8_t *
take_buffer(struct request *request, PyObject *arg, Py_ssize_t *size_out)
{
    Py_buffer *view = &request->buffers[request->buffer_count];

    if (PyObject_GetBuffer(arg, view, PyBUF_SIMPLE) < 0)
        return NULL;
    request->buffer_count++;
    *size_out = view->len;
    return view->buf != NULL ? view->buf : (const uint8_t *)"";
}

/* Bytes, or a tuple of bytes and a mask. */
static int
take_pattern(struct request *request, PyObject *item, struct kdmp_pattern *out)
{
    PyObject *mask = Py_None;
    Py_ssize_t size, mask_size;

    if (PyTuple_Check(item)) {
        if (!PyArg_ParseTuple(item,
                              "OO;a pattern is bytes or a pair of bytes "
                              "and mask",
                              &item, &mask))
            return -1;
    }
    out->bytes = take_buffer(request, item, &size);
    if (out->bytes == NULL)
        return -1;
    out->length = (uint64_t)size;
    if (mask == Py_None)
        return 0;
    out->mask = take_buffer(request, mask, &mask_size);
    if (out->mask == NULL)
        return -1;
    if (mask_size != size) {
        PyErr_Format(PyExc_ValueError,
                     "a pattern of %zd bytes has a mask of %zd", size,
                     mask_size);
        return -1;
    }
    return 0;
}

static int
take_patterns(struct request *request, PyObject *arg)
{
    PyObject *items;
    Py_ssize_t count;
    int rc = 0;

    if (PyObject_CheckBuffer(arg) || PyUnicode_Check(arg)) {
        PyErr_SetString(PyExc_TypeError,
                        "patterns must be a sequence of bytes, or of pairs of "
                        "bytes and mask");
        return -1;
    }
    items = PySequence_Tuple(arg); /* nobody else can change it */
    if (items == NULL)
        return -1;
    count = PyTuple_GET_SIZE(items);
    request->patterns =
        PyMem_Calloc((size_t)count + 1, sizeof(*request->patterns));
    request->buffers =
        PyMem_Calloc(2 * (size_t)count + 1, sizeof(*request->buffers));
    if (request->patterns == NULL || request->buffers == NULL) {
        PyErr_NoMemory();
        rc = -1;
    }
    for (Py_ssize_t i = 0; i < count && rc == 0; i++)
        rc = take_pattern(request, PyTuple_GET_ITEM(items, i),
                          &request->patterns[i]);
    /* The buffers keep what they show; the spec needs no items. */
    Py_DECREF(items);
    request->spec.patterns = request->patterns;
    request->spec.pattern_count = (uint64_t)count;
    return rc;
}

static int
take_pointers(struct request *request, PyObject *arg)
{
    PyObject *items = PySequence_Tuple(arg);
    Py_ssize_t count;
    int rc = 0;

    if (items == NULL)
        return -1;
    count = PyTuple_GET_SIZE(items);
    request->pointers =
        PyMem_Calloc((size_t)count + 1, sizeof(*request->pointers));
    if (request->pointers == NULL) {
        PyErr_NoMemory();
        rc = -1;
    }
    for (Py_ssize_t i = 0; i < count && rc == 0; i++) {
        struct kdmp_pointer_range *range = &request->pointers[i];
        PyObject *item = PyTuple_GET_ITEM(items, i), *first, *last, *size;

        if (!PyTuple_Check(item)) {
            PyErr_SetString(PyExc_TypeError,
                            "a range of pointers is (first, last, size)");
            rc = -1;
        } else if (!PyArg_ParseTuple(item,
                                     "OOO;a range of pointers is (first, last, "
                                     "size)",
                                     &first, &last, &size)
                   || as_u64(first, "first", &range->first) < 0
                   || as_u64(last, "last", &range->last) < 0
                   || as_u64(size, "size", &range->size) < 0) {
            rc = -1;
        }
    }
    Py_DECREF(items);
    request->spec.pointers = request->pointers;
    request->spec.pointer_count = (uint64_t)count;
    return rc;
}

static int
take_text(struct request *request, PyObject *arg)
{
    PyObject *minimum, *kinds;
    uint64_t kind;

    if (arg == Py_None)
        return 0;
    if (!PyTuple_Check(arg)) {
        PyErr_SetString(PyExc_TypeError, "text is (minimum, kinds)");
        return -1;
    }
    if (!PyArg_ParseTuple(arg, "OO;text is (minimum, kinds)", &minimum, &kinds)
        || as_u64(minimum, "minimum", &request->spec.text_minimum) < 0
        || as_u64(kinds, "kinds", &kind) < 0)
        return -1;
    if (request->spec.text_minimum == 0 || kind > UINT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "there is no such text");
        return -1;
    }
    request->spec.text_kinds = (uint32_t)kind;
    return 0;
}

static PyObject *
matcher_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"patterns", "pointers", "text", "alignment", NULL};
    PyObject *patterns = NULL, *pointers = NULL, *text = Py_None;
    PyObject *alignment = NULL;
    struct request request = {.spec = {.alignment = 1}};
    struct kdmp_matcher *handle = NULL;
    struct kdmp_error error;
    MatcherObject *self = NULL;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O$OOO:Matcher", names,
                                     &patterns, &pointers, &text, &alignment))
        return NULL;
    if ((alignment == NULL
         || as_u64(alignment, "alignment", &request.spec.alignment) == 0)
        && (patterns == NULL || take_patterns(&request, patterns) == 0)
        && (pointers == NULL || take_pointers(&request, pointers) == 0)
        && take_text(&request, text) == 0) {
        switch (kdmp_matcher_open(&request.spec, &handle, &error)) {
        case KDMP_OK:
            self = (MatcherObject *)type->tp_alloc(type, 0);
            break;
        case KDMP_E_NOMEM:
            PyErr_NoMemory();
            break;
        default:
            PyErr_SetString(PyExc_ValueError, error.message);
        }
    }
    request_deinit(&request);
    if (self == NULL) {
        kdmp_matcher_close(handle);
        return NULL;
    }
    self->handle = handle;
    self->alignment = request.spec.alignment;
    return (PyObject *)self;
}

static void
matcher_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);

    kdmp_matcher_close(((MatcherObject *)op)->handle);
    type->tp_free(op);
    Py_DECREF(type);
}

static Py_ssize_t
matcher_length(PyObject *op)
{
    return (Py_ssize_t)kdmp_matcher_count(((MatcherObject *)op)->handle);
}

static PyObject *
get_alignment(PyObject *op, void *closure)
{
    return PyLong_FromUnsignedLongLong(((MatcherObject *)op)->alignment);
}

static PyObject *
get_longest(PyObject *op, void *closure)
{
    return PyLong_FromUnsignedLongLong(
        kdmp_matcher_longest(((MatcherObject *)op)->handle));
}

static PyObject *
matcher_repr(PyObject *op)
{
    MatcherObject *self = (MatcherObject *)op;

    return format_text("<kdmp._kdmp.Matcher of %llu, longest %llu bytes>",
                       (unsigned long long)kdmp_matcher_count(self->handle),
                       (unsigned long long)kdmp_matcher_longest(self->handle));
}

static PyGetSetDef matcher_getset[] = {
    GETTER("alignment", get_alignment,
           "What the addresses of matches are multiples of."),
    GETTER("longest", get_longest,
           "How many bytes the longest match can have."),
    {NULL},
};

PyDoc_STRVAR(
    matcher_doc,
    "Matcher(patterns=(), *, pointers=(), text=None, alignment=1)\n--\n\n"
    "What to find in memory, compiled; for `scan`. Any number of threads may "
    "use it.\n\n"
    "`patterns` are bytes, or pairs of bytes and a mask of the same length or "
    "None: byte b fits\n"
    "value v if b & m == v & m. `pointers` are (first, last, size): unsigned "
    "little-endian\n"
    "numbers of 4 or 8 bytes from `first` to `last`; they are numbered behind "
    "the patterns.\n"
    "`text` is (minimum, kinds) instead of both: runs of at least `minimum` "
    "printable\n"
    "characters (2 ... 65536), `kinds` 1 for ASCII (number 0: tab, 0x20-0x7E), "
    "2 for UTF-16\n"
    "(number 1: those and 0xA0-0xFF, at even and odd addresses), 3 for both. "
    "Only what begins\n"
    "at a multiple of `alignment` (1 ... 2**20) counts.\n\n"
    "At most 65536 patterns of 1 to 65536 bytes, 16 MiB together, none all "
    "wildcards; at most\n"
    "64 ranges. ValueError for what cannot be looked for. What many patterns "
    "cost: about the\n"
    "same as one if each has 7 bytes in a row that are known or letters of any "
    "case (mask 0xDF)\n"
    "in its first 64; a search each for those of which no 2 bytes in a row "
    "are.");

static PyType_Slot matcher_slots[] = {
    {Py_tp_doc, (void *)matcher_doc},
    {Py_tp_new, matcher_new},
    {Py_tp_dealloc, matcher_dealloc},
    {Py_tp_repr, matcher_repr},
    {Py_tp_getset, matcher_getset},
    {Py_sq_length, matcher_length},
    {0, NULL},
};

PyType_Spec matcher_spec = {
    .name = "kdmp._kdmp.Matcher",
    .basicsize = sizeof(MatcherObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = matcher_slots,
};
