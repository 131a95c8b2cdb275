#include "data/tensor_file.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "data/safetensors_header.h"
#include "kernels/error.h"

namespace fucina {

static_assert(std::endian::native == std::endian::little, "safetensors data are little-endian");

TensorFile::TensorFile(const std::filesystem::path& path) : path_(path) {
    const auto index = path / "model.safetensors.index.json";
    if (!std::filesystem::is_directory(path)) {
        add_file(path);
    } else if (std::filesystem::exists(index)) {
        add_shards(index);
    } else if (std::filesystem::exists(path / "model.safetensors")) {
        add_file(path / "model.safetensors");
    } else {
        fail(ExitCode::data, path.string(),
             ": has neither model.safetensors nor model.safetensors.index.json");
    }
    std::sort(tensors_.begin(), tensors_.end(),
              [](const TensorInfo& a, const TensorInfo& b) { return a.name < b.name; });
    const auto twice = std::adjacent_find(
        tensors_.begin(), tensors_.end(),
        [](const TensorInfo& a, const TensorInfo& b) { return a.name == b.name; });
    if (twice != tensors_.end()) {
        fail(ExitCode::data, path.string(), ": tensor ", twice->name, ": is in ",
             file_of(*twice).filename().string(), " and in ",
             file_of(twice[1]).filename().string());
    }
}

void TensorFile::add_file(const std::filesystem::path& path) {
    InputFile file(path);
    uint64_t header_bytes = 0;
    if (file.size() < 8) {
        fail(ExitCode::data, path.string(), ": not a safetensors file: ", file.size(),
             " bytes, at least 8 wanted");
    }
    file.read(0, std::as_writable_bytes(std::span(&header_bytes, 1)));
    if (header_bytes > uint64_t{kLargestHeader}) {
        fail(ExitCode::data, path.string(), ": not a safetensors file: a header of ", header_bytes,
             " bytes, at most ", kLargestHeader, " allowed");
    }
    const int64_t data_start = 8 + static_cast<int64_t>(header_bytes);
    if (data_start > file.size()) {
        fail(ExitCode::data, path.string(), ": cut short: the header ends at byte ", data_start,
             ", the file has ", file.size());
    }
    std::string header(header_bytes, '\0');
    file.read(8, std::as_writable_bytes(std::span(header)));
    auto tensors = parse_safetensors_header(header, file.size() - data_start, path.string());
    for (TensorInfo& tensor : tensors) {
        tensor.file = static_cast<int>(files_.size());
        tensor.offset += data_start;
        tensors_.push_back(std::move(tensor));
    }
    files_.push_back(std::move(file));
}

void TensorFile::add_shards(const std::filesystem::path& index) {
    const auto shards =
        parse_safetensors_index(read_text_file(index, kLargestHeader), index.string());
    std::map<std::string, int> opened;  // shard -> index into files_
    for (const auto& [name, shard] : shards) {
        if (!opened.emplace(shard, static_cast<int>(files_.size())).second) continue;
        const auto path = index.parent_path() / shard;
        if (!std::filesystem::exists(path)) {
            fail(ExitCode::data, path.string(), ": missing; ", index.filename().string(),
                 " names it for tensor ", printable(name));
        }
        add_file(path);
    }
    std::map<std::string_view, int> found;
    for (const TensorInfo& tensor : tensors_) found.emplace(tensor.name, tensor.file);
    for (const auto& [name, shard] : shards) {
        const auto at = found.find(name);
        if (at == found.end() || at->second != opened[shard]) {
            fail(ExitCode::data, (index.parent_path() / shard).string(), ": tensor ",
                 printable(name), ": missing; ", index.filename().string(), " says it is here");
        }
    }
}

const TensorInfo* TensorFile::find(std::string_view name) const {
    const auto at = std::lower_bound(
        tensors_.begin(), tensors_.end(), name,
        [](const TensorInfo& tensor, std::string_view wanted) { return tensor.name < wanted; });
    return at != tensors_.end() && at->name == name ? &*at : nullptr;
}

const TensorInfo& TensorFile::at(std::string_view name) const {
    const TensorInfo* tensor = find(name);
    if (!tensor) {
        fail(ExitCode::data, path_.string(), ": tensor ", name, ": missing among ", tensors_.size(),
             " tensors");
    }
    return *tensor;
}

const std::filesystem::path& TensorFile::file_of(const TensorInfo& tensor) const {
    return files_[static_cast<size_t>(tensor.file)].path();
}

void TensorFile::read(const TensorInfo& tensor, std::span<std::byte> into) const {
    FUCINA_CHECK(static_cast<int64_t>(into.size()) == tensor.nbytes, "tensor ", tensor.name, ": ",
                 into.size(), " bytes of room for ", tensor.nbytes);
    files_[static_cast<size_t>(tensor.file)].read(tensor.offset, into);
}

void TensorFile::read_rows(const TensorInfo& tensor, int64_t first,
                           std::span<std::byte> into) const {
    FUCINA_CHECK(!tensor.shape.empty(), "tensor ", tensor.name, " is a scalar, it has no rows");
    if (into.empty()) return;
    const int64_t rows = tensor.shape[0];
    const int64_t row_bytes = rows == 0 ? 0 : tensor.nbytes / rows;
    const int64_t wanted = static_cast<int64_t>(into.size());
    FUCINA_CHECK(row_bytes > 0 && wanted % row_bytes == 0 && first >= 0 &&
                     first <= rows - wanted / row_bytes,
                 "tensor ", tensor.name, ": ", wanted, " bytes from row ", first, " of ", rows,
                 " rows of ", row_bytes, " bytes");
    files_[static_cast<size_t>(tensor.file)].read(tensor.offset + first * row_bytes, into);
}

int64_t element_count(std::span<const int64_t> shape) {
    int64_t count = 1;
    for (const int64_t dim : shape) count *= dim;
    return count;
}

}  // namespace fucina
