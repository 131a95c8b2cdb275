// A checkpoint's weights as a Hugging Face directory, which transformers and `fucina` itself load:
// config.json, generation_config.json, safetensors with an index, and the tokenizer's files.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "kernels/dtype.h"
#include "trainer/checkpoint_reader.h"

namespace fucina {

// An export in FP8 that keeps less of what training changed is refused (exit 2).
constexpr double kLeastKept = 0.5;

struct ExportOptions {
    // f32, bf16, or f8_e4m3: linear layers in FP8 as DeepSeek-V3 is released, the rest in bf16.
    // Rounded to the nearest even; router biases are F32 in all, as on the hub.
    DType dtype = DType::bf16;
    std::filesystem::path like;           // with f8_e4m3: trainer/fp8_rounding.h; may be empty
    int64_t threads = 1;                  // that round to FP8; at most 8 are used
    bool force = false;                   // however little FP8 keeps of what training changed
    int64_t shard_bytes = 5'000'000'000;  // a file has at most so many, or one tensor
    std::filesystem::path tokenizer;  // tokenizer.json; files of known names beside it come along
    std::string chat_template;        // written where those files have none, or another
    bool with_mtp = true;             // if the checkpoint has it
    std::function<void(const std::string& line)> say = [](const std::string&) {};
};

struct Exported {
    int64_t tensors = 0, files = 0, bytes = 0;  // of safetensors
    double seconds = 0;
};

// `out` must not be there, or be empty (exit 2); it appears by one rename, when all is on disk and
// has been read back and compared. Checksums of the checkpoint are compared, and all values must be
// finite (exit 3). Takes less than 512 MiB, whatever the model's size.
Exported export_model(const CheckpointReader& from, const std::filesystem::path& out,
                      const ExportOptions& options);

// Fails (exit 2) unless a directory can get this name.
void check_free(const std::filesystem::path& out);
// Files of a few MiB, each written and synced under another name first.
void copy_small_file(const std::filesystem::path& from, const std::filesystem::path& to);
// What transformers looks for beside tokenizer.json and config.json, as far as it is there:
// tokenizer_config.json, special_tokens_map.json, chat_template.jinja, generation_config.json.
void copy_companions(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace fucina
