/*
 * Argument binding and converters.
 *
 * SPDX-License-Identifier: MIT
 */
#include "pykdmp.h"

static int
find_parameter(const struct signature *sig, PyObject *keyword)
{
    for (int i = 0; i < sig->count; i++) {
        if (PyUnicode_CompareWithASCIIString(keyword, sig->parameters[i])
            == 0) {
            return i;
        }
    }
    return -1;
}

int
bind_slow(const struct signature *sig, PyObject *const *args, Py_ssize_t nargs,
          PyObject *kwnames, PyObject **slots)
{
    Py_ssize_t keywords = kwnames != NULL ? PyTuple_GET_SIZE(kwnames) : 0;

    if (nargs > sig->positional) {
        PyErr_Format(PyExc_TypeError,
                     "%s() takes at most %d positional argument%s "
                     "(%zd given)",
                     sig->function, sig->positional,
                     sig->positional == 1 ? "" : "s", nargs);
        return -1;
    }
    for (int i = 0; i < sig->count; i++)
        slots[i] = i < nargs ? args[i] : NULL;
    for (Py_ssize_t k = 0; k < keywords; k++) {
        PyObject *keyword = PyTuple_GET_ITEM(kwnames, k);
        int i = find_parameter(sig, keyword);

        if (i < 0) {
            PyErr_Format(PyExc_TypeError,
                         "%s() got an unexpected keyword argument %R",
                         sig->function, keyword);
            return -1;
        }
        if (slots[i] != NULL) {
            PyErr_Format(PyExc_TypeError,
                         "%s() got multiple values for argument %R",
                         sig->function, keyword);
            return -1;
        }
        slots[i] = args[nargs + k];
    }
    for (int i = 0; i < sig->required; i++) {
        if (slots[i] == NULL) {
            PyErr_Format(PyExc_TypeError, "%s() is missing the argument '%s'",
                         sig->function, sig->parameters[i]);
            return -1;
        }
    }
    return 0;
}

/* A new int for anything that has __index__. */
static PyObject *
as_index(PyObject *arg, const char *name)
{
    if (!PyIndex_Check(arg)) {
        PyErr_Format(PyExc_TypeError, "%s must be an int, not %.100s", name,
                     Py_TYPE(arg)->tp_name);
        return NULL;
    }
    return PyNumber_Index(arg);
}

/* 1 if the int is negative, 0 if not, -1 on error. */
static int
is_negative(PyObject *number)
{
    PyObject *zero = PyLong_FromLong(0);
    int negative;

    if (zero == NULL)
        return -1;
    negative = PyObject_RichCompareBool(number, zero, Py_LT);
    Py_DECREF(zero);
    return negative;
}

int
as_u64_slow(PyObject *arg, const char *name, uint64_t *out)
{
    PyObject *number;
    unsigned long long value;
    int negative;

    PyErr_Clear(); /* of the quick attempt */
    number = as_index(arg, name);
    if (number == NULL)
        return -1;
    value = PyLong_AsUnsignedLongLong(number);
    if (value == (unsigned long long)-1 && PyErr_Occurred()) {
        PyErr_Clear();
        negative = is_negative(number);
        Py_DECREF(number);
        if (negative >= 0) {
            PyErr_Format(PyExc_OverflowError,
                         negative ? "%s must not be negative"
                                  : "%s does not fit into 64 bits",
                         name);
        }
        return -1;
    }
    Py_DECREF(number);
    *out = value;
    return 0;
}

int
as_size_slow(PyObject *arg, const char *name, Py_ssize_t *out)
{
    PyObject *number;
    Py_ssize_t value;
    int negative;

    PyErr_Clear(); /* of the quick attempt */
    number = as_index(arg, name);
    if (number == NULL)
        return -1;
    value = PyLong_AsSsize_t(number);
    if (value == -1 && PyErr_Occurred()) {
        PyErr_Clear();
        negative = is_negative(number);
    } else {
        negative = value < 0;
        if (!negative) {
            Py_DECREF(number);
            *out = value;
            return 0;
        }
    }
    Py_DECREF(number);
    if (negative > 0)
        PyErr_Format(PyExc_ValueError, "%s must not be negative", name);
    else if (negative == 0)
        PyErr_Format(PyExc_OverflowError, "%s is too large", name);
    return -1;
}

int
as_flag(PyObject *arg, int missing, int *out)
{
    *out = arg != NULL ? PyObject_IsTrue(arg) : missing;
    return *out < 0 ? -1 : 0;
}
