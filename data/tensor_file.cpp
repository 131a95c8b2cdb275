#include "data/tensor_file.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <set>

#include "data/safetensors_header.h"
#include "kernels/error.h"

namespace fucina {

static_assert(std::endian::native == std::endian::little, "safetensors data are little-endian");

namespace {
constexpr const char* kSingle = "model.safetensors";
}

TensorFile::TensorFile(const std::filesystem::path& path) : path_(path) {
    const auto index = path / "model.safetensors.index.json";
    if (!std::filesystem::is_directory(path)) {
        add_file(path);
    } else if (std::filesystem::exists(path / kSingle)) {  // as transformers chooses
        add_file(path / kSingle);
        note_other_shards(index);
    } else if (std::filesystem::exists(index)) {
        add_shards(index);
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
    if (std::memcmp(&header_bytes, "version ", 8) == 0)
        fail(ExitCode::data, path.string(),
             ": a Git LFS pointer, not the file itself; `git lfs pull` brings it");
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

// An index of the single file alone says nothing else.
void TensorFile::note_other_shards(const std::filesystem::path& index) {
    if (!std::filesystem::exists(index)) return;
    const auto shards =
        parse_safetensors_index(read_text_file(index, kLargestHeader), index.string());
    const auto other =
        std::ranges::find_if(shards, [](const auto& entry) { return entry.second != kSingle; });
    if (other == shards.end()) return;
    note_ = concat(path_.string(), ": holds ", kSingle, " and ", index.filename().string(),
                   ", which names ", other->second, "; ", kSingle,
                   " was read, remove the one that is not meant");
}

void TensorFile::add_shards(const std::filesystem::path& index) {
    for (auto& [name, shard] :
         parse_safetensors_index(read_text_file(index, kLargestHeader), index.string()))
        promised_.emplace(name, shard);
    std::set<std::string> opened;
    for (const auto& [name, shard] : promised_) {
        if (!opened.insert(shard).second || !std::filesystem::exists(path_ / shard)) continue;
        try {
            add_file(path_ / shard);
        } catch (const Error& error) {
            if (error.code() != ExitCode::data) throw;
            unreadable_.emplace(shard, error.what());
        }
    }
    for (const TensorInfo& tensor : tensors_) {
        const auto promised = promised_.find(tensor.name);
        const std::string found = file_of(tensor).filename().string();
        if (promised != promised_.end() && promised->second != found)
            fail(ExitCode::data, file_of(tensor).string(), ": tensor ", printable(tensor.name),
                 ": ", index.filename().string(), " says it is in ", promised->second);
    }
}

std::string TensorFile::why_missing(std::string_view name) const {
    const auto promised = promised_.find(name);
    if (promised == promised_.end())
        return concat(path_.string(), ": tensor ", printable(name), ": missing among ",
                      tensors_.size(), " tensors");
    if (const auto why = unreadable_.find(promised->second); why != unreadable_.end())
        return concat(why->second, "; tensor ", printable(name), " should be in it");
    const auto shard = path_ / promised->second;
    const bool there = std::filesystem::exists(shard);
    return concat(shard.string(), there ? concat(": tensor ", printable(name)) : "",
                  ": missing; model.safetensors.index.json ",
                  there ? "says it is here" : concat("names it for tensor ", printable(name)));
}

const TensorInfo* TensorFile::find(std::string_view name) const {
    const auto at = std::lower_bound(
        tensors_.begin(), tensors_.end(), name,
        [](const TensorInfo& tensor, std::string_view wanted) { return tensor.name < wanted; });
    return at != tensors_.end() && at->name == name ? &*at : nullptr;
}

const TensorInfo& TensorFile::at(std::string_view name) const {
    const TensorInfo* tensor = find(name);
    if (!tensor) fail(ExitCode::data, why_missing(name));
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

void TensorFile::read_elements(const TensorInfo& tensor, int64_t first,
                               std::span<std::byte> into) const {
    const int64_t element = size_of(tensor.dtype), wanted = std::ssize(into);
    FUCINA_CHECK(wanted % element == 0 && first >= 0 && first * element <= tensor.nbytes - wanted,
                 "tensor ", tensor.name, ": ", wanted, " bytes from element ", first, " of ",
                 tensor.nbytes, " bytes");
    files_[static_cast<size_t>(tensor.file)].read(tensor.offset + first * element, into);
}

int64_t element_count(std::span<const int64_t> shape) {
    int64_t count = 1;
    for (const int64_t dim : shape) count *= dim;
    return count;
}

}  // namespace fucina
