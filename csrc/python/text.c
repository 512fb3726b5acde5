/*
 * Text with addresses in it.
 *
 * SPDX-License-Identifier: MIT
 */
#include "pykdmp.h"

#include <stdarg.h>

#define MAX_TEXT 512 /* what is longer is cut */

static PyObject *
format_list(const char *format, va_list arguments)
{
    char text[MAX_TEXT];

    PyOS_vsnprintf(text, sizeof(text), format, arguments);
    return PyUnicode_DecodeUTF8(text, (Py_ssize_t)strlen(text), "replace");
}

PyObject *
format_text(const char *format, ...)
{
    va_list arguments;
    PyObject *text;

    va_start(arguments, format);
    text = format_list(format, arguments);
    va_end(arguments);
    return text;
}

PyObject *
raise_text(PyObject *type, const char *format, ...)
{
    va_list arguments;
    PyObject *text;

    va_start(arguments, format);
    text = format_list(format, arguments);
    va_end(arguments);
    if (text != NULL) {
        PyErr_SetObject(type, text);
        Py_DECREF(text);
    }
    return NULL;
}
