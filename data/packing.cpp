#include "data/packing.h"

#include <algorithm>

#include "kernels/error.h"

namespace fucina {

PackedStore::PackedStore(std::shared_ptr<const TokenStore> store, int64_t sequence_length)
    : store_(std::move(store)), sequence_length_(sequence_length) {
    FUCINA_CHECK(sequence_length >= 1, "sequence length ", sequence_length);
    constexpr int64_t kChunk = 1 << 16;  // offsets read at a time
    std::vector<int64_t> offsets;
    int64_t used = sequence_length_;  // so that the first piece opens a pack
    for (int64_t first = 0; first < store_->documents(); first += kChunk) {
        const int64_t count = std::min(kChunk, store_->documents() - first);
        offsets.resize(static_cast<size_t>(count) + 1);
        store_->read_offsets(first, offsets);
        for (int64_t d = 0; d < count; ++d) {
            const int64_t end = offsets[static_cast<size_t>(d) + 1];
            int64_t length = 0;
            if (end - offsets[static_cast<size_t>(d)] > sequence_length_) ++cut_documents_;
            for (int64_t begin = offsets[static_cast<size_t>(d)]; begin < end; begin += length) {
                length = std::min(sequence_length_, end - begin);
                if (used + length > sequence_length_) {
                    starts_.push_back({.token = begin, .document = first + d});
                    used = 0;
                }
                used += length;
                labels_ += supervised_behind(begin, length);
            }
        }
    }
    starts_.push_back({.token = store_->tokens(), .document = store_->documents()});
    starts_.shrink_to_fit();
}

int64_t PackedStore::supervised_behind(int64_t first, int64_t length) const {
    if (!store_->is_masked()) return length - 1;
    std::vector<uint8_t> marks(static_cast<size_t>(length) - 1);
    store_->read_supervised(first + 1, marks);
    return std::ranges::count(marks, uint8_t{1});
}

void PackedStore::append(int64_t i, PackedSequences& out) const {
    FUCINA_CHECK(i >= 0 && i < sequences(), "sequence ", i, " of ", sequences());
    const Start& start = starts_[static_cast<size_t>(i)];
    const Start& next = starts_[static_cast<size_t>(i) + 1];
    // The next pack may begin inside the document in which this one ends.
    const int64_t last = std::min(next.document + 1, store_->documents());
    std::vector<int64_t> ends(static_cast<size_t>(last - start.document));
    store_->read_offsets(start.document + 1, ends);

    const size_t base = out.ids.size(), count = static_cast<size_t>(next.token - start.token);
    out.ids.resize(base + count);
    store_->read_tokens(start.token, std::span(out.ids).subspan(base));
    std::vector<uint8_t> supervised(count);
    store_->read_supervised(start.token, supervised);
    auto document_end = ends.begin();
    for (int64_t begin = start.token; begin < next.token;) {
        while (*document_end <= begin) ++document_end;
        const int64_t end = std::min(*document_end, begin + sequence_length_);
        for (int64_t t = begin; t < end; ++t) {
            out.positions.push_back(static_cast<int32_t>(t - begin));
            const auto next_at = static_cast<size_t>(t - start.token) + 1;
            const bool predicts = t + 1 < end && supervised[next_at] == 1;
            out.labels.push_back(predicts ? out.ids[base + next_at] : kNoLabel);
        }
        out.cu_seqlens.push_back(static_cast<int64_t>(out.labels.size()));
        begin = end;
    }
    out.sequence_offsets.push_back(static_cast<int64_t>(out.ids.size()));
}

}  // namespace fucina
