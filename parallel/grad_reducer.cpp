#include "parallel/grad_reducer.h"

#include <algorithm>
#include <cstring>

#include "kernels/error.h"
#include "kernels/optimizer.h"

namespace fucina {
namespace {

struct RankNode {
    int begin, count;
};

// Sum over the ranks of a node that hold grains, left in the returned slice; undefined if none
// does. Adding zeros for the absent would turn -0 into +0, so they are skipped.
Tensor sum_node(std::span<const Tensor> slices, RankNode node) {
    if (node.count == 1) return slices[static_cast<size_t>(node.begin)];
    const int first = (node.count + 1) / 2;
    const Tensor a = sum_node(slices, {node.begin, first});
    const Tensor b = sum_node(slices, {node.begin + first, node.count - first});
    if (!a.defined()) return b;
    if (b.defined()) ops::add_in_place(a, b);
    return a;
}

std::span<std::byte> bytes_of(const Tensor& tensor) {
    return {tensor.raw(), static_cast<size_t>(tensor.bytes())};
}

}  // namespace

GradReducer::GradReducer(Communicator& communicator, int64_t bucket_bytes)
    : communicator_(communicator), bucket_elements_(std::max<int64_t>(bucket_bytes / 4, 1)) {}

void GradReducer::reduce(std::span<const Tensor> tensors, const std::vector<bool>& holds) {
    const int ranks = communicator_.size();
    FUCINA_CHECK(static_cast<int>(holds.size()) == ranks, holds.size(), " holders, ", ranks,
                 " ranks");
    if (ranks == 1) return;
    int64_t total = 0;
    for (const Tensor& tensor : tensors) total += tensor.size();
    if (!bucket_.defined() || bucket_.size() < std::min(bucket_elements_, total)) {
        MemoryPurpose purpose("communication");  // never more than all gradients
        bucket_ = received_ = {};
        const int64_t padded =
            (std::min(bucket_elements_, std::max<int64_t>(total, 1)) + ranks - 1) / ranks * ranks;
        bucket_ = Tensor::empty({padded}, DType::f32);
        received_ = Tensor::empty({padded}, DType::f32);
    }
    const int64_t bucket_elements = std::min(bucket_elements_, bucket_.size());
    // A bucket is a run of elements across tensors: filled, exchanged, and written back.
    struct Piece {
        float* data;
        int64_t count;
    };
    std::vector<Piece> pieces;
    int64_t filled = 0;
    const auto flush = [&] {
        if (filled == 0) return;
        exchange(filled, holds);
        const float* from = bucket_.data<float>();
        for (const Piece& piece : pieces) {
            std::memcpy(piece.data, from, static_cast<size_t>(piece.count) * sizeof(float));
            from += piece.count;
        }
        pieces.clear();
        filled = 0;
    };
    for (const Tensor& tensor : tensors) {
        FUCINA_CHECK(tensor.contiguous(), "gradients are contiguous");
        for (int64_t done = 0; done < tensor.size();) {
            const int64_t count = std::min(tensor.size() - done, bucket_elements - filled);
            float* data = tensor.data<float>() + done;
            std::memcpy(bucket_.data<float>() + filled, data,
                        static_cast<size_t>(count) * sizeof(float));
            pieces.push_back({data, count});
            filled += count;
            done += count;
            if (filled == bucket_elements) flush();
        }
    }
    flush();
}

void GradReducer::exchange(int64_t elements, const std::vector<bool>& holds) {
    const int ranks = communicator_.size();
    const int64_t slice = (elements + ranks - 1) / ranks;
    const std::vector<int64_t> counts(static_cast<size_t>(ranks), slice * 4);
    const Tensor send = bucket_.slice(0, slice * ranks);
    // The padding travels and is added too; keep it defined.
    std::fill(send.data<float>() + elements, send.data<float>() + send.size(), 0.0f);
    communicator_.all_to_all_v(bytes_of(send), counts, bytes_of(received_.slice(0, slice * ranks)),
                               counts);
    std::vector<Tensor> slices(static_cast<size_t>(ranks));
    for (int r = 0; r < ranks; ++r) {
        if (holds[static_cast<size_t>(r)]) {
            slices[static_cast<size_t>(r)] = received_.slice(r * slice, (r + 1) * slice);
        }
    }
    const Tensor sum = sum_node(slices, {0, ranks});
    FUCINA_CHECK(sum.defined(), "no rank holds a sum");
    communicator_.all_gather(bytes_of(sum), bytes_of(send));
}

}  // namespace fucina
