#!/usr/bin/env bash
# Checks beyond the test suite, by name.
#
#   tools/check.sh              all of them
#   tools/check.sh asan fuzz    these
#   tools/check.sh ^fuzz        all but this one
#   tools/check.sh coverage     not one of "all": takes as long as the tests
#
# Each check is a function below.  One that misses an optional tool prints why
# and counts as skipped.  Needs the environment that `make build` makes.
#
# KDMP_FUZZ_SECONDS is how long each fuzz target runs (default 3).
#
# SPDX-License-Identifier: MIT
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

ROOT=$PWD
BUILD=$ROOT/build/check
BIN=$ROOT/.venv/bin
CC=${CC:-cc}
SKIPPED=77

CORE=(csrc/*.c)
WARN=(-std=c11 -Wall -Wextra -Wshadow -Wvla -Wundef -Wmissing-prototypes
      -Wstrict-prototypes -Wno-unused-parameter -Werror)
SANITIZE=(-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined
          -fno-sanitize-recover=all)
# Tests of what is Python alone, or reads sound dumps only, gain nothing under
# a sanitizer and take most of the time there.
PYTHON_ALONE=(benchmarks.py bugcheck.py context.py convert.py hexdump.py 'packed*.py' structs.py
              'cli*.py' '*writer.py' layouts.py mmpte.py 'isf*.py' symbols.py
              kdbg.py choose.py kernel.py image.py modules.py lists.py entity.py
              objects.py 'cpus*.py' arguments.py trapframe.py processes.py
              proc_threads.py handletable.py user.py ldr.py vads.py
              'explain*.py' 'monitor*.py' series.py emulators.py watches.py
              pfn.py doctor_memory.py machines.py fuzz_python.py
              'extract_*.py' 'search*.py' strings.py yara.py)
C_TESTS=(bytes mmu source oom oom_uses failures overlay threads)

# Runs only when it is named.
APART=(coverage)
ALL=(bare symbols lint format types stubs ctests tsan valgrind nomemory fuzz asan analyze)

export UBSAN_OPTIONS=print_stacktrace=1

skip() {
    echo "skipped: $*"
    return $SKIPPED
}

# The core compiles alone, with no configuration, by one command.
check_bare() {
    mkdir -p "$BUILD/bare"
    (cd "$BUILD/bare" && "$CC" -std=c11 -Wall -Werror -I"$ROOT/csrc" -c "${CORE[@]/#/$ROOT/}")
}

# One export from the extension, kdmp_ everywhere in the core, no writable data.
check_symbols() {
    "$BIN/python" -m pytest -q -W error tests/test_symbols.py
}

check_lint() {
    "$BIN/ruff" check .
}

check_format() {
    "$BIN/ruff" format --check .
    find csrc tests -name '*.[ch]' -print0 |
        xargs -0 "$BIN/clang-format" --dry-run --Werror
}

check_types() {
    "$BIN/mypy"
}

# The stub says what the compiled module has.
check_stubs() {
    "$BIN/python" -m pytest -q -W error tests/test_stub.py
    # Records are struct sequences, which the stub describes as tuples; slots
    # that C fills in pairs; a buffer; an alias for annotations only.
    cat > "$BUILD/stubs.allow" <<'END'
kdmp\._kdmp\.\w+\.(__match_args__|n_\w*fields|__replace__)
kdmp\._kdmp\.AccessContext\.(__getnewargs_ex__|__rsub__)
kdmp\._kdmp\.\w+\.__buffer__
kdmp\._kdmp\.Address
END
    "$BIN/python" -m mypy.stubtest kdmp._kdmp --ignore-disjoint-bases --mypy-config-file pyproject.toml \
        --allowlist "$BUILD/stubs.allow" --ignore-unused-allowlist
}

# build_core DIRECTORY FLAGS...: the core as DIRECTORY/core.a, once in a run of this script.
build_core() {
    local directory=$1
    shift
    [ "$directory/core.a" -nt "$BUILD/started" ] && return
    rm -rf "$directory/core" "$directory/core.a"
    mkdir -p "$directory/core"
    (cd "$directory/core" && printf '%s\0' "${CORE[@]/#/$ROOT/}" |
        xargs -0 -n 4 -P "$(nproc)" "$CC" "${WARN[@]}" "$@" -DKDMP_TEST_ALLOC -I"$ROOT/csrc" -c)
    ar rcs "$directory/core.a" "$directory"/core/*.o
}

# build_c NAME DIRECTORY FLAGS...: compile tests/c/test_NAME.c with the core.
build_c() {
    local name=$1 directory=$2
    shift 2
    build_core "$directory" "$@"
    "$CC" "${WARN[@]}" "$@" -DKDMP_TEST_ALLOC -Icsrc "tests/c/test_$name.c" "$directory/core.a" \
        -o "$directory/test_$name" -pthread
}

# The tests in C, with ASan and UBSan, and with leaks being errors.
check_ctests() {
    local name
    for name in "${C_TESTS[@]}"; do
        build_c "$name" "$BUILD/ctests" "${SANITIZE[@]}"
        ASAN_OPTIONS=detect_leaks=1 "$BUILD/ctests/test_$name"
    done
}

# Data races between threads that share a dump.
check_tsan() {
    local run=()
    echo 'int main(void) { return 0; }' > "$BUILD/probe.c"
    "$CC" -fsanitize=thread "$BUILD/probe.c" -o "$BUILD/probe" 2> /dev/null ||
        { skip "$CC cannot link -fsanitize=thread" || return; }
    if ! "$BUILD/probe" 2> /dev/null; then # too much address randomisation for this runtime
        run=(setarch -R)
        "${run[@]}" "$BUILD/probe" 2> /dev/null || { skip "ThreadSanitizer does not run here" || return; }
    fi
    build_c threads "$BUILD/tsan" -O1 -g -fsanitize=thread
    TSAN_OPTIONS=halt_on_error=1 "${run[@]}" "$BUILD/tsan/test_threads"
}

check_valgrind() {
    command -v valgrind > /dev/null || { skip "valgrind is not installed" || return; }
    local name
    for name in bytes mmu source oom oom_uses failures overlay; do
        build_c "$name" "$BUILD/plain" -O1 -g
        valgrind --quiet --leak-check=full --errors-for-leak-kinds=all --error-exitcode=100 \
            "$BUILD/plain/test_$name"
    done
}

# Every allocation fails once, in the core and in the binding.
check_nomemory() {
    local name
    for name in oom oom_uses failures; do
        build_c "$name" "$BUILD/ctests" "${SANITIZE[@]}"
        "$BUILD/ctests/test_$name"
    done
    "$BIN/python" -m pytest -q -W error tests/test_nomemory.py
}

# Each target replays its corpus and then mutates it for a while.
check_fuzz() {
    "$BIN/python" tests/fuzz/runfuzz.py --seconds "${KDMP_FUZZ_SECONDS:-3}" --build "$ROOT/build/fuzz"
}

# build_apart PLACE SANITIZE: the package in PLACE/lib, its extension instrumented.
build_apart() {
    local place=$1
    mkdir -p "$place/lib"
    KDMP_SANITIZE=$2 "$BIN/python" setup.py --quiet build_ext \
        --build-lib "$place/lib" --build-temp "$place/temp"
    find "$place/lib/kdmp" -mindepth 1 ! -name '_kdmp*.so' -delete
    tar -C "$ROOT" --exclude='*.so' --exclude=__pycache__ -cf - kdmp | tar -C "$place/lib" -xf -
}

# suite PLACE PYTEST_ARGUMENTS...: the tests that execute C, with that package.
suite() {
    local place=$1
    shift
    PYTHONPATH=$place/lib PYTHONDONTWRITEBYTECODE=1 "$BIN/pytest" -q -n auto --dist loadfile \
        -p no:cacheprovider "${PYTHON_ALONE[@]/#/--ignore-glob=tests/test_}" "$@"
}

# The test suite on an instrumented extension, built apart from the normal one.
check_asan() {
    local place=$BUILD/asan asan ubsan
    build_apart "$place" address,undefined
    asan=$("$CC" -print-file-name=libasan.so)
    ubsan=$("$CC" -print-file-name=libubsan.so)
    (
        export PYTHONMALLOC=malloc
        export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 KDMP_EXPECT_SANITIZE=address
        export HYPOTHESIS_PROFILE=asan LD_PRELOAD="$asan $ubsan"
        suite "$place" -m "not compiles and not slow"
    )
}

# Lines of csrc that the tests in Python and in C and the fuzz corpus execute;
# each other one is explained in tests/coverage.txt.
check_coverage() {
    local place=$BUILD/coverage flags=(-O0 --coverage -fprofile-update=atomic) name
    command -v gcov > /dev/null || { skip "gcov is not installed" || return; }
    rm -rf "$place"
    build_apart "$place" coverage
    for name in "${C_TESTS[@]}"; do
        build_c "$name" "$place/ctests" "${flags[@]}"
        "$place/ctests/test_$name"
    done
    # What the tests compile themselves, the core and the fuzz targets, counts too.
    printf '#!/bin/sh\nexec %s "$@" %s\n' "$CC" "${flags[*]}" > "$place/cc"
    chmod +x "$place/cc"
    (
        export CC=$place/cc PYTHONSAFEPATH=1
        export KDMP_EXPECT_SANITIZE=coverage HYPOTHESIS_PROFILE=ci
        suite "$place" --basetemp "$place/made"
    )
    "$BIN/python" tools/coverage.py "$place"
}

# GCC's static analyser over the core.
check_analyze() {
    "$CC" --version | grep -qi 'free software foundation' || { skip "$CC is not GCC" || return; }
    printf '%s\0' "${CORE[@]}" |
        xargs -0 -n 1 -P "$(nproc)" "$CC" -std=c11 -O1 -fanalyzer -Werror -Icsrc -o /dev/null -c
}

is_known() {
    local name
    for name in "${ALL[@]}" "${APART[@]}"; do
        [ "$name" = "$1" ] && return 0
    done
    echo "check.sh: no check is called '$1'; there are: ${ALL[*]} ${APART[*]}" >&2
    exit 2
}

chosen=()
left_out=" "
for argument in "$@"; do
    is_known "${argument#^}"
    case $argument in
    ^*) left_out+="${argument#^} " ;;
    *) chosen+=("$argument") ;;
    esac
done
[ ${#chosen[@]} -gt 0 ] || chosen=("${ALL[@]}")

[ -x "$BIN/python" ] || { echo "check.sh: run 'make build' first" >&2; exit 2; }
mkdir -p "$BUILD"
touch "$BUILD/started"
failed=()
summary=()
for name in "${chosen[@]}"; do
    case $left_out in *" $name "*) continue ;; esac
    echo "== $name"
    start=$SECONDS
    code=0
    # A function in a condition would run without -e.
    set +e
    (set -e; "check_$name")
    code=$?
    set -e
    case $code in
    0) verdict=passed ;;
    "$SKIPPED") verdict=skipped ;;
    *) verdict=FAILED; failed+=("$name") ;;
    esac
    summary+=("$(printf '%-10s %s (%d s)' "$name" "$verdict" $((SECONDS - start)))")
done

echo "== summary"
printf '%s\n' "${summary[@]}"
if [ ${#failed[@]} -gt 0 ]; then
    echo "failed: ${failed[*]}" >&2
    exit 1
fi
