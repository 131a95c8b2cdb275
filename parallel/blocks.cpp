#include "parallel/blocks.h"

#include "kernels/error.h"

namespace fucina {
namespace {

template <class Byte>
std::vector<std::span<Byte>> cut(std::span<Byte> data, std::span<const int64_t> counts) {
    std::vector<std::span<Byte>> blocks;
    size_t offset = 0;
    for (const int64_t count : counts) {
        const auto bytes = static_cast<size_t>(count);
        FUCINA_CHECK(bytes <= data.size() - offset, "blocks beyond ", data.size(), " bytes");
        blocks.push_back(data.subspan(offset, bytes));
        offset += bytes;
    }
    return blocks;
}

}  // namespace

Blocks gather_blocks(int ranks, std::span<const std::byte> in, std::span<std::byte> out) {
    FUCINA_CHECK(out.size() == in.size() * static_cast<size_t>(ranks), in.size(),
                 " bytes a rank into ", out.size());
    const std::vector<int64_t> counts(static_cast<size_t>(ranks), static_cast<int64_t>(in.size()));
    return {std::vector<std::span<const std::byte>>(static_cast<size_t>(ranks), in),
            cut(out, counts)};
}

Blocks exchange_blocks(std::span<const std::byte> in, std::span<const int64_t> send_counts,
                       std::span<std::byte> out, std::span<const int64_t> receive_counts) {
    return {cut(in, send_counts), cut(out, receive_counts)};
}

}  // namespace fucina
