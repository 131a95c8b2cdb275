#include "trainer/checkpoint_reader.h"

#include <algorithm>

#include "data/streaming_hash.h"
#include "kernels/error.h"
#include "kernels/tensor.h"
#include "trainer/manifest.h"

namespace fucina {
CheckpointReader::CheckpointReader(std::filesystem::path dir)
    : dir_(std::move(dir)), manifest_(read_manifest(dir_)) {
    for (const SavedFile& file : manifest_.files()) files_.emplace_back(dir_ / file.name());
    for (const SavedTensor& tensor : manifest_.tensors())
        by_name_[{tensor.kind(), tensor.name()}] = &tensor;
}

const SavedTensor* CheckpointReader::find(const std::string& kind, const std::string& name) const {
    const auto found = by_name_.find({kind, name});
    return found == by_name_.end() ? nullptr : found->second;
}

const SavedTensor& CheckpointReader::at(const std::string& kind, const std::string& name) const {
    if (const SavedTensor* tensor = find(kind, name)) return *tensor;
    fail(ExitCode::data, dir_.string(), ": has no ", kind, " ", name);
}

void CheckpointReader::check(const SavedTensor& tensor) const {
    for (const SavedBox& box : tensor.boxes()) check(tensor, box);
}

void CheckpointReader::check(const SavedTensor& tensor, const SavedBox& box) const {
    const InputFile& file = files_[box.file()];
    check_box_hash(file.path(), tensor, box, hash_range(file, box.byte_offset(), box.nbytes()));
}

void CheckpointReader::read(const SavedTensor& tensor, const Box& box,
                            std::span<std::byte> into) const {
    const int64_t element = size_of(saved_dtype(tensor));
    FUCINA_CHECK(std::ssize(into) == box.size() * element, into.size(), " bytes for ", box.size(),
                 " elements of ", tensor.name());
    std::vector<std::byte> shared;
    for (const SavedBox& saved : tensor.boxes()) {
        const Box whole = box_in(saved);
        const std::optional<Box> part = intersection(whole, box);
        if (!part) continue;
        Box local = *part;
        for (size_t d = 0; d < local.offset.size(); ++d) local.offset[d] -= whole.offset[d];
        const bool all = *part == box;
        if (!all) shared.resize(static_cast<size_t>(part->size() * element));
        std::byte* const to = all ? into.data() : shared.data();
        for_each_run(whole.extent, local, [&](int64_t first, int64_t at, int64_t count) {
            files_[saved.file()].read(saved.byte_offset() + first * element,
                                      {to + at * element, static_cast<size_t>(count * element)});
        });
        if (!all) copy_shared(*part, shared.data(), box, into.data(), element);
    }
}

void CheckpointReader::read(const SavedTensor& tensor, const Box& box,
                            std::span<float> into) const {
    if (saved_dtype(tensor) == DType::f32) return read(tensor, box, std::as_writable_bytes(into));
    std::vector<bfloat16> halves(into.size());
    read(tensor, box, std::as_writable_bytes(std::span(halves)));
    std::ranges::transform(halves, into.begin(), [](bfloat16 half) { return to_float(half); });
}

std::vector<int64_t> shape_of(const SavedTensor& tensor) {
    return {tensor.shape().begin(), tensor.shape().end()};
}

void for_each_box(std::span<const int64_t> shape, int64_t first, int64_t count, int64_t most,
                  const std::function<void(const Box& box, int64_t first)>& body) {
    if (shape.empty()) return body(whole_box(shape), 0);
    const int64_t columns = shape.back();
    if (shape.size() == 1) {
        for (int64_t done = 0; done < count; done += most)
            body({{first + done}, {std::min(most, count - done)}}, first + done);
        return;
    }
    FUCINA_CHECK(first % columns == 0 && count % columns == 0, "elements ", first, " and ", count,
                 " on, inside rows of ", columns);
    const int64_t matrix = shape[shape.size() - 2];  // rows
    const int64_t step = std::max<int64_t>(most / columns, 1);
    for (int64_t row = first / columns, end = (first + count) / columns; row < end;) {
        const int64_t rows = std::min({step, end - row, matrix - row % matrix});
        Box box{std::vector<int64_t>(shape.size(), 0), std::vector<int64_t>(shape.size(), 1)};
        box.extent.back() = columns;
        box.extent[shape.size() - 2] = rows;
        int64_t left = row;
        for (size_t d = shape.size() - 1; d-- > 0; left /= shape[d])
            box.offset[d] = left % shape[d];
        body(box, row * columns);
        row += rows;
    }
}

}  // namespace fucina
