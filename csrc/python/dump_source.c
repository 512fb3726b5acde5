/*
 * Where a dump comes from: a path, the bytes of a Python object, or a file
 * object.
 *
 * A file object is called from whatever thread reads the dump, attached to
 * the interpreter.  Its seek() and read() belong together, so a lock covers
 * each pair; who has to wait for it detaches meanwhile.
 *
 * SPDX-License-Identifier: MIT
 */
#include "pykdmp.h"

#include <errno.h>

#define FILE_READ_MAX 0x1000000 /* bytes to ask a file object for at once */

/* --- file objects ------------------------------------------------------ */

/* Read up to 'size' bytes at 'offset'.  The count, or -1. */
static Py_ssize_t
file_read_once(PyObject *file, uint64_t offset, void *buffer, size_t size)
{
    PyObject *result;
    Py_buffer view;
    Py_ssize_t count;

    result =
        PyObject_CallMethod(file, "seek", "Ki", (unsigned long long)offset, 0);
    if (result == NULL)
        return -1;
    Py_DECREF(result);
    result = PyObject_CallMethod(
        file, "read", "n",
        (Py_ssize_t)(size < FILE_READ_MAX ? size : FILE_READ_MAX));
    if (result == NULL)
        return -1;
    if (PyObject_GetBuffer(result, &view, PyBUF_SIMPLE) < 0) {
        PyErr_Format(PyExc_TypeError,
                     "read() of the source must return bytes, not %.100s",
                     Py_TYPE(result)->tp_name);
        Py_DECREF(result);
        return -1;
    }
    Py_DECREF(result);
    count = view.len;
    if ((size_t)count > size) {
        PyErr_SetString(PyExc_ValueError,
                        "read() of the source returned more than asked for");
        count = -1;
    } else {
        memcpy(buffer, view.buf, (size_t)count);
    }
    PyBuffer_Release(&view);
    return count;
}

static int
file_lock(DumpObject *self)
{
    if (self->file_owner == PyThread_get_thread_ident()) {
        PyErr_SetString(PyExc_RuntimeError,
                        "the file object of a dump reads from that dump");
        return -1;
    }
    if (!PyThread_acquire_lock(self->file_lock, NOWAIT_LOCK)) {
        Py_BEGIN_ALLOW_THREADS
        PyThread_acquire_lock(self->file_lock, WAIT_LOCK);
        Py_END_ALLOW_THREADS
    }
    self->file_owner = PyThread_get_thread_ident();
    return 0;
}

static void
file_unlock(DumpObject *self)
{
    self->file_owner = 0;
    PyThread_release_lock(self->file_lock);
}

static void
raise_early_end(uint64_t offset)
{
    PyObject *text = format_text(
        "the source ends at offset 0x%llx, earlier than when it was opened",
        (unsigned long long)offset);
    PyObject *exc = NULL;

    if (text != NULL)
        exc = PyObject_CallFunction(PyExc_OSError, "iN", EIO, text);
    if (exc != NULL) {
        PyErr_SetObject(PyExc_OSError, exc);
        Py_DECREF(exc);
    }
}

/* struct kdmp_stream.read_at; leaves a Python exception when it fails. */
static int
file_read_at(void *context, uint64_t offset, void *buffer, size_t size)
{
    DumpObject *self = context;
    uint8_t *to = buffer;

    if (PyErr_Occurred() || file_lock(self) < 0)
        return EIO;
    while (size > 0) {
        Py_ssize_t count = file_read_once(self->file, offset, to, size);

        if (count <= 0) {
            if (count == 0)
                raise_early_end(offset);
            break;
        }
        to += count;
        offset += (uint64_t)count;
        size -= (size_t)count;
    }
    file_unlock(self);
    return size == 0 ? 0 : EIO;
}

static int
file_size(PyObject *file, uint64_t *size_out)
{
    PyObject *end = PyObject_CallMethod(file, "seek", "ii", 0, 2);
    int rc;

    if (end == Py_None) { /* some file objects do not say where they are */
        Py_DECREF(end);
        end = PyObject_CallMethod(file, "tell", NULL);
    }
    if (end == NULL)
        return -1;
    rc = as_u64(end, "the size of the source", size_out);
    Py_DECREF(end);
    return rc;
}

static int
open_file(DumpObject *self, PyObject *source, const struct kdmp_raw *raw)
{
    struct kdmp_stream stream = {.read_at = file_read_at, .context = self};
    struct kdmp_input input = {.stream = &stream};
    struct kdmp_error err;

    if (file_size(source, &stream.size) < 0)
        return -1;
    self->file_lock = PyThread_allocate_lock();
    if (self->file_lock == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    self->file = Py_NewRef(source);
    self->io = IO_FILE;
    if (kdmp_open_input(&input, raw, &self->handle, &err) != KDMP_OK) {
        raise_error(self->state, &err, NULL);
        return -1;
    }
    return PyErr_Occurred() ? -1 : 0;
}

/* --- bytes and paths --------------------------------------------------- */

static int
open_bytes(DumpObject *self, PyObject *source, const struct kdmp_raw *raw)
{
    struct kdmp_input input = {.path = NULL};
    struct kdmp_error err;
    enum kdmp_status status;

    if (PyObject_GetBuffer(source, &self->source, PyBUF_SIMPLE) < 0)
        return -1;
    input.data = self->source.buf;
    input.size = (size_t)self->source.len;
    self->io = IO_MEMORY;
    Py_BEGIN_ALLOW_THREADS
    status = kdmp_open_input(&input, raw, &self->handle, &err);
    Py_END_ALLOW_THREADS
    if (status != KDMP_OK) {
        raise_error(self->state, &err, NULL);
        return -1;
    }
    return 0;
}

static int
open_path(DumpObject *self, PyObject *source, int map,
          const struct kdmp_raw *raw)
{
    struct kdmp_map_watch watch = map_guard_watch(&self->guard);
    struct kdmp_input input = {.map = map, .watch = &watch};
    struct kdmp_error err;
    enum kdmp_status status;
    PyObject *path;
    uint64_t size;

    if (!PyUnicode_FSConverter(source, &path))
        return -1;
    input.path = PyBytes_AS_STRING(path);
    Py_XSETREF(self->path, PyUnicode_DecodeFSDefault(input.path));
    if (self->path == NULL) {
        Py_DECREF(path);
        return -1;
    }
    Py_BEGIN_ALLOW_THREADS
    status = kdmp_open_input(&input, raw, &self->handle, &err);
    Py_END_ALLOW_THREADS
    Py_DECREF(path);
    if (status != KDMP_OK) {
        raise_error(self->state, &err, source);
        return -1;
    }
    self->io = kdmp_file_bytes(self->handle, &size) != NULL ? IO_MAP : IO_READ;
    return 0;
}

/* Whether an object has an attribute; -1 with an exception if that cannot be
   told. */
static int
has_attribute(PyObject *object, const char *name)
{
    PyObject *attribute = PyObject_GetAttrString(object, name);

    if (attribute == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_AttributeError))
            return -1;
        PyErr_Clear();
        return 0;
    }
    Py_DECREF(attribute);
    return 1;
}

static int
is_path(PyObject *source)
{
    return PyUnicode_Check(source)
               ? 1
               : has_attribute((PyObject *)Py_TYPE(source), "__fspath__");
}

/* A new tuple of what 'arg' has: conversions run Python code, which may change
   'arg' itself. */
static PyObject *
as_tuple(PyObject *arg, const char *message)
{
    PyObject *tuple = PySequence_Tuple(arg);

    if (tuple == NULL && PyErr_ExceptionMatches(PyExc_TypeError))
        PyErr_SetString(PyExc_TypeError, message);
    return tuple;
}

/* --- memory images ----------------------------------------------------- */

/* One (pfn, count, file_offset). */
static int
convert_run(PyObject *item, struct kdmp_run *out)
{
    PyObject *fields = as_tuple(item, "a run is (pfn, count, file_offset)");
    int rc = -1;

    if (fields == NULL)
        return -1;
    if (PyTuple_GET_SIZE(fields) != 3) {
        PyErr_SetString(PyExc_ValueError, "a run is (pfn, count, file_offset)");
    } else if (as_u64(PyTuple_GET_ITEM(fields, 0), "pfn", &out->pfn) == 0
               && as_u64(PyTuple_GET_ITEM(fields, 1), "count", &out->count) == 0
               && as_u64(PyTuple_GET_ITEM(fields, 2), "file_offset",
                         &out->file_offset)
                      == 0) {
        rc = 0;
    }
    Py_DECREF(fields);
    return rc;
}

/* (arch or None, runs): what DumpBase(raw=) takes.  *runs_out is the caller's
   to free, also after a failure. */
static int
convert_raw(PyObject *arg, struct kdmp_raw *raw, struct kdmp_run **runs_out)
{
    const char *arch;
    PyObject *runs, *items;
    Py_ssize_t count;

    if (!PyTuple_Check(arg)) {
        PyErr_SetString(PyExc_TypeError, "raw must be (arch, runs)");
        return -1;
    }
    if (!PyArg_ParseTuple(arg, "zO;raw must be (arch, runs)", &arch, &runs))
        return -1;
    if (arch != NULL) {
        int machine = machine_by_name(arch);

        if (machine < 0) {
            PyErr_Format(PyExc_ValueError,
                         "arch must be 'x64', 'x86' or 'arm64', not '%s'",
                         arch);
            return -1;
        }
        raw->machine = (enum kdmp_machine)machine;
    }
    items = as_tuple(runs, "runs must be a sequence");
    if (items == NULL)
        return -1;
    count = PyTuple_GET_SIZE(items);
    *runs_out = PyMem_Calloc((size_t)count + 1, sizeof(**runs_out));
    if (*runs_out == NULL) {
        Py_DECREF(items);
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        if (convert_run(PyTuple_GET_ITEM(items, i), &(*runs_out)[i]) < 0) {
            Py_DECREF(items);
            PyMem_Free(*runs_out);
            *runs_out = NULL;
            return -1;
        }
    }
    Py_DECREF(items);
    raw->runs = *runs_out;
    raw->run_count = (uint64_t)count;
    return 0;
}

/* --- page files -------------------------------------------------------- */

static int
open_pagefile(DumpObject *self, PyObject *source, int map,
              struct kdmp_pagefile **out)
{
    struct kdmp_map_watch watch = map_guard_watch(&self->guard);
    struct kdmp_input input = {.map = map, .watch = &watch};
    struct kdmp_error err;
    enum kdmp_status status;
    PyObject *path;

    if (source == Py_None)
        return 0;
    if (!PyUnicode_FSConverter(source, &path))
        return -1;
    input.path = PyBytes_AS_STRING(path);
    Py_BEGIN_ALLOW_THREADS
    status = kdmp_pagefile_open(&input, out, &err);
    Py_END_ALLOW_THREADS
    Py_DECREF(path);
    if (status == KDMP_OK)
        return 0;
    raise_error(self->state, &err, source);
    return -1;
}

static int
open_pagefiles(DumpObject *self, PyObject *arg, int map)
{
    PyObject *items;
    int rc = 0;

    if (arg == Py_None)
        return 0;
    items = as_tuple(arg, "pagefiles must be a sequence of paths");
    if (items == NULL)
        return -1;
    if (PyTuple_GET_SIZE(items) > PAGEFILE_COUNT) {
        PyErr_SetString(PyExc_ValueError, "there are at most 16 page files");
        rc = -1;
    }
    for (Py_ssize_t i = 0; rc == 0 && i < PyTuple_GET_SIZE(items); i++) {
        self->guard.file = 1 + (int)i;
        rc = open_pagefile(self, PyTuple_GET_ITEM(items, i), map,
                           &self->pagefiles[i]);
    }
    Py_DECREF(items);
    return rc;
}

/* What is neither a path nor has bytes. */
static int
open_other(DumpObject *self, PyObject *source, const struct kdmp_raw *raw)
{
    int is_file = has_attribute(source, "seek");

    if (is_file > 0)
        is_file = has_attribute(source, "read");
    if (is_file > 0)
        return open_file(self, source, raw);
    if (is_file == 0) {
        PyErr_Format(PyExc_TypeError,
                     "source must be a path, a bytes-like object or a "
                     "binary file, not %.100s",
                     Py_TYPE(source)->tp_name);
    }
    return -1;
}

int
dump_open(DumpObject *self, PyObject *source, int map, PyObject *raw_arg,
          PyObject *pagefiles)
{
    struct kdmp_raw raw = {.runs = NULL}, *raw_used = NULL;
    struct kdmp_run *runs = NULL;
    int path, rc;

    map_guard_init(&self->guard);
    if (raw_arg != Py_None) {
        if (convert_raw(raw_arg, &raw, &runs) < 0)
            return -1;
        raw_used = &raw;
    }
    path = is_path(source);
    if (path < 0) {
        rc = -1;
    } else if (path > 0) {
        rc = open_path(self, source, map, raw_used);
    } else if (PyObject_CheckBuffer(source)) {
        rc = open_bytes(self, source, raw_used);
    } else {
        rc = open_other(self, source, raw_used);
    }
    PyMem_Free(runs);
    if (rc == 0)
        rc = open_pagefiles(self, pagefiles, map);
    if (map_guard_check(&self->guard)) { /* so what was said is not true */
        PyErr_Clear();
        dump_raise_lost(self);
        rc = -1;
    }
    if (rc < 0)
        dump_release(self);
    return rc;
}

void
dump_release(DumpObject *self)
{
    struct kdmp_dump *handle = self->handle;
    Py_buffer source = self->source;
    PyObject *file = self->file;
    PyThread_type_lock lock = self->file_lock;
    PyObject *type, *value, *traceback;

    self->handle = NULL;
    memset(&self->source, 0, sizeof(self->source));
    self->file = NULL;
    self->file_lock = NULL;

    PyErr_Fetch(&type, &value, &traceback);
    kdmp_close(handle);
    for (int i = 0; i < PAGEFILE_COUNT; i++) {
        kdmp_pagefile_close(self->pagefiles[i]);
        self->pagefiles[i] = NULL;
    }
    if (lock != NULL)
        PyThread_free_lock(lock);
    Py_XDECREF(file);
    PyBuffer_Release(&source);
    PyErr_Restore(type, value, traceback);
}
