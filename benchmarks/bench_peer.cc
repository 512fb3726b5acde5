// The same for the C++ library of kdmp-parser, against its own headers:
//
//     bench_peer DUMP ADDRESSES [ignored]
//
// Built only when KDMP_PARSER_INCLUDE names the folder with kdmp-parser.h;
// the package on the index holds binaries only. See bench_core.c for the
// input and the output.
//
// SPDX-License-Identifier: MIT
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <vector>

#include "kdmp-parser.h"

namespace
{

template <typename F>
void
measure(const char *name, size_t count, F function)
{
    using clock = std::chrono::steady_clock;
    uint64_t sum = function(); // warm-up
    const auto start = clock::now();

    sum = function();
    const std::chrono::duration<double, std::nano> took = clock::now() - start;
    std::printf("%s %.3f %llu\n", name, took.count() / double(count),
                static_cast<unsigned long long>(sum));
}

} // namespace

int
main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    std::ifstream file(argv[2], std::ios::binary);
    std::vector<uint64_t> numbers;
    uint64_t number;
    while (file.read(reinterpret_cast<char *>(&number), sizeof number))
        numbers.push_back(number);
    if (numbers.size() < 2)
        return 1;
    const uint64_t root = numbers[0];
    numbers.erase(numbers.begin());

    kdmpparser::KernelDumpParser parser;
    const auto start = std::chrono::steady_clock::now();
    if (!parser.Parse(argv[1]))
        return 1;
    const std::chrono::duration<double, std::nano> took =
        std::chrono::steady_clock::now() - start;
    std::printf("open %.0f 0\n", took.count());

    measure("translate", numbers.size(), [&] {
        uint64_t sum = 0;
        for (const uint64_t va : numbers)
            sum += parser.VirtTranslate(va, root).value_or(0);
        return sum;
    });
    measure("translate-same", numbers.size(), [&] {
        uint64_t sum = 0;
        for (size_t i = 0; i < numbers.size(); i++)
            sum += parser.VirtTranslate(numbers[0], root).value_or(0);
        return sum;
    });
    return 0;
}
