/*
 * Reader.scan(): find what a Matcher looks for.
 *
 * SPDX-License-Identifier: MIT
 */
#include "reader.h"

#define DEFAULT_LIMIT 4096
#define DEFAULT_BUDGET 0x1000000
/* What the core wants room for at least. */
#define LEAST_ROOM 8
/* More is found in several calls. */
#define MOST_ROOM 0x100000

struct request {
    MatcherObject *matcher;
    struct kdmp_search search;
    Py_ssize_t limit;
    struct kdmp_match *out;
    size_t room;
    size_t count;
};

/* Search without the interpreter; 0 or -1 with an exception.  As for extents,
   the VADs are asked once if an entry refers to them. */
static int
search(ReaderObject *self, struct request *request)
{
    struct kdmp_fault fault = {.status = KDMP_OK};
    struct kdmp_search before = request->search;
    struct access access = {.space = &self->space};
    PyThreadState *ts;
    int again;

    if (dump_pin(self->dump) < 0)
        return -1;
    do {
        request->search = before;
        ts = access_release(self, &access, UINT64_MAX);
        fault.status =
            kdmp_scan(access.space, request->matcher->handle, &request->search,
                      request->out, request->room, &request->count);
        access_reacquire(self, ts);
        fault.status = access_end(self, fault.status);
        if (fault.status == KDMP_E_LIMIT)
            reader_raise_limit(self, request->search.next);
        else if (fault.status != KDMP_OK)
            raise_fault(self->state, &self->space, &fault);
        again = PyErr_Occurred() ? -1
                : request->search.met_vad && !self->views_asked
                    ? access_ask_vads(self, &access)
                    : 0;
    } while (again > 0);
    return again;
}

/* Where to stop so that there are no more matches than the limit, but all that
   begin at one address: 0 if there are not. */
static uint64_t
limit_address(const struct request *request)
{
    size_t keep = (size_t)request->limit;

    while (keep < request->count
           && request->out[keep].address == request->out[keep - 1].address)
        keep++;
    return keep < request->count ? request->out[keep].address : 0;
}

/* Search for no more than the limit. */
static int
search_limited(ReaderObject *self, struct request *request)
{
    struct kdmp_search before = request->search;
    uint64_t end;

    if (search(self, request) < 0)
        return -1;
    end = limit_address(request);
    if (end == 0)
        return 0;
    /* There was room for more: go just so far. */
    request->search = before;
    request->search.last = end - 1;
    if (search(self, request) < 0)
        return -1;
    if (request->search.done)
        request->search.next = end;
    request->search.done = 0;
    return 0;
}

static PyObject *
match_tuple(const struct kdmp_match *match)
{
    /* First: it may collect garbage, which must not meet an error. */
    PyObject *tuple = PyTuple_New(5);
    PyObject *items[5] = {PyLong_FromUnsignedLongLong(match->address),
                          number_or_none(match->paddr),
                          number_or_none(match->file_offset),
                          PyLong_FromUnsignedLongLong(match->length),
                          PyLong_FromUnsignedLongLong(match->pattern)};
    int complete = tuple != NULL;

    for (int i = 0; i < 5; i++) {
        complete &= items[i] != NULL;
        if (tuple != NULL)
            PyTuple_SET_ITEM(tuple, i, items[i]);
        else
            Py_XDECREF(items[i]);
    }
    if (!complete)
        Py_CLEAR(tuple);
    return tuple;
}

static PyObject *
result(ReaderObject *self, const struct request *request, uint64_t tables)
{
    PyObject *list = PyList_New((Py_ssize_t)request->count), *record, *item;

    for (size_t i = 0; i < request->count && list != NULL; i++) {
        item = match_tuple(&request->out[i]);
        if (item != NULL)
            PyList_SET_ITEM(list, (Py_ssize_t)i, item);
        else
            Py_CLEAR(list);
    }
    record = list != NULL ? PyStructSequence_New(self->state->types[T_SCANNED])
                          : NULL;
    if (record == NULL) {
        Py_XDECREF(list);
        return NULL;
    }
    PyStructSequence_SetItem(record, 0, list);
    PyStructSequence_SetItem(record, 1,
                             request->search.done ? Py_NewRef(Py_None)
                                                  : PyLong_FromUnsignedLongLong(
                                                        request->search.next));
    PyStructSequence_SetItem(
        record, 2, PyLong_FromUnsignedLongLong(request->search.bytes));
    PyStructSequence_SetItem(record, 3, PyLong_FromUnsignedLongLong(tables));
    if (PyErr_Occurred())
        Py_CLEAR(record);
    return record;
}

const char reader_scan_doc[] = PyDoc_STR(
    "scan($self, /, matcher, start=0, last=None, *, limit=4096, "
    "budget=16777216)\n--\n\n"
    "Find the next matches that begin from `start` to `last`; a Scanned says "
    "where to go on.\n\n"
    "Matches come in ascending order of address and pattern; overlapping ones, "
    "too. They\n"
    "lie in readable memory, over the boundaries of pages that follow each "
    "other, but may\n"
    "end behind `last`. All that begin below `next` have been given. The call "
    "ends when it\n"
    "has found `limit` matches (or more, if that many begin at one address), "
    "has looked at\n"
    "about `budget` bytes or has found no memory for long. The sizes of all "
    "calls add up to\n"
    "those of `extents`. A run of text that begins before `start` is not "
    "given, "
    "nor is its\n"
    "rest; one that holds all of the 64 KiB before a multiple of 64 KiB is cut "
    "there.");

PyObject *
reader_scan(PyObject *op, PyObject *const *args, Py_ssize_t nargs,
            PyObject *kwnames)
{
    SIGNATURE("scan", 5, 3, 1, "matcher", "start", "last", "limit", "budget");
    ReaderObject *self = (ReaderObject *)op;
    struct request request = {.limit = DEFAULT_LIMIT};
    struct kdmp_search *state = &request.search;
    PyObject *answer = NULL;
    uint64_t tables;

    state->budget = DEFAULT_BUDGET;
    if (bind_args(&sig, args, nargs, kwnames, slot) < 0)
        return NULL;
    if (Py_TYPE(slot[0]) != self->state->types[T_MATCHER]) {
        PyErr_Format(PyExc_TypeError, "matcher must be a Matcher, not %.100s",
                     Py_TYPE(slot[0])->tp_name);
        return NULL;
    }
    request.matcher = (MatcherObject *)slot[0];
    if (reader_bounds(self, slot[1], slot[2], &state->next, &state->last) < 0
        || (slot[3] != NULL && as_size(slot[3], "limit", &request.limit) < 0)
        || (slot[4] != NULL && as_u64(slot[4], "budget", &state->budget) < 0)
        || reader_table_limit(self, &state->tables_left) < 0)
        return NULL;
    if (request.limit == 0 || state->budget == 0) {
        PyErr_SetString(PyExc_ValueError, "limit and budget must be above 0");
        return NULL;
    }
    request.room = (size_t)kdmp_matcher_count(request.matcher->handle);
    if (request.room < LEAST_ROOM)
        request.room = LEAST_ROOM;
    if (request.room < (size_t)request.limit)
        request.room =
            (size_t)(request.limit < MOST_ROOM ? request.limit : MOST_ROOM);
    request.out = PyMem_Malloc(request.room * sizeof(*request.out));
    if (request.out == NULL)
        return PyErr_NoMemory();
    tables = state->tables_left;
    if (search_limited(self, &request) == 0)
        answer = result(self, &request, tables - state->tables_left);
    PyMem_Free(request.out);
    return answer;
}
