// The writing half of data/token_store.h. HDF5 writes only the small skeleton, with both datasets
// allocated; the tokens are copied to their places with plain writes. So a full disk is met by our
// own error and not inside libhdf5, and no dataset needs to grow, which would mean chunks.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "data/hdf5_handle.h"
#include "data/streaming_hash.h"
#include "data/token_store.h"
#include "data/token_store_format.h"
#include "kernels/error.h"

namespace fucina {
namespace {

void write_scalar(hid_t file, const char* name, hid_t stored, hid_t native, const void* value) {
    const Hdf5Handle space(H5Screate(H5S_SCALAR), H5Sclose);
    const Hdf5Handle id(H5Acreate2(file, name, stored, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
    if (!id || H5Awrite(id, native, value) < 0) {
        fail(ExitCode::storage, "cannot write HDF5 attribute ", name);
    }
}

// Returns the byte offset of the new dataset's data in the file.
int64_t allocate(hid_t file, const char* name, hid_t type, int64_t count) {
    const auto size = static_cast<hsize_t>(count);
    const Hdf5Handle space(H5Screate_simple(1, &size, nullptr), H5Sclose);
    const Hdf5Handle layout = without_times(H5P_DATASET_CREATE);
    H5Pset_layout(layout, H5D_CONTIGUOUS);
    H5Pset_alloc_time(layout, H5D_ALLOC_TIME_EARLY);
    H5Pset_fill_time(layout, H5D_FILL_TIME_NEVER);
    const Hdf5Handle id(H5Dcreate2(file, name, type, space, H5P_DEFAULT, layout, H5P_DEFAULT),
                        H5Dclose);
    const haddr_t offset = id ? H5Dget_offset(id) : HADDR_UNDEF;
    if (offset == HADDR_UNDEF) fail(ExitCode::storage, "cannot make HDF5 dataset ", name);
    return static_cast<int64_t>(offset);
}

}  // namespace

// Bytes kept in a file without a name, which vanishes with the process whatever happens to it.
class TokenStoreWriter::Spill {
  public:
    Spill(const std::filesystem::path& target, const char* suffix) : target_(target) {
        const std::string path = target.string() + suffix + std::to_string(::getpid());
        file_ = create_file(path, O_RDWR | O_TRUNC, target_);
        ::unlink(path.c_str());
    }
    Spill(const Spill&) = delete;
    Spill& operator=(const Spill&) = delete;

    void append(std::span<const std::byte> bytes) {
        hash_.add(bytes);
        buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
        if (buffer_.size() >= kBufferBytes) flush();
    }

    void flush() {
        write_at(file_, target_, size_, buffer_);
        size_ += static_cast<int64_t>(buffer_.size());
        buffer_.clear();
    }

    void copy_to(OutputFile& file, int64_t offset) {
        flush();
        buffer_.resize(kBufferBytes);
        for (int64_t at = 0; at < size_;) {
            const int64_t got = read_at(file_, target_, at, buffer_);
            if (got == 0)
                fail(ExitCode::storage, target_.string(), ": cannot read back: cut short");
            file.write(offset + at, std::span(buffer_).first(static_cast<size_t>(got)));
            at += got;
        }
        buffer_.clear();
    }

    uint64_t checksum() const { return hash_.value(); }

  private:
    static constexpr size_t kBufferBytes = 1 << 20;
    std::filesystem::path target_;  // for messages
    FileDescriptor file_;
    int64_t size_ = 0;
    std::vector<std::byte> buffer_;
    StreamingHash hash_;
};

TokenStoreWriter::TokenStoreWriter(const std::filesystem::path& path, int64_t vocab_size,
                                   std::string tokenizer_hash)
    : file_(path), vocab_size_(vocab_size), tokenizer_hash_(std::move(tokenizer_hash)) {
    FUCINA_CHECK(vocab_size >= 1 && vocab_size <= kLargestVocabulary, "vocabulary ", vocab_size);
    FUCINA_CHECK(tokenizer_hash_.size() < 256, "a tokenizer hash of ", tokenizer_hash_.size());
    token_spill_ = std::make_unique<Spill>(path, ".tokens-");
    offset_spill_ = std::make_unique<Spill>(path, ".offsets-");
    offset_spill_->append(std::as_bytes(std::span(&tokens_, 1)));
}

TokenStoreWriter::~TokenStoreWriter() = default;

void TokenStoreWriter::append(std::span<const int32_t> ids, std::span<const uint8_t> supervised) {
    if (!supervised.empty() && tokens_ == 0)
        mask_spill_ = std::make_unique<Spill>(file_.path(), ".supervised-");
    FUCINA_CHECK(supervised.size() == (mask_spill_ ? ids.size() : 0), supervised.size(),
                 " marks for ", ids.size(), " ids");
    for (size_t i = 0; i < supervised.size(); ++i) {
        const int64_t at = tokens_ + static_cast<int64_t>(i);
        mask_bits_ |= unsigned{supervised[i]} << (at & 7);
        if ((at & 7) == 7) add_mask_byte();
    }
    for (const int32_t id : ids) {
        FUCINA_CHECK(id >= 0 && id < vocab_size_, "id ", id, " of a vocabulary of ", vocab_size_);
    }
    tokens_ += static_cast<int64_t>(ids.size());
    if (vocab_size_ > 65536) return token_spill_->append(std::as_bytes(ids));
    scratch_.resize(ids.size() * 2);
    for (size_t i = 0; i < ids.size(); ++i) {
        const auto narrow = static_cast<uint16_t>(ids[i]);
        std::memcpy(scratch_.data() + 2 * i, &narrow, 2);
    }
    token_spill_->append(scratch_);
}

void TokenStoreWriter::add_mask_byte() {
    const auto byte = static_cast<std::byte>(std::exchange(mask_bits_, 0));
    mask_spill_->append({&byte, 1});
}

void TokenStoreWriter::end_document() {
    ended_ = tokens_;
    offset_spill_->append(std::as_bytes(std::span(&tokens_, 1)));
    ++documents_;
}

void TokenStoreWriter::commit() {
    FUCINA_CHECK(ended_ == tokens_, tokens_ - ended_, " tokens after the end of the last document");
    if (tokens_ == 0) fail(ExitCode::data, file_.path().string(), ": would hold no tokens");
    quiet_hdf5();
    const Hdf5Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
    H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110);  // checksums its metadata
    H5Pset_alignment(access, 4096, 4096);
    H5Pset_file_locking(access, false, true);
    const Hdf5Handle untimed = without_times(H5P_FILE_CREATE);
    Hdf5Handle file(H5Fcreate(file_.temporary_path().c_str(), H5F_ACC_TRUNC, untimed, access),
                    H5Fclose);
    if (!file)
        fail(ExitCode::storage, file_.path().string(),
             ": HDF5 cannot create it; is the disk full?");
    const hid_t token_type = vocab_size_ > 65536 ? H5T_STD_U32LE : H5T_STD_U16LE;
    const int64_t tokens_at = allocate(file, kTokensName, token_type, tokens_);
    const int64_t offsets_at = allocate(file, kOffsetsName, H5T_STD_I64LE, documents_ + 1);
    const uint64_t checksums[] = {token_spill_->checksum(), offset_spill_->checksum()};
    const int64_t version = mask_spill_ ? kMaskedStoreVersion : kTokenStoreVersion;
    int64_t mask_at = 0;
    if (mask_spill_) {
        if (tokens_ % 8 != 0) add_mask_byte();
        mask_at = allocate(file, kSupervisedName, H5T_STD_U8LE, (tokens_ + 7) / 8);
        const uint64_t checksum = mask_spill_->checksum();
        write_scalar(file, kSupervisedChecksumName, H5T_STD_U64LE, H5T_NATIVE_UINT64, &checksum);
    }
    write_scalar(file, kVersionName, H5T_STD_I64LE, H5T_NATIVE_INT64, &version);
    write_scalar(file, kVocabularyName, H5T_STD_I64LE, H5T_NATIVE_INT64, &vocab_size_);
    write_scalar(file, kTokensChecksumName, H5T_STD_U64LE, H5T_NATIVE_UINT64, &checksums[0]);
    write_scalar(file, kOffsetsChecksumName, H5T_STD_U64LE, H5T_NATIVE_UINT64, &checksums[1]);
    const Hdf5Handle text(H5Tcopy(H5T_C_S1), H5Tclose);
    H5Tset_size(text, tokenizer_hash_.size() + 1);
    write_scalar(file, kTokenizerName, text, text, tokenizer_hash_.c_str());
    if (!file.reset())
        fail(ExitCode::storage, file_.path().string(), ": HDF5 cannot write it; is the disk full?");
    token_spill_->copy_to(file_, tokens_at);
    offset_spill_->copy_to(file_, offsets_at);
    if (mask_spill_) mask_spill_->copy_to(file_, mask_at);
    file_.commit();
}

}  // namespace fucina
