/*
 * Reader methods that give bytes.
 *
 * SPDX-License-Identifier: MIT
 */
#include "reader.h"

/* Allocated before anything is known to be there; more follows success. */
#define FIRST_CHUNK 0x400000
#define PROBE_SIZE 0x4000

/* --- read, read_exact, try_read_exact ---------------------------------- */

struct read_call {
    struct access access;
    Py_ssize_t size;
    enum kdmp_status status;
    struct kdmp_fault fault;
};

/* Read up to the first hole.  A new bytes object of what is there and, in
   'call', why it ends; NULL with an exception for everything that is not an
   answer about memory. */
static PyObject *
read_up_to(ReaderObject *self, struct read_call *call)
{
    Py_ssize_t room = call->size < FIRST_CHUNK ? call->size : FIRST_CHUNK;
    Py_ssize_t total = 0;
    PyObject *out = PyBytes_FromStringAndSize(NULL, room);
    uint64_t address, done;
    PyThreadState *ts;
    int again;

    if (out == NULL)
        return NULL;
    if (access_begin(self, &call->access) < 0) {
        Py_DECREF(out);
        return NULL;
    }
    do {
        call->status = KDMP_OK;
        while (total < call->size) {
            if (total == room) {
                room = call->size - room > room ? 2 * room : call->size;
                if (_PyBytes_Resize(&out, room) < 0) {
                    dump_unpin(self->dump);
                    return NULL;
                }
            }
            call->status = access_advance(&call->access, (uint64_t)total,
                                          &address, &call->fault);
            if (call->status != KDMP_OK)
                break;
            ts = access_release(self, &call->access, (uint64_t)(room - total));
            call->status = kdmp_read(
                call->access.space, address, PyBytes_AS_STRING(out) + total,
                (uint64_t)(room - total), &done, &call->fault);
            access_reacquire(self, ts);
            total += (Py_ssize_t)done;
            if (call->status != KDMP_OK)
                break;
        }
        call->status = access_end(self, call->status);
        again =
            access_again(self, &call->access, call->status, &call->fault.walk);
    } while (again > 0);
    if (again < 0) {
        Py_DECREF(out);
        return NULL;
    }
    if (call->status != KDMP_OK && !is_absent(call->status)) {
        Py_DECREF(out);
        return raise_fault(self->state, call->access.space, &call->fault);
    }
    if (call->status != KDMP_OK && reader_collects(self)
        && reader_missed(self, &call->access, (uint64_t)total,
                         (uint64_t)call->size)
               < 0) {
        Py_DECREF(out);
        return NULL;
    }
    if (total < PyBytes_GET_SIZE(out))
        (void)_PyBytes_Resize(&out, total);
    return out;
}

static PyObject *
bind_and_read(const struct signature *sig, PyObject *op, PyObject *const *args,
              Py_ssize_t nargs, PyObject *kwnames, struct read_call *call)
{
    ReaderObject *self = (ReaderObject *)op;
    PyObject *slot[2];

    if (bind_args(sig, args, nargs, kwnames, slot) < 0
        || access_convert(self, slot[0], &call->access) < 0
        || as_size(slot[1], "size", &call->size) < 0) {
        return NULL;
    }
    return read_up_to(self, call);
}

static const char *const va_size[] = {"va", "size"};

const char reader_read_doc[] =
    PyDoc_STR("read($self, /, va, size)\n--\n\n"
              "Return up to `size` bytes: those before the first hole.\n\n"
              "b\"\" if already the first byte is missing; `read_gaps` and "
              "`read_exact` say why. Memory\n"
              "is allocated for what is there, however large `size` is.");

PyObject *
reader_read(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
            PyObject *kwnames)
{
    static const struct signature sig = {"read", va_size, 2, 2, 2};
    struct read_call call;

    return bind_and_read(&sig, op, args, nargs, kwnames, &call);
}

const char reader_read_exact_doc[] =
    PyDoc_STR("read_exact($self, /, va, size)\n--\n\n"
              "Return exactly `size` bytes; PartialReadError if any of them is "
              "missing.");

PyObject *
reader_read_exact(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                  PyObject *kwnames)
{
    static const struct signature sig = {"read_exact", va_size, 2, 2, 2};
    struct read_call call;
    PyObject *out = bind_and_read(&sig, op, args, nargs, kwnames, &call);

    if (out != NULL && call.status != KDMP_OK) {
        raise_partial(((ReaderObject *)op)->state, call.access.space,
                      &call.fault, call.access.address, (uint64_t)call.size,
                      out);
        Py_CLEAR(out);
    }
    return out;
}

const char reader_try_read_exact_doc[] = PyDoc_STR(
    "try_read_exact($self, /, va, size)\n--\n\n"
    "Return exactly `size` bytes, or None if any of them is missing.");

PyObject *
reader_try_read_exact(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                      PyObject *kwnames)
{
    static const struct signature sig = {"try_read_exact", va_size, 2, 2, 2};
    struct read_call call;
    PyObject *out = bind_and_read(&sig, op, args, nargs, kwnames, &call);

    if (out != NULL && call.status != KDMP_OK) {
        Py_DECREF(out);
        Py_RETURN_NONE;
    }
    return out;
}

/* --- read_into --------------------------------------------------------- */

const char reader_read_into_doc[] = PyDoc_STR(
    "read_into($self, /, va, buffer)\n--\n\n"
    "Fill a writable buffer up to the first hole and return the count of "
    "bytes.\n\n"
    "The rest of the buffer stays as it was; 0 if already the first byte is "
    "missing.");

PyObject *
reader_read_into(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                 PyObject *kwnames)
{
    SIGNATURE("read_into", 2, 2, 2, "va", "buffer");
    ReaderObject *self = (ReaderObject *)op;
    struct access access;
    struct kdmp_fault fault;
    enum kdmp_status status = KDMP_OK;
    Py_buffer view;
    PyThreadState *ts;
    uint64_t done = 0, size;
    int again;

    if (bind_args(&sig, args, nargs, kwnames, slot) < 0
        || access_convert(self, slot[0], &access) < 0
        || PyObject_GetBuffer(slot[1], &view, PyBUF_WRITABLE) < 0) {
        return NULL;
    }
    if (access_begin(self, &access) < 0) {
        PyBuffer_Release(&view);
        return NULL;
    }
    do {
        if (view.len > 0) {
            ts = access_release(self, &access, (uint64_t)view.len);
            status = kdmp_read(access.space, access.address, view.buf,
                               (uint64_t)view.len, &done, &fault);
            access_reacquire(self, ts);
        }
        status = access_end(self, status);
        again = access_again(self, &access, status, &fault.walk);
    } while (again > 0);
    size = (uint64_t)view.len;
    PyBuffer_Release(&view);
    if (again < 0)
        return NULL;
    if (status != KDMP_OK && !is_absent(status))
        return raise_fault(self->state, access.space, &fault);
    if (status != KDMP_OK && reader_collects(self)
        && reader_missed(self, &access, done, size) < 0) {
        return NULL;
    }
    return PyLong_FromUnsignedLongLong(done);
}

/* --- read_gaps --------------------------------------------------------- */

struct hole {
    uint64_t start; /* offset from the first address */
    uint64_t size;
    struct kdmp_fault fault;
};

struct holes {
    struct hole *items; /* PyMem_Raw: grows without the GIL */
    size_t count;
    size_t room;
};

static enum kdmp_status
holes_add(struct holes *holes, uint64_t start, uint64_t size,
          const struct kdmp_fault *fault)
{
    struct hole *last = holes->items + holes->count - (holes->count > 0);

    if (holes->count > 0 && last->start + last->size == start
        && last->fault.status == fault->status) {
        last->size += size;
        return KDMP_OK;
    }
    if (holes->count == holes->room) {
        size_t room = holes->room > 0 ? 2 * holes->room : 8;
        struct hole *items =
            PyMem_RawRealloc(holes->items, room * sizeof(*items));

        if (items == NULL)
            return KDMP_E_NOMEM;
        holes->items = items;
        holes->room = room;
    }
    holes->items[holes->count++] = (struct hole){start, size, *fault};
    return KDMP_OK;
}

/* Read everything that is there, put 'fill' elsewhere.  KDMP_OK, or what
   kept it from being an answer.  Runs without the interpreter. */
static enum kdmp_status
read_around(const struct access *access, uint8_t *buffer, uint64_t size,
            int fill, struct holes *holes, struct kdmp_fault *fault)
{
    uint64_t position = 0, address, done, missing;
    enum kdmp_status status;

    while (position < size) {
        done = 0;
        status = access_advance(access, position, &address, fault);
        if (status == KDMP_OK)
            status = kdmp_read(access->space, address, buffer + position,
                               size - position, &done, fault);
        position += done;
        if (status == KDMP_OK)
            break;
        if (!is_absent(status))
            return status;
        missing = fault->missing > 0 ? fault->missing : 1;
        if (status == KDMP_E_ADDRESS_END || missing > size - position)
            missing = size - position;
        memset(buffer + position, fill, (size_t)missing);
        if (holes_add(holes, position, missing, fault) != KDMP_OK) {
            fault->status = KDMP_E_NOMEM;
            return KDMP_E_NOMEM;
        }
        position += missing;
    }
    return KDMP_OK;
}

static PyObject *
gap_list(ReaderObject *self, const struct access *access,
         const struct holes *holes)
{
    PyObject *list = PyList_New((Py_ssize_t)holes->count);

    for (size_t i = 0; i < holes->count && list != NULL; i++) {
        const struct hole *hole = &holes->items[i];
        PyObject *reason =
            fault_exception(self->state, access->space, &hole->fault);
        PyObject *gap = NULL;

        if (reason != NULL)
            gap = gap_record(self->state,
                             address_after(access->address, hole->start),
                             hole->size, reason);
        if (gap != NULL)
            PyList_SET_ITEM(list, (Py_ssize_t)i, gap);
        else
            Py_CLEAR(list);
    }
    return list;
}

const char reader_read_gaps_doc[] = PyDoc_STR(
    "read_gaps($self, /, va, size, fill=0)\n--\n\n"
    "Return `size` bytes and the list of gaps in them.\n\n"
    "Bytes that are not there have the value `fill`. Each Gap has an "
    "address, a size and the\n"
    "exception that reading its first byte raises; neighbours with the same "
    "kind of reason\n"
    "are one gap. What lies beyond the last address is a gap, too.");

PyObject *
reader_read_gaps(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                 PyObject *kwnames)
{
    SIGNATURE("read_gaps", 3, 3, 2, "va", "size", "fill");
    ReaderObject *self = (ReaderObject *)op;
    struct access access;
    struct holes holes = {NULL, 0, 0};
    struct kdmp_fault fault;
    enum kdmp_status status;
    Py_ssize_t size, fill = 0;
    PyThreadState *ts;
    PyObject *out, *list;
    int again;

    if (bind_args(&sig, args, nargs, kwnames, slot) < 0
        || access_convert(self, slot[0], &access) < 0
        || as_size(slot[1], "size", &size) < 0
        || (slot[2] != NULL && as_size(slot[2], "fill", &fill) < 0)) {
        return NULL;
    }
    if (fill > 255) {
        PyErr_SetString(PyExc_ValueError, "fill must be a byte, 0 ... 255");
        return NULL;
    }
    out = PyBytes_FromStringAndSize(NULL, size);
    if (out == NULL)
        return NULL;
    if (access_begin(self, &access) < 0) {
        Py_DECREF(out);
        return NULL;
    }
    do {
        ts = access_release(self, &access, (uint64_t)size);
        status = read_around(&access, (uint8_t *)PyBytes_AS_STRING(out),
                             (uint64_t)size, (int)fill, &holes, &fault);
        access_reacquire(self, ts);
        status = access_end(self, status);
        again = 0;
        for (size_t i = 0; i < holes.count && again == 0; i++)
            again = access_again(self, &access, holes.items[i].fault.status,
                                 &holes.items[i].fault.walk);
        if (again > 0)
            holes.count = 0;
    } while (again > 0);
    if (again < 0) {
        PyMem_RawFree(holes.items);
        Py_DECREF(out);
        return NULL;
    }
    list = status == KDMP_OK ? gap_list(self, &access, &holes)
                             : raise_fault(self->state, access.space, &fault);
    if (list != NULL && holes.count > 0 && reader_collects(self)
        && reader_missed(self, &access, holes.items[0].start, (uint64_t)size)
               < 0) {
        Py_CLEAR(list);
    }
    PyMem_RawFree(holes.items);
    if (list == NULL) {
        Py_DECREF(out);
        return NULL;
    }
    return Py_BuildValue("(NN)", out, list);
}

/* --- is_readable ------------------------------------------------------- */

/* Whether all bytes are there: KDMP_OK or why not. */
static enum kdmp_status
probe(const struct access *access, uint64_t size, struct kdmp_fault *fault)
{
    uint8_t scratch[PROBE_SIZE];
    uint64_t position = 0, address, done;
    enum kdmp_status status = KDMP_OK;

    while (position < size && status == KDMP_OK) {
        uint64_t left = size - position;

        status = access_advance(access, position, &address, fault);
        if (status == KDMP_OK)
            status =
                kdmp_read(access->space, address, scratch,
                          left < PROBE_SIZE ? left : PROBE_SIZE, &done, fault);
        position += PROBE_SIZE;
    }
    return status;
}

const char reader_is_readable_doc[] =
    PyDoc_STR("is_readable($self, /, va, size=1)\n--\n\n"
              "Return whether all of `size` bytes can be read.");

PyObject *
reader_is_readable(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
                   PyObject *kwnames)
{
    SIGNATURE("is_readable", 2, 2, 1, "va", "size");
    ReaderObject *self = (ReaderObject *)op;
    struct access access;
    struct kdmp_fault fault;
    enum kdmp_status status;
    Py_ssize_t size = 1;
    PyThreadState *ts;
    int again;

    if (bind_args(&sig, args, nargs, kwnames, slot) < 0
        || access_convert(self, slot[0], &access) < 0
        || (slot[1] != NULL && as_size(slot[1], "size", &size) < 0)
        || access_begin(self, &access) < 0) {
        return NULL;
    }
    do {
        ts = access_release(self, &access, (uint64_t)size);
        status = probe(&access, (uint64_t)size, &fault);
        access_reacquire(self, ts);
        status = access_end(self, status);
        again = access_again(self, &access, status, &fault.walk);
    } while (again > 0);
    if (again < 0)
        return NULL;
    if (status != KDMP_OK && !is_absent(status))
        return raise_fault(self->state, access.space, &fault);
    return PyBool_FromLong(status == KDMP_OK);
}
