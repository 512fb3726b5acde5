/*
 * pagefile.c: page files that were captured beside a dump.
 *
 * SPDX-License-Identifier: MIT
 */
#include "internal.h"

struct kdmp_pagefile {
    struct kdmp_file file;
};

enum kdmp_status
kdmp_pagefile_open(const struct kdmp_input *input, struct kdmp_pagefile **out,
                   struct kdmp_error *err)
{
    struct kdmp_pagefile *pagefile = kdmp_calloc(1, sizeof(*pagefile));
    enum kdmp_status status;

    *out = NULL;
    if (pagefile == NULL)
        return kdmp_fail(err, KDMP_E_NOMEM, 0, "out of memory");
    pagefile->file.fd = -1;
    status = kdmp_file_from_input(&pagefile->file, input, err);
    if (status != KDMP_OK) {
        kdmp_pagefile_close(pagefile);
        return status;
    }
    *out = pagefile;
    return KDMP_OK;
}

void
kdmp_pagefile_close(struct kdmp_pagefile *pagefile)
{
    if (pagefile == NULL)
        return;
    kdmp_file_close(&pagefile->file);
    kdmp_free(pagefile);
}

int
kdmp_pagefile_has(const struct kdmp_space *space,
                  const struct kdmp_translation *walk)
{
    const struct kdmp_pagefile *pagefile;

    if (walk->pagefile >= space->pagefile_count)
        return 0;
    pagefile = space->pagefiles[walk->pagefile];
    return pagefile != NULL
           && walk->pagefile_page < pagefile->file.size >> PAGE_SHIFT;
}

enum kdmp_status
kdmp_pagefile_read(const struct kdmp_space *space,
                   const struct kdmp_translation *walk, uint64_t in_page,
                   void *buffer, uint64_t size)
{
    if (!kdmp_pagefile_has(space, walk))
        return KDMP_E_NOT_PRESENT;
    return kdmp_file_read(&space->pagefiles[walk->pagefile]->file,
                          (walk->pagefile_page << PAGE_SHIFT) + in_page, buffer,
                          size, NULL);
}
