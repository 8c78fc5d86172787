// Writes sort.json: g++ -O2 sort.cc -o sort && ./sort > sort.json
// "order" is what std::sort makes, "heap" what its heap sort makes: that is
// std::partial_sort over everything, and sizes that drive std::sort into it are rare.
#include <algorithm>
#include <cstdio>
#include <random>
#include <utility>
#include <vector>

using L = std::vector<std::pair<int, int>>;

static bool first = true;

static void emit(const std::vector<int>& sizes) {
    L l;
    for (size_t i = 0; i < sizes.size(); i++) l.emplace_back(i, sizes[i]);
    L heap = l;
    auto less = [](const auto& a, const auto& b) { return a.second < b.second; };
    std::sort(l.begin(), l.end(), less);
    std::partial_sort(heap.begin(), heap.end(), heap.end(), less);
    std::printf("%s{\"sizes\":[", first ? "[\n" : ",\n");
    first = false;
    for (size_t i = 0; i < sizes.size(); i++) std::printf(i ? ",%d" : "%d", sizes[i]);
    std::printf("],\"order\":[");
    for (size_t i = 0; i < l.size(); i++) std::printf(i ? ",%d" : "%d", l[i].first);
    std::printf("],\"heap\":[");
    for (size_t i = 0; i < heap.size(); i++) std::printf(i ? ",%d" : "%d", heap[i].first);
    std::printf("]}");
}

int main() {
    std::mt19937 g{1};
    for (int n : {1, 2, 3, 15, 16, 17, 18, 31, 32, 33, 50, 100, 300}) {
        std::vector<int> sizes(n);
        for (auto& s : sizes) s = 5 + g() % 6;
        emit(sizes);
        std::fill(sizes.begin(), sizes.end(), 7);
        emit(sizes);
        for (int i = 0; i < n; i++) sizes[i] = n - i;
        emit(sizes);
    }
    std::printf("\n]\n");
}
