#include "data/token_store.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <cstring>

#include "data/child.h"
#include "data/hdf5_handle.h"
#include "data/streaming_hash.h"
#include "data/token_store_format.h"
#include "kernels/error.h"

namespace fucina {
namespace {

constexpr int64_t kChunk = 1 << 18;   // elements read at a time
constexpr size_t kLongestText = 256;  // of an attribute

// What the HDF5 structure says; everything in it has been checked against the file's size.
struct Dataset {
    int64_t count = 0, element_bytes = 0, offset = 0;
};

class StoreReader {
  public:
    explicit StoreReader(const InputFile& file)
        : name_(file.path().string()),
          size_(file.size()),
          access_(H5Pcreate(H5P_FILE_ACCESS), H5Pclose),
          file_((check_signature(file), H5Pset_file_locking(access_, false, true),
                 H5Fopen(name_.c_str(), H5F_ACC_RDONLY, access_)),
                H5Fclose) {
        if (!file_) refuse("not a readable HDF5 file; it may be cut short");
    }

    int64_t integer(const char* attribute) const {
        int64_t value = 0;
        read_scalar(attribute, H5T_STD_I64LE, H5T_NATIVE_INT64, &value);
        return value;
    }

    uint64_t checksum(const char* attribute) const {
        uint64_t value = 0;
        read_scalar(attribute, H5T_STD_U64LE, H5T_NATIVE_UINT64, &value);
        return value;
    }

    std::string text(const char* attribute) const {
        const Hdf5Handle id(H5Aopen(file_, attribute, H5P_DEFAULT), H5Aclose);
        if (!id) refuse("has no attribute ", attribute, "; not a token store");
        const Hdf5Handle type(H5Aget_type(id), H5Tclose), space(H5Aget_space(id), H5Sclose);
        const size_t bytes = H5Tget_size(type);
        if (H5Tget_class(type) != H5T_STRING || H5Tis_variable_str(type) != 0 || bytes == 0 ||
            bytes > kLongestText || H5Sget_simple_extent_type(space) != H5S_SCALAR) {
            refuse("attribute ", attribute, " is not a text of fixed length");
        }
        std::string value(bytes, '\0');
        if (H5Aread(id, type, value.data()) < 0) refuse("cannot read attribute ", attribute);
        return value.substr(0, value.find('\0'));
    }

    // A one-dimensional, contiguous dataset of one of `types`, whole in this very file.
    Dataset dataset(const char* name, std::initializer_list<hid_t> types) const {
        H5L_info_t link{};
        if (H5Lget_info(file_, name, &link, H5P_DEFAULT) < 0) {
            refuse("has no dataset ", name, "; not a token store");
        }
        // A soft or external link would lead out of what is being checked.
        if (link.type != H5L_TYPE_HARD) refuse("dataset ", name, " is a link");
        const Hdf5Handle id(H5Dopen2(file_, name, H5P_DEFAULT), H5Dclose);
        if (!id) refuse(name, " is not a readable dataset");
        const Hdf5Handle type(H5Dget_type(id), H5Tclose), space(H5Dget_space(id), H5Sclose);
        const Hdf5Handle layout(H5Dget_create_plist(id), H5Pclose);
        const bool known = std::any_of(types.begin(), types.end(),
                                       [&](hid_t wanted) { return H5Tequal(type, wanted) > 0; });
        if (!known) refuse("dataset ", name, " has another element type than the format");
        if (H5Pget_layout(layout) != H5D_CONTIGUOUS || H5Pget_nfilters(layout) != 0) {
            refuse("dataset ", name, " is not contiguous");
        }
        if (H5Pget_external_count(layout) != 0) refuse("dataset ", name, " lies in another file");
        hsize_t count = 0;
        if (H5Sget_simple_extent_ndims(space) != 1 ||
            H5Sget_simple_extent_dims(space, &count, nullptr) != 1) {
            refuse("dataset ", name, " is not one-dimensional");
        }
        const auto element_bytes = static_cast<uint64_t>(H5Tget_size(type));
        const haddr_t offset = H5Dget_offset(id);
        const auto size = static_cast<uint64_t>(size_);
        if (offset == HADDR_UNDEF || offset > size || count > (size - offset) / element_bytes) {
            refuse("cut short: dataset ", name, " of ", count, " elements does not fit the file's ",
                   size, " bytes");
        }
        return {static_cast<int64_t>(count), static_cast<int64_t>(element_bytes),
                static_cast<int64_t>(offset)};
    }

  private:
    template <class... Parts>
    [[noreturn]] void refuse(const Parts&... parts) const {
        fail(ExitCode::data, name_, ": ", parts...);
    }

    // Other files are refused before libhdf5 sees them.
    static void check_signature(const InputFile& file) {
        constexpr char kSignature[] = "\x89HDF\r\n\x1a\n";
        char head[8] = {};
        if (file.size() >= 8) file.read(0, std::as_writable_bytes(std::span(head)));
        if (std::memcmp(head, kSignature, 8) != 0) {
            fail(ExitCode::data, file.path().string(),
                 ": not a token store: no HDF5 signature in its ", file.size(), " bytes");
        }
    }

    void read_scalar(const char* attribute, hid_t stored, hid_t native, void* into) const {
        const Hdf5Handle id(H5Aopen(file_, attribute, H5P_DEFAULT), H5Aclose);
        if (!id) refuse("has no attribute ", attribute, "; not a token store");
        const Hdf5Handle type(H5Aget_type(id), H5Tclose), space(H5Aget_space(id), H5Sclose);
        if (H5Tequal(type, stored) <= 0 || H5Sget_simple_extent_type(space) != H5S_SCALAR) {
            refuse("attribute ", attribute, " has another type than the format");
        }
        if (H5Aread(id, native, into) < 0) refuse("cannot read attribute ", attribute);
    }

    std::string name_;
    int64_t size_;
    Hdf5Handle access_, file_;
};

struct Structure {
    int64_t vocab_size = 0;
    char tokenizer_hash[kLongestText + 1] = {};
    uint64_t tokens_checksum = 0, offsets_checksum = 0, supervised_checksum = 0;
    Dataset tokens, offsets, supervised;  // the last of no bytes where all are
    bool is_masked = false;
};

Structure read_structure(const InputFile& file) {
    const std::string name = file.path().string();
    const StoreReader reader(file);
    const int64_t version = reader.integer(kVersionName);
    if (version != kTokenStoreVersion && version != kMaskedStoreVersion) {
        fail(ExitCode::data, name, ": token store of format version ", version,
             ", this program reads ", kTokenStoreVersion, " and ", kMaskedStoreVersion,
             "; make it again with data prepare");
    }
    Structure found;
    found.vocab_size = reader.integer(kVocabularyName);
    if (found.vocab_size < 1 || found.vocab_size > kLargestVocabulary) {
        fail(ExitCode::data, name, ": vocab_size ", found.vocab_size, ", expected 1 to ",
             kLargestVocabulary);
    }
    const std::string hash = reader.text(kTokenizerName);
    hash.copy(found.tokenizer_hash, kLongestText);
    found.tokens_checksum = reader.checksum(kTokensChecksumName);
    found.offsets_checksum = reader.checksum(kOffsetsChecksumName);
    found.tokens = reader.dataset(kTokensName, {H5T_STD_U16LE, H5T_STD_U32LE});
    found.offsets = reader.dataset(kOffsetsName, {H5T_STD_I64LE});
    if (found.tokens.count < 1 || found.offsets.count < 2) {
        fail(ExitCode::data, name, ": holds ", found.tokens.count, " tokens and ",
             found.offsets.count, " document offsets, expected at least 1 and 2");
    }
    found.is_masked = version == kMaskedStoreVersion;
    if (!found.is_masked) return found;
    found.supervised_checksum = reader.checksum(kSupervisedChecksumName);
    found.supervised = reader.dataset(kSupervisedName, {H5T_STD_U8LE});
    const int64_t wanted = found.tokens.count / 8 + (found.tokens.count % 8 != 0 ? 1 : 0);
    if (found.supervised.count != wanted)
        fail(ExitCode::data, name, ": ", found.supervised.count, " bytes of ", kSupervisedName,
             " for ", found.tokens.count, " tokens, expected ", wanted);
    return found;
}

// libhdf5 is not made for hostile files: it crashes on some, so it reads them in a child.
Structure structure_of(const InputFile& file) {
    quiet_hdf5();  // here, and not anew in every child
    const std::string bytes = in_child(file.path().string(), [&] {
        const Structure found = read_structure(file);
        return std::string(reinterpret_cast<const char*>(&found), sizeof found);
    });
    Structure found;
    FUCINA_CHECK(bytes.size() == sizeof found, bytes.size(), " bytes");
    std::memcpy(&found, bytes.data(), sizeof found);
    return found;
}

}  // namespace

TokenStore TokenStore::open(const std::filesystem::path& path) {
    TokenStore store;
    store.name_ = path.string();
    store.file_.emplace(path);
    const Structure found = structure_of(*store.file_);
    store.vocab_size_ = found.vocab_size;
    store.tokenizer_hash_ = found.tokenizer_hash;
    store.tokens_checksum_ = found.tokens_checksum;
    store.offsets_checksum_ = found.offsets_checksum;
    store.tokens_ = found.tokens.count;
    store.token_bytes_ = found.tokens.element_bytes;
    store.tokens_at_ = found.tokens.offset;
    store.documents_ = found.offsets.count - 1;
    store.offsets_at_ = found.offsets.offset;
    store.is_masked_ = found.is_masked;
    store.supervised_at_ = found.supervised.offset;
    store.supervised_checksum_ = found.supervised_checksum;
    store.check_offsets();
    return store;
}

TokenStore TokenStore::from_lists(const std::vector<std::vector<int32_t>>& documents,
                                  int64_t vocab_size, std::string name,
                                  std::vector<uint8_t> supervised) {
    TokenStore store;
    store.name_ = std::move(name);
    store.vocab_size_ = vocab_size;
    store.memory_offsets_.push_back(0);
    for (const auto& document : documents) {
        store.memory_tokens_.insert(store.memory_tokens_.end(), document.begin(), document.end());
        store.memory_offsets_.push_back(static_cast<int64_t>(store.memory_tokens_.size()));
    }
    store.documents_ = static_cast<int64_t>(documents.size());
    store.tokens_ = store.memory_offsets_.back();
    if (store.tokens_ == 0) fail(ExitCode::data, store.name_, ": holds no tokens");
    const auto checksum = [](const auto& values) {
        return XXH3_64bits(values.data(), values.size() * sizeof(values[0]));
    };
    store.tokens_checksum_ = checksum(store.memory_tokens_);
    store.offsets_checksum_ = checksum(store.memory_offsets_);
    store.is_masked_ = !supervised.empty();
    FUCINA_CHECK(!store.is_masked_ || std::ssize(supervised) == store.tokens_, supervised.size(),
                 " marks for ", store.tokens_, " tokens");
    if (store.is_masked_) store.supervised_checksum_ = checksum(supervised);
    store.memory_supervised_ = std::move(supervised);
    return store;
}

std::string TokenStore::content_hash() const {
    const std::string hash = fmt::format("{:016x}{:016x}", tokens_checksum_, offsets_checksum_);
    return is_masked_ ? fmt::format("{}{:016x}", hash, supervised_checksum_) : hash;
}

void TokenStore::check_offsets() const {
    std::vector<int64_t> chunk;
    int64_t before = 0;
    for (int64_t first = 0; first <= documents_; first += kChunk) {
        chunk.resize(static_cast<size_t>(std::min(kChunk, documents_ + 1 - first)));
        read_offsets(first, chunk);
        if (first == 0 && chunk[0] != 0) {
            fail(ExitCode::data, name_, ": document_offsets begin with ", chunk[0], ", expected 0");
        }
        for (size_t i = 0; i < chunk.size(); ++i) {
            if (chunk[i] < before) {
                fail(ExitCode::data, name_, ": document_offsets fall from ", before, " to ",
                     chunk[i], " at ", first + static_cast<int64_t>(i));
            }
            before = chunk[i];
        }
    }
    if (before != tokens_) {
        fail(ExitCode::data, name_, ": document_offsets end with ", before, ", there are ", tokens_,
             " tokens");
    }
}

void TokenStore::read_offsets(int64_t first, std::span<int64_t> into) const {
    const auto count = static_cast<int64_t>(into.size());
    FUCINA_CHECK(first >= 0 && first + count <= documents_ + 1, "offsets ", first, " + ", count);
    if (file_) return file_->read(offsets_at_ + first * 8, std::as_writable_bytes(into));
    std::copy_n(memory_offsets_.begin() + first, count, into.begin());
}

void TokenStore::read_tokens(int64_t first, std::span<int32_t> into) const {
    const auto count = static_cast<int64_t>(into.size());
    FUCINA_CHECK(first >= 0 && first + count <= tokens_, "tokens ", first, " + ", count);
    if (!file_) {
        std::copy_n(memory_tokens_.begin() + first, count, into.begin());
    } else if (token_bytes_ == 4) {
        file_->read(tokens_at_ + first * 4, std::as_writable_bytes(into));
    } else {
        std::vector<uint16_t> narrow(into.size());
        file_->read(tokens_at_ + first * 2, std::as_writable_bytes(std::span(narrow)));
        std::copy(narrow.begin(), narrow.end(), into.begin());
    }
    for (size_t i = 0; i < into.size(); ++i) {
        const auto id = static_cast<uint32_t>(into[i]);
        if (id >= static_cast<uint64_t>(vocab_size_)) {
            fail(ExitCode::data, name_, ": token ", first + static_cast<int64_t>(i), ": id ", id,
                 " is beyond the vocabulary of ", vocab_size_);
        }
    }
}

void TokenStore::read_supervised(int64_t first, std::span<uint8_t> into) const {
    const auto count = static_cast<int64_t>(into.size());
    FUCINA_CHECK(first >= 0 && first + count <= tokens_, "tokens ", first, " + ", count);
    if (!is_masked_) return void(std::ranges::fill(into, uint8_t{1}));
    if (!file_) return void(std::copy_n(memory_supervised_.begin() + first, count, into.begin()));
    if (into.empty()) return;
    std::vector<uint8_t> bytes(static_cast<size_t>((first + count + 7) / 8 - first / 8));
    file_->read(supervised_at_ + first / 8, std::as_writable_bytes(std::span(bytes)));
    for (int64_t i = 0; i < count; ++i) {
        const int64_t at = first % 8 + i;
        into[static_cast<size_t>(i)] = bytes[static_cast<size_t>(at / 8)] >> (at % 8) & 1;
    }
}

void TokenStore::verify() const {
    std::vector<int32_t> ids;
    for (int64_t first = 0; first < tokens_; first += kChunk) {
        ids.resize(static_cast<size_t>(std::min(kChunk, tokens_ - first)));
        read_tokens(first, ids);
    }
    if (!file_) return;
    const auto check = [&](const char* name, int64_t offset, int64_t bytes, uint64_t wanted) {
        const uint64_t found = hash_range(*file_, offset, bytes);
        if (found != wanted) {
            fail(ExitCode::data, name_, ": ", name, ": checksum ", found, ", expected ", wanted,
                 "; the file is damaged");
        }
    };
    check(kOffsetsName, offsets_at_, (documents_ + 1) * 8, offsets_checksum_);
    check(kTokensName, tokens_at_, tokens_ * token_bytes_, tokens_checksum_);
    if (is_masked_) check(kSupervisedName, supervised_at_, (tokens_ + 7) / 8, supervised_checksum_);
}

}  // namespace fucina
