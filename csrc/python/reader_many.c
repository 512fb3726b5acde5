/*
 * Reader methods for many addresses at once.  They fill buffers that the
 * caller made; kdmp/many.py makes them.
 *
 * SPDX-License-Identifier: MIT
 */
#include "reader.h"

/* A contiguous buffer of 'size'-byte items.  -1 with an exception. */
static int
get_items(PyObject *arg, const char *name, Py_ssize_t size, int flags,
          Py_buffer *view)
{
    if (PyObject_GetBuffer(arg, view, flags | PyBUF_C_CONTIGUOUS) < 0)
        return -1;
    if (view->itemsize == size || view->itemsize == 1)
        if (view->len % size == 0)
            return 0;
    PyErr_Format(PyExc_ValueError, "%s must hold items of %zd bytes", name,
                 size);
    PyBuffer_Release(view);
    return -1;
}

struct many {
    Py_buffer addresses;
    Py_buffer out;
    Py_buffer statuses;
    Py_ssize_t count;
};

static void
many_deinit(struct many *many)
{
    PyBuffer_Release(&many->addresses);
    PyBuffer_Release(&many->out);
    PyBuffer_Release(&many->statuses);
}

/* Get all three; 'size' is what each address yields.  -1 with an exception,
   and nothing is held. */
static int
many_init(struct many *many, PyObject *const *slot, Py_ssize_t size)
{
    memset(many, 0, sizeof(*many));
    if (get_items(slot[0], "addresses", 8, PyBUF_SIMPLE, &many->addresses) < 0
        || PyObject_GetBuffer(slot[1], &many->out,
                              PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS)
               < 0
        || get_items(slot[2], "statuses", 1, PyBUF_WRITABLE, &many->statuses)
               < 0) {
        many_deinit(many);
        return -1;
    }
    many->count = many->addresses.len / 8;
    if ((size > 0 && many->out.len / size < many->count)
        || many->statuses.len < many->count
        || (many->count > 0 && (uintptr_t)many->addresses.buf % 8 != 0)) {
        PyErr_SetString(PyExc_ValueError,
                        "the buffers are too small for the addresses, or the "
                        "addresses are not aligned");
        many_deinit(many);
        return -1;
    }
    return 0;
}

/* Whether one of the addresses leaves the answer to the VAD, and the VADs have
   just been asked for the first time: as access_again(). */
static int
many_again(ReaderObject *self, struct access *access, const struct many *many)
{
    const uint64_t *addresses = many->addresses.buf;
    const uint8_t *statuses = many->statuses.buf;
    struct kdmp_translation walk;

    if (self->views_asked || dump_pin(self->dump) < 0) {
        PyErr_Clear();
        return 0;
    }
    memset(&walk, 0, sizeof(walk));
    for (Py_ssize_t i = 0; i < many->count; i++)
        if (statuses[i] == KDMP_E_NOT_PRESENT) {
            (void)kdmp_translate(&self->space, addresses[i], &walk);
            if (walk.state == KDMP_PTE_VAD)
                break;
        }
    return access_again(self, access,
                        dump_end(self->dump, (enum kdmp_status)walk.status),
                        &walk);
}

static PyObject *
many_end(ReaderObject *self, struct many *many, enum kdmp_status status)
{
    many_deinit(many);
    if (PyErr_Occurred())
        return NULL;
    if (status == KDMP_E_NOMEM)
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

const char reader_translate_into_doc[] = PyDoc_STR(
    "translate_into($self, /, addresses, pas, statuses)\n--\n\n"
    "Translate many addresses into buffers; `translate_many` makes them.\n\n"
    "`addresses` and `pas` hold unsigned 64-bit numbers, `statuses` a byte "
    "each. Where there is\n"
    "no translation the address is 2**64 - 1.");

PyObject *
reader_translate_into(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                      PyObject *kwnames)
{
    SIGNATURE("translate_into", 3, 3, 3, "addresses", "pas", "statuses");
    ReaderObject *self = (ReaderObject *)op;
    struct access access = {.space = &self->space};
    struct many many;
    enum kdmp_status status;
    PyThreadState *ts;

    if (bind_args(&sig, args, nargs, kwnames, slot) < 0
        || many_init(&many, slot, 8) < 0)
        return NULL;
    if (many.count > 0 && (uintptr_t)many.out.buf % 8 != 0) {
        PyErr_SetString(PyExc_ValueError, "pas is not aligned to 8 bytes");
        many_deinit(&many);
        return NULL;
    }
    if (access_begin(self, &access) < 0) {
        many_deinit(&many);
        return NULL;
    }
    do {
        ts = access_release(self, &access, (uint64_t)many.count * 256);
        status = kdmp_translate_many(access.space, many.addresses.buf,
                                     (size_t)many.count, many.out.buf,
                                     many.statuses.buf);
        access_reacquire(self, ts);
        status = access_end(self, status);
    } while (status == KDMP_OK && many_again(self, &access, &many) > 0);
    return many_end(self, &many, status);
}

const char reader_read_many_into_doc[] = PyDoc_STR(
    "read_many_into($self, /, addresses, size, buffer, statuses)\n--\n\n"
    "Read `size` bytes at many addresses into buffers; `read_many` makes "
    "them.\n\n"
    "Missing bytes are zeros, and the status of their address is not 0.");

PyObject *
reader_read_many_into(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                      PyObject *kwnames)
{
    SIGNATURE("read_many_into", 4, 4, 4, "addresses", "size", "buffer",
              "statuses");
    ReaderObject *self = (ReaderObject *)op;
    struct access access = {.space = &self->space};
    PyObject *buffers[3];
    struct many many;
    enum kdmp_status status;
    Py_ssize_t size;
    PyThreadState *ts;

    if (bind_args(&sig, args, nargs, kwnames, slot) < 0
        || as_size(slot[1], "size", &size) < 0)
        return NULL;
    buffers[0] = slot[0];
    buffers[1] = slot[2];
    buffers[2] = slot[3];
    if (many_init(&many, buffers, size) < 0)
        return NULL;
    if (access_begin(self, &access) < 0) {
        many_deinit(&many);
        return NULL;
    }
    do {
        ts = access_release(self, &access,
                            (uint64_t)many.count * ((uint64_t)size + 256));
        status =
            kdmp_read_many(access.space, many.addresses.buf, (size_t)many.count,
                           (uint64_t)size, many.out.buf, many.statuses.buf);
        access_reacquire(self, ts);
        status = access_end(self, status);
    } while (status == KDMP_OK && many_again(self, &access, &many) > 0);
    return many_end(self, &many, status);
}
