#include "trainer/save_plan.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <numeric>

#include "kernels/error.h"

namespace fucina {
namespace {

// What the ranks hold of a tensor, each box once, with its holders.
std::vector<std::pair<Box, std::vector<int>>> boxes_of(const PlannedTensor& tensor,
                                                       const MeshShape& mesh, int ranks) {
    std::vector<std::pair<Box, std::vector<int>>> boxes;
    for (int rank = 0; rank < ranks; ++rank) {
        const Box box = tensor.shared_out ? owned_box(tensor.shape, tensor.layout, mesh, rank)
                                          : box_of(tensor.shape, tensor.layout, mesh, rank);
        const auto found =
            std::ranges::find_if(boxes, [&](const auto& known) { return known.first == box; });
        if (found == boxes.end())
            boxes.push_back({box, {rank}});
        else
            found->second.push_back(rank);
    }
    return boxes;
}

int64_t rows_of(const Box& box) {
    return box.extent.empty() ? 1 : box.extent[0];
}

}  // namespace

std::vector<PlannedTensor> planned(std::span<const NamedTensor> tensors) {
    std::vector<PlannedTensor> all;
    for (const NamedTensor& named : tensors)
        all.push_back({named.kind,
                       named.name,
                       {named.shape().begin(), named.shape().end()},
                       named.tensor.dtype(),
                       named.layout,
                       named.shared_out});
    return all;
}

std::vector<Share> plan_shares(std::span<const PlannedTensor> tensors, const MeshShape& mesh,
                               int ranks) {
    int64_t total = 0;
    for (const PlannedTensor& tensor : tensors)
        total += whole_box(tensor.shape).size() * size_of(tensor.dtype);
    const int64_t limit = ranks == 1 ? total : std::max<int64_t>(total / (2 * ranks), 1 << 20);
    std::vector<Share> shares;
    for (size_t t = 0; t < tensors.size(); ++t) {
        for (const auto& [box, holders] : boxes_of(tensors[t], mesh, ranks)) {
            if (box.size() == 0) continue;
            const int64_t rows = rows_of(box);
            const int64_t row_bytes = box.size() / rows * size_of(tensors[t].dtype);
            const int64_t step = std::clamp<int64_t>(limit / row_bytes, 1, rows);
            for (int64_t first = 0; first < rows; first += step) {
                const int64_t count = std::min(step, rows - first);
                shares.push_back({t, box, count * row_bytes, holders});
                if (box.extent.empty()) continue;
                shares.back().box.offset[0] += first;
                shares.back().box.extent[0] = count;
            }
        }
    }
    std::vector<size_t> order(shares.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return shares[a].nbytes > shares[b].nbytes; });
    std::vector<int64_t> load(static_cast<size_t>(ranks), 0);
    for (size_t i : order) {
        const auto of = [&](int rank) -> int64_t& { return load[static_cast<size_t>(rank)]; };
        shares[i].writer = *std::ranges::min_element(shares[i].holders,
                                                     [&](int a, int b) { return of(a) < of(b); });
        of(shares[i].writer) += shares[i].nbytes;
    }
    return shares;
}

std::vector<int64_t> bytes_by_writer(std::span<const Share> shares, int ranks) {
    std::vector<int64_t> bytes(static_cast<size_t>(ranks), 0);
    for (const Share& share : shares) bytes[static_cast<size_t>(share.writer)] += share.nbytes;
    return bytes;
}

std::string dataset_path(const PlannedTensor& tensor, const Box& box) {
    const std::string path = concat("/", tensor.kind, "/", tensor.name);
    if (box == whole_box(tensor.shape)) return path;
    bool by_rows = true;
    for (size_t d = 1; d < box.extent.size(); ++d)
        by_rows = by_rows && box.extent[d] == tensor.shape[d];
    if (by_rows) return fmt::format("{}@{}", path, box.offset[0]);
    return fmt::format("{}@{}", path, fmt::join(box.offset, ","));
}

ShardDataset dataset_of(const PlannedTensor& tensor, const Share& share) {
    return {.path = dataset_path(tensor, share.box),
            .dtype = tensor.dtype,
            .shape = share.box.extent,
            .nbytes = share.nbytes};
}

SavedTensor* add_tensor(Manifest& manifest, const PlannedTensor& tensor) {
    SavedTensor* const saved = manifest.add_tensors();
    saved->set_kind(tensor.kind);
    saved->set_name(tensor.name);
    saved->set_dtype(std::string(name_of(tensor.dtype)));
    for (const int64_t dim : tensor.shape) saved->add_shape(dim);
    return saved;
}

void add_file(Manifest& manifest, const std::string& name, int64_t size, uint64_t frame_xxh3) {
    SavedFile* const file = manifest.add_files();
    file->set_name(name);
    file->set_size(size);
    file->set_frame_xxh3(frame_xxh3);
}

void add_box(SavedTensor& saved, const PlannedTensor& tensor, const Share& share,
             int64_t byte_offset, uint64_t xxh3) {
    SavedBox* box = saved.add_boxes();
    box->set_file(static_cast<uint32_t>(share.writer));
    for (const int64_t offset : share.box.offset) box->add_offset(offset);
    for (const int64_t extent : share.box.extent) box->add_extent(extent);
    box->set_byte_offset(byte_offset);
    box->set_nbytes(share.nbytes);
    box->set_xxh3(xxh3);
    box->set_dataset(dataset_path(tensor, share.box));
}

}  // namespace fucina
