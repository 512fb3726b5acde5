/*
 * Reader methods that give numbers.
 *
 * SPDX-License-Identifier: MIT
 */
#include "reader.h"

/* Read 'size' bytes at an address as a little-endian number. */
static int
fetch(ReaderObject *self, PyObject *arg, size_t size, uint64_t *out)
{
    struct access access;
    uint8_t bytes[8] = {0};
    uint64_t value = 0;

    if (access_convert(self, arg, &access) < 0
        || access_begin(self, &access) < 0
        || access_fetch(self, &access, bytes, size) < 0) {
        return -1;
    }
    for (int i = 7; i >= 0; i--)
        value = value << 8 | bytes[i];
    *out = value;
    return 0;
}

/* The value of the low 'size' bytes read as two's complement. */
static int64_t
sign_extend(uint64_t value, size_t size)
{
    uint64_t sign = (uint64_t)1 << (8 * size - 1);

    return (int64_t)((value ^ sign) - sign);
}

static int
fetch_one(const char *name, PyObject *op, PyObject *const *args,
          Py_ssize_t nargs, PyObject *kwnames, size_t size, uint64_t *out)
{
    static const char *const parameters[] = {"va"};
    PyObject *arg;

    if (kwnames == NULL && nargs == 1) {
        arg = args[0];
    } else {
        const struct signature sig = {name, parameters, 1, 1, 1};

        if (bind_slow(&sig, args, nargs, kwnames, &arg) < 0)
            return -1;
    }
    return fetch((ReaderObject *)op, arg, size, out);
}

#define READ_INTEGER(name, size, convert, doc)                                 \
    const char reader_##name##_doc[] = PyDoc_STR(                              \
        #name "($self, /, va)\n--\n\nReturn the " doc " at an address.");      \
                                                                               \
    PyObject *reader_##name(PyObject *op, PyObject *const *args,               \
                            Py_ssize_t nargs, PyObject *kwnames)               \
    {                                                                          \
        uint64_t value;                                                        \
                                                                               \
        if (fetch_one(#name, op, args, nargs, kwnames, size, &value) < 0)      \
            return NULL;                                                       \
        return convert;                                                        \
    }

#define UNSIGNED PyLong_FromUnsignedLongLong(value)
#define SIGNED(size) PyLong_FromLongLong(sign_extend(value, size))

READ_INTEGER(read_u8, 1, UNSIGNED, "unsigned byte")
READ_INTEGER(read_u16, 2, UNSIGNED, "unsigned 16-bit number")
READ_INTEGER(read_u32, 4, UNSIGNED, "unsigned 32-bit number")
READ_INTEGER(read_u64, 8, UNSIGNED, "unsigned 64-bit number")
READ_INTEGER(read_i8, 1, SIGNED(1), "signed byte")
READ_INTEGER(read_i16, 2, SIGNED(2), "signed 16-bit number")
READ_INTEGER(read_i32, 4, SIGNED(4), "signed 32-bit number")
READ_INTEGER(read_i64, 8, SIGNED(8), "signed 64-bit number")

static PyObject *
as_float(uint64_t value, int size)
{
    char bytes[8];

    for (int i = 0; i < 8; i++)
        bytes[i] = (char)(value >> (8 * i) & 0xff);
    /* Unpacking fails for formats of other machines only. */
    return PyFloat_FromDouble(size == 4 ? PyFloat_Unpack4(bytes, 1)
                                        : PyFloat_Unpack8(bytes, 1));
}

READ_INTEGER(read_f32, 4, as_float(value, 4), "32-bit IEEE 754 number")
READ_INTEGER(read_f64, 8, as_float(value, 8), "64-bit IEEE 754 number")

const char reader_read_uint_doc[] =
    PyDoc_STR("read_uint($self, /, va, size, *, signed=False)\n--\n\n"
              "Return the number of 1, 2, 4 or 8 bytes at an address.\n\n"
              "ValueError for another size.");

PyObject *
reader_read_uint(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                 PyObject *kwnames)
{
    SIGNATURE("read_uint", 3, 2, 2, "va", "size", "signed");
    uint64_t value;
    Py_ssize_t size;
    int is_signed;

    if (bind_args(&sig, args, nargs, kwnames, slot) < 0
        || as_size(slot[1], "size", &size) < 0
        || as_flag(slot[2], 0, &is_signed) < 0) {
        return NULL;
    }
    if (size != 1 && size != 2 && size != 4 && size != 8) {
        PyErr_Format(PyExc_ValueError, "size must be 1, 2, 4 or 8, not %zd",
                     size);
        return NULL;
    }
    if (fetch((ReaderObject *)op, slot[0], (size_t)size, &value) < 0)
        return NULL;
    return is_signed ? SIGNED((size_t)size) : UNSIGNED;
}

const char reader_read_ptr_doc[] = PyDoc_STR(
    "read_ptr($self, /, va, *, size=None)\n--\n\n"
    "Return the pointer at an address, zero-extended.\n\n"
    "`size` is 4 or 8 bytes, by default the `pointer_size` of the reader.");

PyObject *
reader_read_ptr(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                PyObject *kwnames)
{
    SIGNATURE("read_ptr", 2, 1, 1, "va", "size");
    ReaderObject *self = (ReaderObject *)op;
    Py_ssize_t size = self->pointer_size;
    uint64_t value;

    if (bind_args(&sig, args, nargs, kwnames, slot) < 0
        || (slot[1] != NULL && slot[1] != Py_None
            && as_size(slot[1], "size", &size) < 0)) {
        return NULL;
    }
    if (self->dump != NULL && size != 4 && size != 8) {
        PyErr_Format(PyExc_ValueError, "size must be 4 or 8, not %zd", size);
        return NULL;
    }
    if (fetch(self, slot[0], (size_t)size, &value) < 0)
        return NULL;
    return UNSIGNED;
}
