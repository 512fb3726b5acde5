/*
 * The module kdmp._kdmp: state, types, build_info().
 *
 * SPDX-License-Identifier: MIT
 */
#include "pykdmp.h"

#include "reader.h"

#ifndef KDMP_VERSION
#define KDMP_VERSION "unknown"
#endif
#ifndef KDMP_SANITIZE
#define KDMP_SANITIZE ""
#endif

struct module_state *
state_of_type(PyTypeObject *type)
{
    PyObject *module = PyType_GetModuleByDef(type, &kdmp_module_def);

    return module != NULL ? PyModule_GetState(module) : NULL;
}

PyDoc_STRVAR(build_info_doc,
             "build_info()\n--\n\n"
             "Return how the extension was built.\n\n"
             "A dict: \"version\" of the package, \"asserts\" whether "
             "assertions are active,\n"
             "\"sanitize\" the sanitizers compiled in, \"\" for none, "
             "\"map_guard\" whether the loss of a\n"
             "mapped file raises; else it ends the process, and `io=\"read\"` "
             "is the way out.");

static PyObject *
build_info(PyObject *module, PyObject *unused)
{
#ifdef NDEBUG
    PyObject *asserts = Py_False;
#else
    PyObject *asserts = Py_True;
#endif

    return Py_BuildValue("{sssOsssO}", "version", KDMP_VERSION, "asserts",
                         asserts, "sanitize", KDMP_SANITIZE, "map_guard",
                         MAP_GUARD ? Py_True : Py_False);
}

PyDoc_STRVAR(guarded_doc,
             "_guarded()\n--\n\n"
             "Return how many mapped files this process has, for tests.");

static PyObject *
guarded(PyObject *module, PyObject *unused)
{
    return PyLong_FromLong(map_guard_count());
}

static PyMethodDef module_methods[] = {
    {"build_info", build_info, METH_NOARGS, build_info_doc},
    {"_guarded", guarded, METH_NOARGS, guarded_doc},
    {NULL},
};

/* Types by spec; the public ones go into the module's namespace. */
static int
add_types(PyObject *module, struct module_state *state)
{
    static const struct {
        enum type_index index;
        PyType_Spec *spec;
        int is_public;
    } types[] = {
        {T_DUMP, &dump_spec, 1},
        {T_READER, &reader_spec, 1},
        {T_PAGES, &pages_spec, 1},
        {T_TRANSLATION, &translation_spec, 1},
        {T_ACCESS_CONTEXT, &access_context_spec, 1},
        {T_PAGE_ITERATOR, &page_iterator_spec, 0},
        {T_RUN_ITERATOR, &run_iterator_spec, 0},
        {T_FRAME, &frame_spec, 0},
        {T_MAPPING_ITERATOR, &mapping_iterator_spec, 0},
        {T_EXTENT_ITERATOR, &extent_iterator_spec, 1},
        {T_OVERLAY, &overlay_spec, 1},
        {T_MATCHER, &matcher_spec, 1},
    };
    static const enum type_index records[] = {
        T_ENTRY, T_GAP, T_RUN, T_VA_RANGE, T_MAPPING, T_EXTENT, T_SCANNED};

    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        PyObject *type = PyType_FromModuleAndSpec(module, types[i].spec, NULL);

        if (type == NULL)
            return -1;
        state->types[types[i].index] = (PyTypeObject *)type;
        if (types[i].is_public
            && PyModule_AddType(module, (PyTypeObject *)type) < 0) {
            return -1;
        }
    }
    if (records_init(state) < 0)
        return -1;
    for (size_t i = 0; i < sizeof(records) / sizeof(records[0]); i++) {
        if (PyModule_AddType(module, state->types[records[i]]) < 0)
            return -1;
    }
    return 0;
}

static int
module_exec(PyObject *module)
{
    struct module_state *state = PyModule_GetState(module);

    state->collector = PyContextVar_New("kdmp_fault_collector", Py_None);
    if (state->collector == NULL
        || PyModule_AddObjectRef(module, "_fault_collector", state->collector)
               < 0
        || errors_init(state, module) < 0) {
        return -1;
    }
    return add_types(module, state);
}

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    struct module_state *state = PyModule_GetState(module);

    for (int i = 0; i < TYPE_COUNT; i++)
        Py_VISIT(state->types[i]);
    for (int i = 0; i < ERROR_COUNT; i++)
        Py_VISIT(state->errors[i]);
    Py_VISIT(state->collector);
    return 0;
}

static int
module_clear(PyObject *module)
{
    struct module_state *state = PyModule_GetState(module);

    for (int i = 0; i < TYPE_COUNT; i++)
        Py_CLEAR(state->types[i]);
    for (int i = 0; i < ERROR_COUNT; i++)
        Py_CLEAR(state->errors[i]);
    Py_CLEAR(state->collector);
    return 0;
}

static void
module_free(void *module)
{
    (void)module_clear(module);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
#ifdef Py_mod_multiple_interpreters
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

PyModuleDef kdmp_module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "kdmp._kdmp",
    .m_doc = "The C core of kdmp, as Python sees it. Import from `kdmp`, not "
             "from here.",
    .m_size = sizeof(struct module_state),
    .m_methods = module_methods,
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__kdmp(void); /* for -Wmissing-prototypes */

PyMODINIT_FUNC
PyInit__kdmp(void)
{
    return PyModuleDef_Init(&kdmp_module_def);
}
