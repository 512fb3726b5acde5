/*
 * standalone.c: runs a fuzz target with any compiler.
 *
 *   target [-seconds=N] [-runs=N] [-seed=N] [-dict=FILE] [-max_len=N]
 *          [-prefix=PATH] [-keep=DIRECTORY] FILE|DIRECTORY...
 *
 * Every file is run once.  With -seconds or -runs inputs are then mutated:
 * by mutator.c if that is linked in, and as bits, bytes, words at aligned
 * places, pieces of other inputs, words of the dictionary.  If the rest was
 * compiled with -fsanitize-coverage=trace-pc (this file not), inputs that reach
 * new code are kept and mutated further; with -keep they are written there.
 *
 * An input that crashes, or takes over TIMEOUT seconds, is written to
 * <prefix>crash-<hash> or <prefix>hang-<hash>.
 *
 * SPDX-License-Identifier: MIT
 */
#define _POSIX_C_SOURCE 200809L

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "fuzz.h"

enum { TIMEOUT = 10, MAX_POOL = 4096, MAX_WORDS = 256, MAP_SIZE = 1 << 16 };

struct input {
    uint8_t *bytes;
    size_t size;
};

static struct input pool[MAX_POOL];
static size_t pool_count;
static struct input words[MAX_WORDS];
static size_t word_count;
static uint8_t *current; /* what is running, for the report of a crash */
static size_t current_size, max_len = 1 << 16;
static char prefix[512] = "./", keep[512] = "";
static uint64_t random_state = 1;

#pragma weak LLVMFuzzerCustomMutator

/* ---- coverage ---- */

static uint8_t hits[MAP_SIZE], known[MAP_SIZE];

/* Called by instrumented code at every edge. */
void __sanitizer_cov_trace_pc(void);

void
__sanitizer_cov_trace_pc(void)
{
    static uintptr_t previous;
    uintptr_t here = (uintptr_t)__builtin_return_address(0);
    size_t slot = (here ^ previous >> 1) * UINT64_C(0x9E3779B97F4A7C15) >> 48;

    previous = here;
    if (hits[slot] < 255)
        hits[slot]++;
}

/* Counts in classes, so that more rounds of a loop are only news sometimes. */
static uint8_t
class_of(uint8_t count)
{
    if (count < 4)
        return (uint8_t)(1 << count >> 1);
    return count < 16 ? 8 : count < 64 ? 16 : count < 255 ? 32 : 64;
}

static int
found_something_new(void)
{
    int found = 0;
    size_t i;

    for (i = 0; i < MAP_SIZE; i++) {
        uint8_t seen = hits[i] ? class_of(hits[i]) : 0;

        if (seen & ~known[i]) {
            known[i] |= seen;
            found = 1;
        }
    }
    return found;
}

/* ---- crashes ---- */

/* Only calls that are allowed in a signal handler, and snprintf. */
static void
save_current(const char *before, const char *kind, int with_report)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    char path[600];
    size_t i, done = 0;
    int fd;

    for (i = 0; i < current_size; i++)
        hash = (hash ^ current[i]) * UINT64_C(0x100000001b3);
    snprintf(path, sizeof(path), "%s%s%016llx", before, kind,
             (unsigned long long)hash);
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    while (fd >= 0 && done < current_size) {
        ssize_t n = write(fd, current + done, current_size - done);

        if (n <= 0)
            break;
        done += (size_t)n;
    }
    if (fd >= 0)
        close(fd);
    if (with_report)
        fprintf(stderr, "the input is in %s\n", path);
}

static void
on_signal(int number)
{
    if (number == SIGALRM)
        save_current(prefix, "hang-", 1);
    else
        save_current(prefix, "crash-", 1);
    _exit(1);
}

/* The sanitizers ask for these at their start: a finding shall be a SIGABRT. */
const char *__asan_default_options(void);
const char *__ubsan_default_options(void);

const char *
__asan_default_options(void)
{
    return "abort_on_error=1";
}

const char *
__ubsan_default_options(void)
{
    return "abort_on_error=1:print_stacktrace=1";
}

static void
run(const uint8_t *bytes, size_t size)
{
    current = (uint8_t *)(uintptr_t)bytes;
    current_size = size;
    alarm(TIMEOUT);
    LLVMFuzzerTestOneInput(bytes, size);
    alarm(0);
}

/* ---- inputs ---- */

static void *
must(void *memory)
{
    if (memory == NULL) {
        fprintf(stderr, "out of memory\n");
        exit(2);
    }
    return memory;
}

static void
add_to_pool(const uint8_t *bytes, size_t size)
{
    struct input *input;

    if (pool_count == MAX_POOL)
        return;
    input = &pool[pool_count++];
    input->bytes = must(malloc(size ? size : 1));
    input->size = size;
    memcpy(input->bytes, bytes, size);
}

static uint8_t *
read_whole(const char *path, size_t *size_out)
{
    FILE *file = fopen(path, "rb");
    uint8_t *bytes;
    long size;

    if (file == NULL || fseek(file, 0, SEEK_END) != 0
        || (size = ftell(file)) < 0) {
        perror(path);
        exit(2);
    }
    rewind(file);
    bytes = must(calloc(1, (size_t)size + 1));
    *size_out = fread(bytes, 1, (size_t)size, file);
    fclose(file);
    return bytes;
}

static void
load_inputs(const char *path)
{
    struct stat st;

    if (stat(path, &st) < 0) {
        perror(path);
        exit(2);
    }
    if (S_ISDIR(st.st_mode)) {
        struct dirent **names;
        int count = scandir(path, &names, NULL, alphasort), i;

        for (i = 0; i < count; i++) {
            char inner[4096];

            snprintf(inner, sizeof(inner), "%s/%s", path, names[i]->d_name);
            if (names[i]->d_name[0] != '.')
                load_inputs(inner);
            free(names[i]);
        }
        if (count >= 0)
            free(names);
    } else {
        size_t size;
        uint8_t *bytes = read_whole(path, &size);

        add_to_pool(bytes, size);
        free(bytes);
    }
}

/* Words between quotes, one a line, with \xNN escapes. */
static void
load_words(const char *path)
{
    size_t size;
    char *text = (char *)read_whole(path, &size), *line, *rest = text;

    while ((line = strtok_r(rest, "\n", &rest)) != NULL) {
        uint8_t bytes[256];
        size_t n = 0;
        char *p = strchr(line, '"');

        if (line[0] == '#' || p == NULL || word_count == MAX_WORDS)
            continue;
        for (p++; *p && *p != '"' && n < sizeof(bytes); p++) {
            if (p[0] == '\\' && p[1] == 'x' && p[2] && p[3]) {
                char digits[3] = {p[2], p[3], 0};

                bytes[n++] = (uint8_t)strtoul(digits, NULL, 16);
                p += 3;
            } else {
                bytes[n++] = (uint8_t)*p;
            }
        }
        words[word_count].bytes = must(malloc(n ? n : 1));
        memcpy(words[word_count].bytes, bytes, n);
        words[word_count++].size = n;
    }
    free(text);
}

/* ---- mutation ---- */

static uint64_t
next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state * UINT64_C(0x2545F4914F6CDD1D);
}

static size_t
below(size_t limit)
{
    return limit ? (size_t)(next_random() >> 16) % limit : 0;
}

/* A number that programs get wrong. */
static uint64_t
odd_number(void)
{
    uint64_t near = UINT64_C(1) << below(64);

    switch (below(6)) {
    case 0:
        return near;
    case 1:
        return near - 1;
    case 2:
        return 0 - near;
    case 3:
        return below(0x40);
    case 4:
        return (uint64_t)below(0x40) << 12;
    default:
        return next_random();
    }
}

/* A place to change: dumps are decided in their first pages. */
static size_t
some_place(size_t size)
{
    size_t area = below(3) ? (below(2) ? 0x100 : 0x2100) : size;

    return below(area < size ? area : size);
}

static void
store(uint8_t *bytes, size_t size, size_t at, uint64_t value, unsigned width)
{
    unsigned i;

    for (i = 0; i < width && at + i < size; i++)
        bytes[at + i] = (uint8_t)(value >> 8 * i);
}

static size_t
mutate_once(uint8_t *bytes, size_t size)
{
    size_t at = some_place(size), length, from;
    const struct input *other;

    if (size == 0) {
        bytes[0] = (uint8_t)next_random();
        return 1;
    }
    switch (below(9)) {
    case 0:
        bytes[at] ^= (uint8_t)(1 << below(8));
        return size;
    case 1:
        bytes[at] = (uint8_t)next_random();
        return size;
    case 2:
        store(bytes, size, at & ~(size_t)7, odd_number(), 8);
        return size;
    case 3:
        store(bytes, size, at & ~(size_t)3, odd_number(), 4);
        return size;
    case 4: /* a little more, a little less */
        bytes[at] = (uint8_t)(bytes[at] + below(33) - 16);
        return size;
    case 5:
        if (word_count == 0)
            return size;
        other = &words[below(word_count)];
        at &= ~(size_t)3;
        memcpy(bytes + at, other->bytes,
               other->size < size - at ? other->size : size - at);
        return size;
    case 6: /* a piece of another input at the same place */
        other = &pool[below(pool_count)];
        if (at >= other->size)
            return size;
        length = 1 + below(64);
        if (length > other->size - at)
            length = other->size - at;
        if (length > size - at)
            length = size - at;
        memcpy(bytes + at, other->bytes + at, length);
        return size;
    case 7: /* move bytes within */
        from = some_place(size);
        length = 1 + below(32);
        if (length > size - from)
            length = size - from;
        if (length > size - at)
            length = size - at;
        memmove(bytes + at, bytes + from, length);
        return size;
    default: /* cut or extend */
        if (below(4))
            return size;
        if (below(2))
            return below(size + 1);
        length = below(256);
        if (length > max_len - size)
            length = max_len - size;
        memset(bytes + size, (int)below(256), length);
        return size + length;
    }
}

/* What libFuzzer has under this name: changes that know nothing. */
size_t
LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size)
{
    size_t rounds = 1 + below(8);

    (void)max_size; /* all buffers have room for max_len */
    for (; rounds > 0; rounds--)
        size = mutate_once(data, size);
    return size;
}

static void
fuzz(uint64_t seconds, uint64_t runs)
{
    uint8_t *bytes = must(malloc(max_len + 1));
    time_t end = time(NULL) + (time_t)seconds;
    uint64_t n;

    for (n = 0; (runs == 0 || n < runs); n++) {
        const struct input *from = &pool[below(pool_count)];
        size_t size = from->size < max_len ? from->size : max_len;

        if (seconds != 0 && n % 64 == 0 && time(NULL) >= end)
            break;
        memcpy(bytes, from->bytes, size);
        if (LLVMFuzzerCustomMutator != NULL)
            size = LLVMFuzzerCustomMutator(bytes, size, max_len,
                                           (unsigned)next_random());
        else
            size = LLVMFuzzerMutate(bytes, size, max_len);
        memset(hits, 0, sizeof(hits));
        run(bytes, size);
        if (found_something_new()) {
            add_to_pool(bytes, size);
            if (keep[0] != '\0')
                save_current(keep, "/", 0);
        }
    }
    printf("%llu mutations, %llu inputs kept\n", (unsigned long long)n,
           (unsigned long long)pool_count);
    free(bytes);
}

static int
option(const char *argument, const char *name, const char **value_out)
{
    size_t size = strlen(name);

    if (strncmp(argument, name, size) != 0)
        return 0;
    *value_out = argument + size;
    return 1;
}

int
main(int argc, char **argv)
{
    uint64_t seconds = 0, runs = 0;
    const char *value;
    size_t replayed;
    int i;

    for (i = 1; i < argc; i++) {
        if (option(argv[i], "-seconds=", &value))
            seconds = strtoull(value, NULL, 10);
        else if (option(argv[i], "-runs=", &value))
            runs = strtoull(value, NULL, 10);
        else if (option(argv[i], "-seed=", &value))
            random_state = strtoull(value, NULL, 10) * 2 + 1;
        else if (option(argv[i], "-max_len=", &value))
            max_len = strtoull(value, NULL, 10);
        else if (option(argv[i], "-dict=", &value))
            load_words(value);
        else if (option(argv[i], "-prefix=", &value))
            snprintf(prefix, sizeof(prefix), "%s", value);
        else if (option(argv[i], "-keep=", &value))
            snprintf(keep, sizeof(keep), "%s", value);
        else if (argv[i][0] == '-')
            return fprintf(stderr, "no option %s\n", argv[i]), 2;
        else
            load_inputs(argv[i]);
    }
    if (pool_count == 0)
        return fprintf(stderr, "no inputs\n"), 2;
    signal(SIGALRM, on_signal);
    signal(SIGABRT, on_signal);
    replayed = pool_count;
    for (i = 0; (size_t)i < replayed; i++) {
        memset(hits, 0, sizeof(hits));
        run(pool[i].bytes, pool[i].size);
        (void)found_something_new();
    }
    printf("%llu inputs replayed\n", (unsigned long long)replayed);
    if (seconds != 0 || runs != 0)
        fuzz(seconds, runs);
    for (; pool_count > 0; pool_count--)
        free(pool[pool_count - 1].bytes);
    for (; word_count > 0; word_count--)
        free(words[word_count - 1].bytes);
    return 0;
}
