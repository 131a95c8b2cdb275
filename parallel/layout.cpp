#include "parallel/layout.h"

#include <algorithm>
#include <cstring>

namespace fucina {
namespace {

// `part` counted from the beginning of `outer`.
Box within(const Box& part, const Box& outer) {
    Box box = part;
    for (size_t d = 0; d < box.offset.size(); ++d) box.offset[d] -= outer.offset[d];
    return box;
}

}  // namespace

int64_t Box::size() const {
    int64_t product = 1;
    for (const int64_t dim : extent) product *= dim;
    return product;
}

Box whole_box(std::span<const int64_t> shape) {
    return {std::vector<int64_t>(shape.size(), 0), {shape.begin(), shape.end()}};
}

std::optional<Box> intersection(const Box& a, const Box& b) {
    Box both = a;
    for (size_t d = 0; d < a.offset.size(); ++d) {
        const int64_t begin = std::max(a.offset[d], b.offset[d]);
        const int64_t end = std::min(a.offset[d] + a.extent[d], b.offset[d] + b.extent[d]);
        if (begin >= end) return std::nullopt;
        both.offset[d] = begin;
        both.extent[d] = end - begin;
    }
    return both;
}

void for_each_shared_run(const Box& from_box, const Box& to_box, const SharedRun& body) {
    const std::optional<Box> both = intersection(from_box, to_box);
    if (!both) return;
    // Runs of the one are cut where those of the other are.
    for_each_run(to_box.extent, within(*both, to_box), [&](int64_t to, int64_t at, int64_t n) {
        for_each_run(from_box.extent, within(*both, from_box),
                     [&](int64_t from, int64_t from_at, int64_t from_n) {
                         const int64_t begin = std::max(at, from_at);
                         const int64_t end = std::min(at + n, from_at + from_n);
                         if (begin < end)
                             body(from + begin - from_at, to + begin - at, end - begin);
                     });
    });
}

void copy_shared(const Box& from_box, const std::byte* from, const Box& to_box, std::byte* to,
                 int64_t element) {
    for_each_shared_run(from_box, to_box, [&](int64_t begin, int64_t to_begin, int64_t count) {
        std::memcpy(to + to_begin * element, from + begin * element,
                    static_cast<size_t>(count * element));
    });
}

}  // namespace fucina
