// Names in a token store's HDF5 file, shared by its reader and its writer.
#pragma once
#include <cstdint>

namespace fucina {

inline constexpr int64_t kTokenStoreVersion = 1;                 // every token is supervised
inline constexpr int64_t kMaskedStoreVersion = 2;                // a bit a token says which are
inline constexpr int64_t kLargestVocabulary = int64_t{1} << 31;  // ids are int32 in memory
inline constexpr char kTokensName[] = "tokens";
inline constexpr char kOffsetsName[] = "document_offsets";
inline constexpr char kSupervisedName[] = "supervised";
inline constexpr char kVersionName[] = "format_version";
inline constexpr char kVocabularyName[] = "vocab_size";
inline constexpr char kTokenizerName[] = "tokenizer_hash";
inline constexpr char kTokensChecksumName[] = "tokens_xxh3";
inline constexpr char kOffsetsChecksumName[] = "document_offsets_xxh3";
inline constexpr char kSupervisedChecksumName[] = "supervised_xxh3";

}  // namespace fucina
