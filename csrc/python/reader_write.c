/*
 * Reader methods that write, through an overlay.
 *
 * SPDX-License-Identifier: MIT
 */
#include "reader.h"

/* Where a write goes: (physical address, size) of each page's part.  An empty
   list if it is not known, and then the write fails. */
static PyObject *
places_of(const ReaderObject *self, const struct access *access, uint64_t size)
{
    PyObject *places = PyList_New(0);
    uint64_t done = 0;

    while (places != NULL && done < size) {
        uint64_t address = access->address + done;
        uint64_t chunk = 0x1000 - (address & 0xfff);
        uint64_t paddr;
        PyObject *place;

        chunk = chunk < size - done ? chunk : size - done;
        if (kdmp_overlay_resolve(self->overlay->handle, access->space, address,
                                 &paddr, NULL)
            != KDMP_OK)
            break;
        place = Py_BuildValue("(KK)", (unsigned long long)paddr,
                              (unsigned long long)chunk);
        if (place == NULL || PyList_Append(places, place) < 0)
            Py_CLEAR(places);
        Py_XDECREF(place);
        done += chunk;
    }
    if (PyErr_Occurred()) /* also that of a file object */
        Py_CLEAR(places);
    return places;
}

/* Tell whoever wants to know; writes are done by then. */
static int
tell(ReaderObject *self, PyObject *address, uint64_t size, PyObject *places)
{
    PyObject *callable = self->overlay->on_write, *result = NULL;
    PyObject *count = PyLong_FromUnsignedLongLong(size);

    if (callable == NULL || count == NULL) {
        Py_XDECREF(count);
        return callable == NULL ? 0 : -1;
    }
    PyObject *args[] = {(PyObject *)self, address, count, places};
    Py_INCREF(callable);
    result = PyObject_Vectorcall(callable, args, 4, NULL);
    Py_DECREF(callable);
    Py_DECREF(count);
    Py_XDECREF(result);
    return result != NULL ? 0 : -1;
}

/* Write 'size' bytes at the address in 'arg'. */
static PyObject *
store(ReaderObject *self, PyObject *arg, const void *data, uint64_t size)
{
    struct access access;
    struct kdmp_fault fault;
    enum kdmp_status status = KDMP_OK;
    PyObject *places = NULL;
    uint64_t done;
    int rc = 0;

    if (access_convert(self, arg, &access) < 0)
        return NULL;
    if (self->overlay == NULL) {
        PyErr_SetString(self->state->errors[E_UNSUPPORTED],
                        "a dump never changes: write through an overlay, "
                        "dump.overlay()");
        return NULL;
    }
    overlay_wait(self->overlay);
    if (access_begin(self, &access) < 0)
        return NULL;
    if (self->overlay->on_write != NULL && size != 0) {
        places = places_of(self, &access, size);
        if (places == NULL) {
            (void)access_end(self, status);
            return NULL;
        }
    }
    status = kdmp_overlay_write(self->overlay->handle, access.space,
                                access.address, data, size, &done, &fault);
    status = access_end(self, status);
    if (status == KDMP_OK && places != NULL)
        rc = tell(self, arg, size, places);
    Py_XDECREF(places);
    if (status == KDMP_E_NOMEM)
        return PyErr_NoMemory();
    if (status != KDMP_OK)
        return raise_fault(self->state, access.space, &fault);
    if (rc < 0)
        return NULL;
    Py_RETURN_NONE;
}

const char reader_write_doc[] = PyDoc_STR(
    "write($self, /, va, data)\n--\n\n"
    "Write bytes into the overlay.\n\n"
    "All or nothing: if a page is not there (or only a page file has it), the "
    "error says why,\n"
    "and nothing is written. The rights in the page tables do not matter. "
    "UnsupportedDumpError\n"
    "for a reader without an overlay.");

PyObject *
reader_write(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
             PyObject *kwnames)
{
    SIGNATURE("write", 2, 2, 2, "va", "data");
    PyObject *result;
    Py_buffer view;

    if (bind_args(&sig, args, nargs, kwnames, slot) < 0
        || PyObject_GetBuffer(slot[1], &view, PyBUF_SIMPLE) < 0) {
        return NULL;
    }
    result = store((ReaderObject *)op, slot[0], view.buf, (uint64_t)view.len);
    PyBuffer_Release(&view);
    return result;
}

/* Write a number that must fit, signed or unsigned, in 'size' bytes. */
static PyObject *
store_number(ReaderObject *self, PyObject *va, PyObject *value, size_t size)
{
    PyObject *number = PyNumber_Index(value);
    uint8_t bytes[8];
    long long small;
    unsigned long long bits;
    int overflow;

    if (number == NULL)
        return NULL;
    small = PyLong_AsLongLongAndOverflow(number, &overflow);
    bits = (unsigned long long)small;
    if (overflow > 0) {
        bits = PyLong_AsUnsignedLongLong(number);
        overflow = bits == (unsigned long long)-1 && PyErr_Occurred() != NULL;
        PyErr_Clear();
        small = 0;
    }
    Py_DECREF(number);
    if (overflow != 0
        || (size < 8
            && (small < 0 ? small < -(1LL << (8 * size - 1))
                          : bits >> (8 * size) != 0))) {
        PyErr_Format(PyExc_OverflowError, "the value does not fit in %zu bytes",
                     size);
        return NULL;
    }
    for (size_t i = 0; i < 8; i++)
        bytes[i] = (uint8_t)(bits >> 8 * i);
    return store(self, va, bytes, size);
}

const char reader_write_uint_doc[] = PyDoc_STR(
    "write_uint($self, /, va, value, size)\n--\n\n"
    "Write a little-endian number of 1, 2, 4 or 8 bytes into the overlay.");

PyObject *
reader_write_uint(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                  PyObject *kwnames)
{
    SIGNATURE("write_uint", 3, 3, 3, "va", "value", "size");
    Py_ssize_t size;

    if (bind_args(&sig, args, nargs, kwnames, slot) < 0
        || as_size(slot[2], "size", &size) < 0) {
        return NULL;
    }
    if (size != 1 && size != 2 && size != 4 && size != 8) {
        PyErr_SetString(PyExc_ValueError, "size must be 1, 2, 4 or 8");
        return NULL;
    }
    return store_number((ReaderObject *)op, slot[0], slot[1], (size_t)size);
}

#define WRITE_INTEGER(name, size)                                              \
    const char reader_##name##_doc[] = PyDoc_STR(                              \
        #name "($self, /, va, value)\n--\n\n"                                  \
              "Write a number of " #size " bytes, little-endian, into the "    \
              "overlay; OverflowError if it does not fit.");                   \
                                                                               \
    PyObject *reader_##name(PyObject *op, PyObject *const *args,               \
                            Py_ssize_t nargs, PyObject *kwnames)               \
    {                                                                          \
        SIGNATURE(#name, 2, 2, 2, "va", "value");                              \
                                                                               \
        if (bind_args(&sig, args, nargs, kwnames, slot) < 0)                   \
            return NULL;                                                       \
        return store_number((ReaderObject *)op, slot[0], slot[1], size);       \
    }

WRITE_INTEGER(write_u8, 1)
WRITE_INTEGER(write_u16, 2)
WRITE_INTEGER(write_u32, 4)
WRITE_INTEGER(write_u64, 8)
