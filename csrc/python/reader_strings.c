/*
 * Reader methods that give text.
 *
 * SPDX-License-Identifier: MIT
 */
#include "reader.h"

#define HARD_LIMIT 0x1000000 /* when string_limit is None */
#define SMALL_TEXT 512

/* A string while it is being read, without its terminator. */
struct text {
    char *bytes; /* 'small', or PyMem_Raw */
    uint64_t size;
    uint64_t room;
    enum kdmp_status status; /* KDMP_OK, KDMP_E_LIMIT, or why it ends */
    struct kdmp_fault fault;
    char small[SMALL_TEXT];
};

static void
text_deinit(struct text *text)
{
    if (text->bytes != text->small)
        PyMem_RawFree(text->bytes);
}

static int
text_grow(struct text *text)
{
    uint64_t room = 8 * text->room;
    char *bytes = text->bytes == text->small ? NULL : text->bytes;

    bytes = PyMem_RawRealloc(bytes, (size_t)room);
    if (bytes == NULL)
        return -1;
    if (text->bytes == text->small)
        memcpy(bytes, text->small, (size_t)text->size);
    text->bytes = bytes;
    text->room = room;
    return 0;
}

/* Read up to the terminator, a hole, or 'limit' bytes.  The dump is pinned;
   ends the access.  -1 with an exception if that is not an answer. */
static int
read_text(ReaderObject *self, struct access *access, unsigned unit,
          uint64_t limit, struct text *text)
{
    uint64_t address, room, done;
    PyThreadState *ts;
    int again;

    text->bytes = text->small;
    text->size = 0;
    text->room = SMALL_TEXT;
    limit -= limit % unit;
    do {
        text->status = KDMP_E_LIMIT;
        while (text->status == KDMP_E_LIMIT && text->size < limit) {
            if (text->size == text->room && text_grow(text) < 0) {
                text->status = text->fault.status = KDMP_E_NOMEM;
                break;
            }
            room = text->room < limit ? text->room : limit;
            room -= text->size;
            text->status =
                access_advance(access, text->size, &address, &text->fault);
            if (text->status != KDMP_OK)
                break;
            ts = access_release(self, access, room);
            text->status = kdmp_read_string(access->space, address, unit,
                                            text->bytes + text->size, room,
                                            &done, &text->fault);
            access_reacquire(self, ts);
            text->size += done;
        }
        text->status = access_end(self, text->status);
        again = access_again(self, access, text->status, &text->fault.walk);
    } while (again > 0);
    if (again < 0) {
        text_deinit(text);
        return -1;
    }
    if (text->status == KDMP_OK || text->status == KDMP_E_LIMIT)
        return 0;
    if (is_absent(text->status)) {
        if (!reader_collects(self)
            || reader_missed(self, access, text->size, text->size + unit) == 0)
            return 0;
        text_deinit(text);
        return -1;
    }
    raise_fault(self->state, access->space, &text->fault);
    text_deinit(text);
    return -1;
}

/* Raise for a string that a hole cuts off, of which 'size' bytes are there. */
static PyObject *
raise_cut(ReaderObject *self, const struct access *access,
          const struct kdmp_fault *fault, uint64_t expected, const char *bytes,
          uint64_t size)
{
    PyObject *data;

    if (size == 0)
        return raise_fault(self->state, access->space, fault);
    data = PyBytes_FromStringAndSize(bytes, (Py_ssize_t)size);
    if (data != NULL) {
        raise_partial(self->state, access->space, fault, access->address,
                      expected, data);
        Py_DECREF(data);
    }
    return NULL;
}

static PyObject *
decode_utf16(const char *bytes, uint64_t size, const char *errors)
{
    int order = -1; /* little-endian, without looking for a mark */

    return PyUnicode_DecodeUTF16(bytes, (Py_ssize_t)(size & ~(uint64_t)1),
                                 errors, &order);
}

/* --- zero-terminated strings ------------------------------------------- */

struct string_call {
    struct access access;
    uint64_t limit;
    int strict;
    const char *errors;   /* borrowed from the argument */
    const char *encoding; /* NULL for bytes */
    unsigned unit;
};

static int
as_text_option(PyObject *arg, const char *name, const char **out)
{
    if (arg == NULL)
        return 0;
    if (!PyUnicode_Check(arg)) {
        PyErr_Format(PyExc_TypeError, "%s must be a str, not %.100s", name,
                     Py_TYPE(arg)->tp_name);
        return -1;
    }
    *out = PyUnicode_AsUTF8(arg);
    return *out != NULL ? 0 : -1;
}

static int
as_limit(ReaderObject *self, PyObject *arg, uint64_t *out)
{
    Py_ssize_t limit;

    if (arg == NULL || arg == Py_None) {
        *out =
            self->string_limit == UINT64_MAX ? HARD_LIMIT : self->string_limit;
        return 0;
    }
    if (as_size(arg, "limit", &limit) < 0)
        return -1;
    *out = (uint64_t)limit;
    return 0;
}

static PyObject *
read_terminated(ReaderObject *self, struct string_call *call)
{
    struct text text;
    PyObject *result;

    if (access_begin(self, &call->access) < 0
        || read_text(self, &call->access, call->unit, call->limit, &text) < 0) {
        return NULL;
    }
    if (call->strict && text.status != KDMP_OK && text.status != KDMP_E_LIMIT) {
        result = raise_cut(self, &call->access, &text.fault, call->limit,
                           text.bytes, text.size);
    } else if (call->encoding == NULL) {
        result = PyBytes_FromStringAndSize(text.bytes, (Py_ssize_t)text.size);
    } else if (call->unit == 2) {
        result = decode_utf16(text.bytes, text.size, call->errors);
    } else {
        result = PyUnicode_Decode(text.bytes, (Py_ssize_t)text.size,
                                  call->encoding, call->errors);
    }
    text_deinit(&text);
    return result;
}

const char reader_read_cstr_bytes_doc[] = PyDoc_STR(
    "read_cstr_bytes($self, /, va, limit=None, *, strict=True)\n--\n\n"
    "Return the bytes before the first zero byte.\n\n"
    "At most `limit` bytes, by default `string_limit`; without a zero byte "
    "among them all of\n"
    "them. A hole before the end raises PartialReadError with what was read, "
    "or the error of\n"
    "the first byte if that is missing; with `strict=False` what is there is "
    "returned.");

PyObject *
reader_read_cstr_bytes(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                       PyObject *kwnames)
{
    SIGNATURE("read_cstr_bytes", 3, 2, 1, "va", "limit", "strict");
    ReaderObject *self = (ReaderObject *)op;
    struct string_call call = {.unit = 1};

    if (bind_args(&sig, args, nargs, kwnames, slot) < 0
        || access_convert(self, slot[0], &call.access) < 0
        || as_limit(self, slot[1], &call.limit) < 0
        || as_flag(slot[2], 1, &call.strict) < 0) {
        return NULL;
    }
    return read_terminated(self, &call);
}

const char reader_read_cstr_doc[] =
    PyDoc_STR("read_cstr($self, /, va, limit=None, *, encoding='utf-8', "
              "errors='replace', strict=True)\n--\n\n"
              "Return the text before the first zero byte.\n\n"
              "As `read_cstr_bytes`, decoded with `encoding` and `errors`.");

PyObject *
reader_read_cstr(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                 PyObject *kwnames)
{
    SIGNATURE("read_cstr", 5, 2, 1, "va", "limit", "encoding", "errors",
              "strict");
    ReaderObject *self = (ReaderObject *)op;
    struct string_call call = {
        .unit = 1, .encoding = "utf-8", .errors = "replace"};

    if (bind_args(&sig, args, nargs, kwnames, slot) < 0
        || access_convert(self, slot[0], &call.access) < 0
        || as_limit(self, slot[1], &call.limit) < 0
        || as_text_option(slot[2], "encoding", &call.encoding) < 0
        || as_text_option(slot[3], "errors", &call.errors) < 0
        || as_flag(slot[4], 1, &call.strict) < 0) {
        return NULL;
    }
    return read_terminated(self, &call);
}

const char reader_read_wstr_doc[] = PyDoc_STR(
    "read_wstr($self, /, va, limit=None, *, errors='replace', strict=True)"
    "\n--\n\n"
    "Return the UTF-16-LE text before the first zero unit.\n\n"
    "As `read_cstr`; `limit` counts bytes.");

PyObject *
reader_read_wstr(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                 PyObject *kwnames)
{
    SIGNATURE("read_wstr", 4, 2, 1, "va", "limit", "errors", "strict");
    ReaderObject *self = (ReaderObject *)op;
    struct string_call call = {
        .unit = 2, .encoding = "utf-16-le", .errors = "replace"};

    if (bind_args(&sig, args, nargs, kwnames, slot) < 0
        || access_convert(self, slot[0], &call.access) < 0
        || as_limit(self, slot[1], &call.limit) < 0
        || as_text_option(slot[2], "errors", &call.errors) < 0
        || as_flag(slot[3], 1, &call.strict) < 0) {
        return NULL;
    }
    return read_terminated(self, &call);
}

/* --- UNICODE_STRING ---------------------------------------------------- */

/* The text of a UNICODE_STRING whose Length and Buffer are known.  The
   access still stands for the structure; it moves to the buffer. */
static PyObject *
read_counted(ReaderObject *self, struct access *access, uint64_t buffer,
             uint64_t length, const char *errors, int strict)
{
    char *bytes = PyMem_Malloc((size_t)length);
    struct kdmp_fault fault;
    enum kdmp_status status;
    uint64_t done;
    PyObject *result;
    int again;

    if (bytes == NULL)
        return PyErr_NoMemory();
    access->address = buffer;
    if (dump_pin(self->dump) < 0) {
        PyMem_Free(bytes);
        return NULL;
    }
    do {
        status = kdmp_read(access->space, buffer, bytes, length, &done, &fault);
        status = access_end(self, status);
        again = access_again(self, access, status, &fault.walk);
    } while (again > 0);
    if (again < 0)
        result = NULL;
    else if (status != KDMP_OK && !is_absent(status))
        result = raise_fault(self->state, access->space, &fault);
    else if (status != KDMP_OK && reader_collects(self)
             && reader_missed(self, access, done, length) < 0)
        result = NULL;
    else if (status != KDMP_OK && strict)
        result = raise_cut(self, access, &fault, length, bytes, done);
    else
        result = decode_utf16(bytes, done, errors);
    PyMem_Free(bytes);
    return result;
}

const char reader_read_unicode_string_doc[] = PyDoc_STR(
    "read_unicode_string($self, /, va, *, pointer_size=None, "
    "errors='replace', strict=True)\n--\n\n"
    "Return the text of the UNICODE_STRING at an address.\n\n"
    "Length is at offset 0, Buffer at 4 or 8 by `pointer_size` (4 or 8, by "
    "default the\n"
    "reader's). An odd Length raises FormatError, text that is not all there "
    "as in\n"
    "`read_wstr`; with `strict=False` the odd byte is dropped and what is "
    "there is returned.");

PyObject *
reader_read_unicode_string(PyObject *op, PyObject *const *args,
                           Py_ssize_t nargs, PyObject *kwnames)
{
    SIGNATURE("read_unicode_string", 4, 1, 1, "va", "pointer_size", "errors",
              "strict");
    ReaderObject *self = (ReaderObject *)op;
    Py_ssize_t pointer_size = self->pointer_size;
    const char *errors = "replace";
    struct access access;
    uint8_t bytes[16];
    uint64_t buffer = 0, length;
    int strict;

    if (bind_args(&sig, args, nargs, kwnames, slot) < 0
        || access_convert(self, slot[0], &access) < 0
        || (slot[1] != NULL && slot[1] != Py_None
            && as_size(slot[1], "pointer_size", &pointer_size) < 0)
        || as_text_option(slot[2], "errors", &errors) < 0
        || as_flag(slot[3], 1, &strict) < 0) {
        return NULL;
    }
    if (self->dump != NULL && pointer_size != 4 && pointer_size != 8) {
        PyErr_Format(PyExc_ValueError, "pointer_size must be 4 or 8, not %zd",
                     pointer_size);
        return NULL;
    }
    if (access_begin(self, &access) < 0
        || access_fetch(self, &access, bytes, 2 * (size_t)pointer_size) < 0) {
        return NULL;
    }
    length = (uint64_t)bytes[0] | (uint64_t)bytes[1] << 8;
    for (Py_ssize_t i = pointer_size - 1; i >= 0; i--)
        buffer = buffer << 8 | bytes[pointer_size + i];
    if (length % 2 != 0 && strict) {
        return raise_text(self->state->errors[E_FORMAT],
                          "UNICODE_STRING at 0x%llx has the odd Length "
                          "0x%x",
                          (unsigned long long)access.address, (unsigned)length);
    }
    length -= length % 2;
    if (length == 0)
        return PyUnicode_New(0, 0);
    return read_counted(self, &access, buffer, length, errors, strict);
}
