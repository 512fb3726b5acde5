/*
 * What the core's enumerators are called in Python.
 *
 * SPDX-License-Identifier: MIT
 */
#include "pykdmp.h"

#define COUNT(table) ((int)(sizeof(table) / sizeof((table)[0])))

static const char *const pagings[] = {
    [KDMP_PAGING_PHYSICAL] = "physical", [KDMP_PAGING_X64] = "x64",
    [KDMP_PAGING_LA57] = "la57",         [KDMP_PAGING_X86] = "x86",
    [KDMP_PAGING_PAE] = "pae",           [KDMP_PAGING_ARM64] = "arm64",
    [KDMP_PAGING_TRIAGE] = "triage",
};
_Static_assert(COUNT(pagings) == KDMP_PAGING_COUNT, "a paging has no name");

static const char *const paging_sources[] = {
    [KDMP_PAGING_FROM_MACHINE] = "machine",
    [KDMP_PAGING_FROM_KDBG] = "kdbg",
    [KDMP_PAGING_FROM_TRIAL] = "trial",
    [KDMP_PAGING_BY_DEFAULT] = "default",
    [KDMP_PAGING_FROM_HEADER] = "header",
};

static const char *const states[] = {
    [KDMP_PTE_NONE] = "none",
    [KDMP_PTE_VALID] = "valid",
    [KDMP_PTE_TRANSITION] = "transition",
    [KDMP_PTE_PROTOTYPE] = "prototype",
    [KDMP_PTE_ZERO] = "zero",
    [KDMP_PTE_DEMAND_ZERO] = "demand_zero",
    [KDMP_PTE_PAGEFILE] = "pagefile",
    [KDMP_PTE_TABLE] = "table",
    [KDMP_PTE_BAD] = "bad",
    [KDMP_PTE_SUBSECTION] = "subsection",
    [KDMP_PTE_VAD] = "vad",
};
_Static_assert(COUNT(states) == KDMP_PTE_STATE_COUNT, "a state has no name");

static const char *const layouts[] = {
    [KDMP_LAYOUT_NONE] = "none",       [KDMP_LAYOUT_RUNS] = "runs",
    [KDMP_LAYOUT_SUMMARY] = "summary", [KDMP_LAYOUT_BITMAP] = "bitmap",
    [KDMP_LAYOUT_RANGES] = "ranges",   [KDMP_LAYOUT_TRIAGE] = "triage",
    [KDMP_LAYOUT_RAW] = "raw",
};
_Static_assert(COUNT(layouts) == KDMP_LAYOUT_COUNT, "a layout has no name");

static const char *const machines[] = {
    [KDMP_MACHINE_UNKNOWN] = "unknown", [KDMP_MACHINE_X64] = "x64",
    [KDMP_MACHINE_X86] = "x86",         [KDMP_MACHINE_ARM64] = "arm64",
    [KDMP_MACHINE_ARM] = "arm",         [KDMP_MACHINE_IA64] = "ia64",
};

static const char *
name_at(const char *const *table, int count, int index)
{
    return index >= 0 && index < count ? table[index] : "?";
}

static int
index_of(const char *const *table, int count, const char *name)
{
    for (int i = 0; i < count; i++) {
        if (strcmp(table[i], name) == 0)
            return i;
    }
    return -1;
}

const char *
paging_name(int paging)
{
    return name_at(pagings, COUNT(pagings), paging);
}

const char *
paging_source_name(int source)
{
    return name_at(paging_sources, COUNT(paging_sources), source);
}

const char *
state_name(int state)
{
    return name_at(states, COUNT(states), state);
}

const char *
layout_name(int layout)
{
    return name_at(layouts, COUNT(layouts), layout);
}

const char *
machine_name(int machine)
{
    return name_at(machines, COUNT(machines), machine);
}

int
paging_by_name(const char *name)
{
    return index_of(pagings, COUNT(pagings), name);
}

int
machine_by_name(const char *name)
{
    int machine = index_of(machines, COUNT(machines), name);

    return machine == KDMP_MACHINE_X64 || machine == KDMP_MACHINE_X86
                   || machine == KDMP_MACHINE_ARM64
               ? machine
               : -1;
}

int
state_by_name(const char *name)
{
    return index_of(states, COUNT(states), name);
}
