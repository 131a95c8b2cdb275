// Token ids of many documents, on disk as HDF5 that h5py opens (docs/formats.md, "Token store"), or
// in memory, and which of them are supervised (all, unless it says otherwise). What is on disk is
// not trusted: opening checks the whole structure, and every id is checked against the vocabulary
// when it is read.
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/file.h"

namespace fucina {

class TokenStore {
  public:
    // Fails (exit 3) unless the file is a complete token store.
    static TokenStore open(const std::filesystem::path& path);
    // A store in memory; `name` stands in messages. Ids must be in [0, vocab_size). `supervised`:
    // of all tokens, 0 or 1, or empty.
    static TokenStore from_lists(const std::vector<std::vector<int32_t>>& documents,
                                 int64_t vocab_size, std::string name,
                                 std::vector<uint8_t> supervised = {});

    const std::string& name() const { return name_; }
    int64_t documents() const { return documents_; }
    int64_t tokens() const { return tokens_; }  // at least 1
    int64_t vocab_size() const { return vocab_size_; }
    const std::string& tokenizer_hash() const { return tokenizer_hash_; }  // empty: not known

    // Hexadecimal XXH3 of the tokens and of where documents begin: other content, other text.
    std::string content_hash() const;

    // Offsets first .. first + n - 1 of the documents() + 1: document d is tokens
    // [offset d, offset d + 1).
    void read_offsets(int64_t first, std::span<int64_t> into) const;
    // Tokens first .. first + n - 1, of any documents.
    void read_tokens(int64_t first, std::span<int32_t> into) const;
    // Whether only some tokens are supervised: those that training learns to write.
    bool is_masked() const { return is_masked_; }
    void read_supervised(int64_t first, std::span<uint8_t> into) const;  // 0 or 1 of each token

    // Reads everything: both checksums and every id. Fails (exit 3) at the first difference.
    void verify() const;

  private:
    TokenStore() = default;
    void check_offsets() const;

    std::string name_, tokenizer_hash_;
    int64_t documents_ = 0, tokens_ = 0, vocab_size_ = 0;
    std::optional<InputFile> file_;  // absent: in memory
    int64_t tokens_at_ = 0, offsets_at_ = 0, token_bytes_ = 4, supervised_at_ = 0;
    uint64_t tokens_checksum_ = 0, offsets_checksum_ = 0, supervised_checksum_ = 0;
    bool is_masked_ = false;
    std::vector<int32_t> memory_tokens_;
    std::vector<uint8_t> memory_supervised_;
    std::vector<int64_t> memory_offsets_;
};

// Writes a store of any size in bounded memory; it appears under its name at commit() only. Until
// then the tokens lie in nameless files beside it, so commit needs their size on disk once more.
class TokenStoreWriter {
  public:
    TokenStoreWriter(const std::filesystem::path& path, int64_t vocab_size,
                     std::string tokenizer_hash);
    ~TokenStoreWriter();

    // To the current document. `supervised`: 0 or 1 of each; given with all ids of a store, or
    // never.
    void append(std::span<const int32_t> ids, std::span<const uint8_t> supervised = {});
    void end_document();
    void commit();  // fails (exit 3) when there is no token

    int64_t tokens() const { return tokens_; }
    int64_t documents() const { return documents_; }

  private:
    class Spill;
    void add_mask_byte();
    OutputFile file_;
    int64_t vocab_size_;
    std::string tokenizer_hash_;
    int64_t tokens_ = 0, documents_ = 0, ended_ = 0;
    std::unique_ptr<Spill> token_spill_, offset_spill_, mask_spill_;
    std::vector<std::byte> scratch_;
    unsigned mask_bits_ = 0;  // of the tokens behind the last whole eight
};

}  // namespace fucina
