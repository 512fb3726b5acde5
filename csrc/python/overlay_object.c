/*
 * kdmp._kdmp.OverlayBase: writes over a dump.  Reading and writing is done by
 * readers on it; here is what concerns whole frames.
 *
 * Whoever changes an overlay has the GIL and waits until no reader is at work
 * without it.
 *
 * SPDX-License-Identifier: MIT
 */
#include "pykdmp.h"

#include <time.h>

#define TAKE_AT_ONCE 512

void
overlay_wait(OverlayObject *self)
{
    while (self->readers > 0) {
        const struct timespec moment = {0, 20000};

        Py_BEGIN_ALLOW_THREADS(void)
        nanosleep(&moment, NULL);
        Py_END_ALLOW_THREADS
    }
}

/* Pin the dump and wait for readers; -1 with an exception. */
static int
begin_change(OverlayObject *self)
{
    if (self->handle == NULL) {
        PyErr_SetString(PyExc_ValueError, "the overlay has no dump");
        return -1;
    }
    overlay_wait(self);
    return dump_pin(self->dump);
}

/* --- life -------------------------------------------------------------- */

static PyObject *
overlay_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    struct module_state *state = state_of_type(type);
    OverlayObject *self;

    if (state == NULL)
        return NULL;
    self = (OverlayObject *)type->tp_alloc(type, 0);
    if (self != NULL)
        self->state = state;
    return (PyObject *)self;
}

static int
overlay_init(PyObject *op, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"dump", NULL};
    OverlayObject *self = (OverlayObject *)op;
    PyObject *dump;
    enum kdmp_status status;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!:OverlayBase", names,
                                     self->state->types[T_DUMP], &dump)) {
        return -1;
    }
    if (self->handle != NULL) {
        PyErr_SetString(PyExc_ValueError, "the overlay already has a dump");
        return -1;
    }
    if (dump_pin((DumpObject *)dump) < 0)
        return -1;
    status = kdmp_overlay_open(kdmp_get_source(((DumpObject *)dump)->handle),
                               &self->handle);
    dump_unpin((DumpObject *)dump);
    if (status != KDMP_OK) {
        PyErr_NoMemory();
        return -1;
    }
    self->dump = (DumpObject *)Py_NewRef(dump);
    return 0;
}

static int
overlay_traverse(PyObject *op, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(((OverlayObject *)op)->dump);
    Py_VISIT(((OverlayObject *)op)->on_write);
    return 0;
}

static int
overlay_clear(PyObject *op)
{
    /* Readers keep the overlay, and it its dump: not cleared before them. */
    Py_CLEAR(((OverlayObject *)op)->on_write);
    return 0;
}

static void
overlay_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);

    PyObject_GC_UnTrack(op);
    (void)overlay_clear(op);
    kdmp_overlay_close(((OverlayObject *)op)->handle);
    Py_CLEAR(((OverlayObject *)op)->dump);
    type->tp_free(op);
    Py_DECREF(type);
}

/* --- frames ------------------------------------------------------------ */

static PyObject *
raise_change(OverlayObject *self, enum kdmp_status status, const char *what,
             uint64_t pfn)
{
    if (status == KDMP_E_NOMEM)
        return PyErr_NoMemory();
    return raise_text(status == KDMP_E_NOT_IN_DUMP
                          ? self->state->errors[E_UNREADABLE]
                          : PyExc_ValueError,
                      "frame 0x%llx %s", (unsigned long long)pfn, what);
}

/* A method of one frame number. */
static int
frame_argument(OverlayObject *self, PyObject *arg, uint64_t *pfn)
{
    return as_u64(arg, "pfn", pfn) < 0 || begin_change(self) < 0 ? -1 : 0;
}

PyDoc_STRVAR(create_doc, "create($self, pfn, /)\n--\n\n"
                         "Make up a frame of zeros; ValueError if the frame "
                         "exists.");

static PyObject *
overlay_create(PyObject *op, PyObject *arg)
{
    OverlayObject *self = (OverlayObject *)op;
    enum kdmp_status status;
    uint64_t pfn;

    if (frame_argument(self, arg, &pfn) < 0)
        return NULL;
    status = kdmp_overlay_create(self->handle, pfn);
    if (dump_done(self->dump) < 0)
        return NULL;
    if (status != KDMP_OK)
        return raise_change(self, status,
                            "exists already, or is no frame number", pfn);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(revert_frame_doc,
             "revert_frame($self, pfn, /)\n--\n\n"
             "Make a frame the dump's again; return whether it was not.\n\n"
             "ValueError for a made-up frame that a remapped one shows.");

static PyObject *
overlay_revert_frame(PyObject *op, PyObject *arg)
{
    OverlayObject *self = (OverlayObject *)op;
    enum kdmp_status status;
    uint64_t pfn;

    if (frame_argument(self, arg, &pfn) < 0)
        return NULL;
    status = kdmp_overlay_revert(self->handle, pfn);
    if (dump_done(self->dump) < 0)
        return NULL;
    if (status == KDMP_E_NOMEM || status == KDMP_E_ARGUMENT)
        return raise_change(self, status, "is shown by a remapped one", pfn);
    return PyBool_FromLong(status == KDMP_OK);
}

PyDoc_STRVAR(remap_doc,
             "remap($self, pfn, target, /)\n--\n\n"
             "Let frame `pfn` show the content of frame `target`; writes to "
             "it go there.\n\n"
             "ValueError if `pfn` has been written or made up, or if this "
             "would make a chain;\n"
             "UnreadableError if there is no frame `target`.");

static int
wrong_count(const char *name, int expected)
{
    PyErr_Format(PyExc_TypeError, "%s() takes %d arguments", name, expected);
    return -1;
}

static PyObject *
overlay_remap(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    OverlayObject *self = (OverlayObject *)op;
    enum kdmp_status status;
    uint64_t pfn, target;

    if ((nargs != 2 && wrong_count("remap", 2) < 0)
        || as_u64(args[1], "target", &target) < 0
        || frame_argument(self, args[0], &pfn) < 0) {
        return NULL;
    }
    status = kdmp_overlay_remap(self->handle, pfn, target);
    if (dump_done(self->dump) < 0)
        return NULL;
    if (status == KDMP_E_NOT_IN_DUMP)
        return raise_change(self, status, "does not exist", target);
    if (status != KDMP_OK)
        return raise_change(self, status,
                            "cannot be remapped: it has content "
                            "of its own, or a remapped frame is involved",
                            pfn);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(frames_doc,
             "frames($self, /)\n--\n\n"
             "Return the frames that are not the dump's: (pfn, target, "
             "synthetic) of each, by pfn.\n\n"
             "`target` is None unless the frame is remapped; `synthetic` says "
             "that the dump has no such\n"
             "frame.");

/* (pfn, target or None, synthetic) */
static PyObject *
frame_record(const struct kdmp_overlay_frame *frame)
{
    PyObject *target = frame->remapped
                           ? PyLong_FromUnsignedLongLong(frame->target)
                           : Py_NewRef(Py_None);

    if (target == NULL)
        return NULL;
    return Py_BuildValue("(KNO)", (unsigned long long)frame->pfn, target,
                         frame->synthetic ? Py_True : Py_False);
}

static PyObject *
list_frames(OverlayObject *self, uint64_t count,
            int (*get)(const struct kdmp_overlay *, uint64_t,
                       struct kdmp_overlay_frame *))
{
    struct kdmp_overlay_frame frame;
    PyObject *list = PyList_New((Py_ssize_t)count);
    uint64_t i;

    for (i = 0; i < count && list != NULL; i++) {
        PyObject *item = get(self->handle, i, &frame) ? frame_record(&frame)
                                                      : Py_NewRef(Py_None);

        if (item == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, (Py_ssize_t)i, item);
    }
    if (list != NULL && PyList_Sort(list) < 0)
        Py_CLEAR(list);
    return list;
}

static PyObject *
overlay_frames(PyObject *op, PyObject *unused)
{
    OverlayObject *self = (OverlayObject *)op;
    PyObject *list;

    if (begin_change(self) < 0)
        return NULL;
    list =
        list_frames(self, kdmp_overlay_count(self->handle), kdmp_overlay_get);
    if (dump_done(self->dump) < 0)
        Py_CLEAR(list);
    return list;
}

PyDoc_STRVAR(remaps_doc, "remaps($self, /)\n--\n\n"
                         "Return those of `frames` that are remapped.");

static PyObject *
overlay_remaps(PyObject *op, PyObject *unused)
{
    OverlayObject *self = (OverlayObject *)op;
    PyObject *list;

    if (begin_change(self) < 0)
        return NULL;
    list = list_frames(self, kdmp_overlay_remap_count(self->handle),
                       kdmp_overlay_get_remap);
    if (dump_done(self->dump) < 0)
        Py_CLEAR(list);
    return list;
}

PyDoc_STRVAR(
    frame_doc,
    "frame($self, pfn, /)\n--\n\n"
    "Return what `frames` has of one frame; None if it is the dump's.");

static PyObject *
overlay_frame(PyObject *op, PyObject *arg)
{
    OverlayObject *self = (OverlayObject *)op;
    struct kdmp_overlay_frame frame;
    uint64_t pfn;
    int found;

    if (frame_argument(self, arg, &pfn) < 0)
        return NULL;
    found = kdmp_overlay_find(self->handle, pfn, &frame);
    if (dump_done(self->dump) < 0)
        return NULL;
    if (!found)
        Py_RETURN_NONE;
    return frame_record(&frame);
}

static Py_ssize_t
overlay_length(PyObject *op)
{
    OverlayObject *self = (OverlayObject *)op;

    return self->handle != NULL ? (Py_ssize_t)kdmp_overlay_count(self->handle)
                                : 0;
}

/* --- snapshots --------------------------------------------------------- */

PyDoc_STRVAR(snapshot_doc,
             "snapshot($self, /)\n--\n\n"
             "Remember the present state; return a number for `restore`.");

static PyObject *
overlay_snapshot(PyObject *op, PyObject *unused)
{
    OverlayObject *self = (OverlayObject *)op;
    enum kdmp_status status;
    uint64_t id;

    if (begin_change(self) < 0)
        return NULL;
    status = kdmp_overlay_snapshot(self->handle, &id);
    if (dump_done(self->dump) < 0)
        return NULL;
    if (status != KDMP_OK)
        return PyErr_NoMemory();
    return PyLong_FromUnsignedLongLong(id);
}

PyDoc_STRVAR(restore_doc,
             "restore($self, snapshot, /)\n--\n\n"
             "Go back to a snapshot, which stays; return how many changes that "
             "took back.\n\n"
             "Snapshots taken after it are gone; ValueError for one that is "
             "gone. Costs what was\n"
             "written since, not what the overlay holds.");

static PyObject *
overlay_restore(PyObject *op, PyObject *arg)
{
    OverlayObject *self = (OverlayObject *)op;
    enum kdmp_status status;
    uint64_t id, frames;

    if (as_u64(arg, "snapshot", &id) < 0 || begin_change(self) < 0)
        return NULL;
    status = kdmp_overlay_restore(self->handle, id, &frames);
    if (dump_done(self->dump) < 0)
        return NULL;
    if (status == KDMP_E_NOMEM)
        return PyErr_NoMemory();
    if (status != KDMP_OK) {
        PyErr_SetString(PyExc_ValueError, "there is no such snapshot");
        return NULL;
    }
    return PyLong_FromUnsignedLongLong(frames);
}

PyDoc_STRVAR(forget_doc,
             "forget($self, snapshot=None, /)\n--\n\n"
             "Forget a snapshot, or all; the overlay stays as it is.\n\n"
             "ValueError for a snapshot that is gone.");

static PyObject *
overlay_forget(PyObject *op, PyObject *const *args, Py_ssize_t nargs)
{
    OverlayObject *self = (OverlayObject *)op;
    int one = nargs == 1 && args[0] != Py_None;
    uint64_t id = 0;

    if ((nargs > 1 && wrong_count("forget", 1) < 0)
        || (one && as_u64(args[0], "snapshot", &id) < 0)
        || begin_change(self) < 0) {
        return NULL;
    }
    if (!one) {
        kdmp_overlay_forget(self->handle);
    } else if (kdmp_overlay_drop(self->handle, id) != KDMP_OK) {
        dump_unpin(self->dump);
        PyErr_SetString(PyExc_ValueError, "there is no such snapshot");
        return NULL;
    }
    if (dump_done(self->dump) < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(reset_doc, "reset($self, /)\n--\n\n"
                        "Forget all changes and all snapshots.");

static PyObject *
overlay_reset(PyObject *op, PyObject *unused)
{
    OverlayObject *self = (OverlayObject *)op;

    if (begin_change(self) < 0)
        return NULL;
    kdmp_overlay_reset(self->handle);
    if (dump_done(self->dump) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* --- watching ---------------------------------------------------------- */

PyDoc_STRVAR(watch_frame_doc,
             "watch_frame($self, pfn, /)\n--\n\n"
             "Note which 8-byte units of a frame change, for `take_dirty`; "
             "calls count.");

static PyObject *
overlay_watch_frame(PyObject *op, PyObject *arg)
{
    OverlayObject *self = (OverlayObject *)op;
    enum kdmp_status status;
    uint64_t pfn;

    if (frame_argument(self, arg, &pfn) < 0)
        return NULL;
    status = kdmp_overlay_watch(self->handle, pfn);
    if (dump_done(self->dump) < 0)
        return NULL;
    if (status != KDMP_OK)
        return raise_change(self, status, "is no frame number", pfn);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(unwatch_frame_doc, "unwatch_frame($self, pfn, /)\n--\n\n"
                                "End what one call of `watch_frame` began.");

static PyObject *
overlay_unwatch_frame(PyObject *op, PyObject *arg)
{
    OverlayObject *self = (OverlayObject *)op;
    uint64_t pfn;

    if (frame_argument(self, arg, &pfn) < 0)
        return NULL;
    kdmp_overlay_unwatch(self->handle, pfn);
    if (dump_done(self->dump) < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyDoc_STRVAR(take_dirty_doc,
             "take_dirty($self, /)\n--\n\n"
             "Return the physical addresses of the 8-byte units that changed "
             "in watched frames, and\n"
             "forget them.");

static PyObject *
overlay_take_dirty(PyObject *op, PyObject *unused)
{
    OverlayObject *self = (OverlayObject *)op;
    uint64_t found[TAKE_AT_ONCE];
    PyObject *list;
    size_t count, i;

    if (begin_change(self) < 0)
        return NULL;
    list = PyList_New(0);
    do {
        count = kdmp_overlay_take_dirty(self->handle, found, TAKE_AT_ONCE);
        for (i = 0; i < count && list != NULL; i++) {
            PyObject *item = PyLong_FromUnsignedLongLong(found[i]);

            if (item == NULL || PyList_Append(list, item) < 0)
                Py_CLEAR(list);
            Py_XDECREF(item);
        }
    } while (count == TAKE_AT_ONCE && list != NULL);
    if (dump_done(self->dump) < 0)
        Py_CLEAR(list);
    return list;
}

/* --- attributes -------------------------------------------------------- */

static PyObject *
get_dump(PyObject *op, void *closure)
{
    OverlayObject *self = (OverlayObject *)op;

    return Py_NewRef(self->dump != NULL ? (PyObject *)self->dump : Py_None);
}

static PyObject *
get_epoch(PyObject *op, void *closure)
{
    OverlayObject *self = (OverlayObject *)op;

    return PyLong_FromUnsignedLongLong(
        self->handle != NULL ? kdmp_overlay_epoch(self->handle) : 0);
}

static PyObject *
get_on_write(PyObject *op, void *closure)
{
    PyObject *callable = ((OverlayObject *)op)->on_write;

    return Py_NewRef(callable != NULL ? callable : Py_None);
}

static int
set_on_write(PyObject *op, PyObject *value, void *closure)
{
    if (value == Py_None)
        value = NULL;
    if (value != NULL && !PyCallable_Check(value)) {
        PyErr_SetString(PyExc_TypeError, "on_write must be callable or None");
        return -1;
    }
    Py_XSETREF(((OverlayObject *)op)->on_write, Py_XNewRef(value));
    return 0;
}

static PyGetSetDef overlay_getset[] = {
    GETTER("dump", get_dump, "The dump under the overlay."),
    GETTER("epoch", get_epoch,
           "A number that changes when a page table that readers have used "
           "changes."),
    PROPERTY("on_write", get_on_write, set_on_write,
             "Called after each write with (reader, address, size, places); "
             "None: nothing is.\n\n"
             "`places` has the physical address and the size of each page's "
             "part."),
    {NULL},
};

static PyMethodDef overlay_methods[] = {
    {"create", overlay_create, METH_O, create_doc},
    {"revert_frame", overlay_revert_frame, METH_O, revert_frame_doc},
    {"remap", (PyCFunction)(void (*)(void))overlay_remap, METH_FASTCALL,
     remap_doc},
    {"frames", overlay_frames, METH_NOARGS, frames_doc},
    {"remaps", overlay_remaps, METH_NOARGS, remaps_doc},
    {"frame", overlay_frame, METH_O, frame_doc},
    {"snapshot", overlay_snapshot, METH_NOARGS, snapshot_doc},
    {"restore", overlay_restore, METH_O, restore_doc},
    {"forget", (PyCFunction)(void (*)(void))overlay_forget, METH_FASTCALL,
     forget_doc},
    {"reset", overlay_reset, METH_NOARGS, reset_doc},
    {"watch_frame", overlay_watch_frame, METH_O, watch_frame_doc},
    {"unwatch_frame", overlay_unwatch_frame, METH_O, unwatch_frame_doc},
    {"take_dirty", overlay_take_dirty, METH_NOARGS, take_dirty_doc},
    {NULL},
};

PyDoc_STRVAR(overlay_doc,
             "OverlayBase(dump)\n--\n\n"
             "Writes over a dump, which itself never changes.\n\n"
             "Frames are copied when they are first written. `len()` counts "
             "the frames that are not\n"
             "the dump's.");

static PyType_Slot overlay_slots[] = {
    {Py_tp_doc, (void *)overlay_doc}, {Py_tp_new, overlay_new},
    {Py_tp_init, overlay_init},       {Py_tp_traverse, overlay_traverse},
    {Py_tp_clear, overlay_clear},     {Py_tp_dealloc, overlay_dealloc},
    {Py_tp_methods, overlay_methods}, {Py_tp_getset, overlay_getset},
    {Py_mp_length, overlay_length},   {0, NULL},
};

PyType_Spec overlay_spec = {
    .name = "kdmp._kdmp.OverlayBase",
    .basicsize = sizeof(OverlayObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC
             | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = overlay_slots,
};
