/*
 * file.c: map or read a file.  The only file with operating-system calls.
 *
 * SPDX-License-Identifier: MIT
 */
#define _FILE_OFFSET_BITS 64
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "internal.h"

static enum kdmp_status
fail_os(struct kdmp_error *err, int code, const char *what)
{
    enum kdmp_status status =
        kdmp_fail(err, KDMP_E_OS, 0, "%s: %s", what, strerror(code));

    if (err != NULL)
        err->os_errno = code;
    return status;
}

/* Size of a regular file or block device. */
static int
size_of_fd(int fd, uint64_t *size_out)
{
    struct stat st;
    off_t end;

    if (fstat(fd, &st) < 0)
        return errno;
    if (S_ISDIR(st.st_mode))
        return EISDIR;
    if (S_ISREG(st.st_mode)) {
        *size_out = (uint64_t)st.st_size;
        return 0;
    }
    end = lseek(fd, 0, SEEK_END);
    if (end < 0)
        return errno;
    *size_out = (uint64_t)end;
    return 0;
}

enum kdmp_status
kdmp_file_from_fd(struct kdmp_file *file, int fd, int map,
                  struct kdmp_error *err)
{
    void *mapping;
    int code;

    file->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (file->fd < 0)
        return fail_os(err, errno, "cannot use the file");
    code = size_of_fd(file->fd, &file->size);
    if (code != 0)
        return fail_os(err, code, "cannot tell the size of the file");
    if (!map || file->size == 0)
        return KDMP_OK;
    if (file->size > SIZE_MAX / 2)
        return fail_os(err, EFBIG, "cannot map the file");
    mapping =
        mmap(NULL, (size_t)file->size, PROT_READ, MAP_SHARED, file->fd, 0);
    if (mapping == MAP_FAILED)
        return fail_os(err, errno, "cannot map the file");
    if (file->watch.mapped != NULL
        && file->watch.mapped(file->watch.context, mapping, (size_t)file->size,
                              file->fd)
               != 0) {
        munmap(mapping, (size_t)file->size);
        return kdmp_fail(err, KDMP_E_NOMEM, 0, "out of memory");
    }
    file->ptr = mapping;
    file->mapped = 1;
    return KDMP_OK;
}

enum kdmp_status
kdmp_file_from_path(struct kdmp_file *file, const char *path, int map,
                    struct kdmp_error *err)
{
    enum kdmp_status status;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return fail_os(err, errno, "cannot open the file");
    status = kdmp_file_from_fd(file, fd, map, err);
    close(fd);
    return status;
}

enum kdmp_status
kdmp_file_from_input(struct kdmp_file *file, const struct kdmp_input *input,
                     struct kdmp_error *err)
{
    static const uint8_t nothing[1] = {0};

    if (input->watch != NULL)
        file->watch = *input->watch;
    if (input->path != NULL)
        return kdmp_file_from_path(file, input->path, input->map, err);
    if (input->stream != NULL) {
        file->stream = *input->stream;
        file->size = input->stream->size;
    } else {
        file->ptr = input->size != 0 ? input->data : nothing;
        file->size = input->size;
    }
    return KDMP_OK;
}

void
kdmp_file_close(struct kdmp_file *file)
{
    if (file->mapped) {
        if (file->watch.unmapping != NULL)
            file->watch.unmapping(file->watch.context, file->ptr);
        munmap((void *)(uintptr_t)file->ptr, (size_t)file->size);
    }
    if (file->fd >= 0)
        close(file->fd);
}

/* Read exactly 'size' bytes; 0 or an errno. */
static int
read_fd(int fd, uint64_t off, uint8_t *buffer, size_t size)
{
    while (size > 0) {
        ssize_t n = pread(fd, buffer, size, (off_t)off);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno;
        if (n == 0)
            return EIO; /* the file is shorter than it was */
        off += (uint64_t)n;
        buffer += n;
        size -= (size_t)n;
    }
    return 0;
}

enum kdmp_status
kdmp_file_read(const struct kdmp_file *file, uint64_t off, void *buffer,
               uint64_t size, struct kdmp_error *err)
{
    int code;

    if (off > file->size || size > file->size - off)
        return kdmp_fail(err, KDMP_E_FORMAT, off,
                         "the file ends before these bytes");
    if (size == 0)
        return KDMP_OK;
    if (file->ptr != NULL) {
        copy_bytes(buffer, file->ptr + off, size);
        return KDMP_OK;
    }
    if (file->stream.read_at != NULL)
        code = file->stream.read_at(file->stream.context, off, buffer,
                                    (size_t)size);
    else
        code = read_fd(file->fd, off, buffer, (size_t)size);
    if (code != 0)
        return fail_os(err, code, "cannot read the file");
    return KDMP_OK;
}
