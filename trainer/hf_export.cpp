#include "trainer/hf_export.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <future>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "data/chat_format.h"
#include "data/json.h"
#include "data/run_on_threads.h"
#include "data/streaming_hash.h"
#include "data/tensor_file.h"
#include "kernels/error.h"
#include "model/weight_map.h"
#include "trainer/checkpoint.h"
#include "trainer/fp8_rounding.h"
#include "trainer/manifest.h"
#include "trainer/transfer_progress.h"
#include "trainer/weights.h"

namespace fucina {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kElements = int64_t{1} << 18;       // at a time
constexpr int64_t kRounded = int64_t{8} << 20;        // elements, some 22 bytes each
constexpr int64_t kLargestFile = int64_t{256} << 20;  // bytes, of a tokenizer's files

// A tensor to be written, in FP8 with one of its scales behind it, and where it comes from.
struct Piece {
    const WeightEntry* entry;
    const SavedTensor* saved;
    WeightPiece place;
    DType dtype;
    int file = 0;
    uint64_t xxh3 = 0, scales_xxh3 = 0;  // of what was written

    bool in_fp8() const { return dtype == DType::f8_e4m3; }
    int64_t elements() const { return element_count(place.shape); }
    TensorSpec values() const { return {place.tensor, dtype, place.shape}; }
    TensorSpec scales() const {
        return {place.tensor + kScaleSuffix,
                DType::f32,
                {fp8_blocks(place.shape[0]), fp8_blocks(place.shape[1])}};
    }
    int64_t bytes() const {
        return elements() * size_of(dtype) +
               (in_fp8() ? element_count(scales().shape) * size_of(DType::f32) : 0);
    }
};

void write_json(const fs::path& path, const nlohmann::json& json) {
    write_text_file(path, json.dump(2) + "\n");
}

class Export {
  public:
    Export(const CheckpointReader& from, const fs::path& out, const ExportOptions& options)
        : from_(from),
          out_(out),
          temporary_(out.string() + fmt::format(".tmp-{}", getpid())),
          options_(options),
          spec_(saved_spec(from.manifest(), from.dir())),
          with_mtp_(options.with_mtp && from.find("weight", "mtp.join") != nullptr),
          map_(spec_, with_mtp_) {
        if (options.dtype == DType::f8_e4m3) rounding_.emplace(options.like, options.threads);
        plan();
        progress_.emplace(total_, options.say);
    }

    Exported run() {
        check_free(out_);
        remove_tree(temporary_);
        make_directories(temporary_);
        try {
            check_room(fs::absolute(out_).parent_path(), total_,
                       std::min(total_, options_.shard_bytes));
            write_files();
            write_config();
            FUCINA_CHECK(next_check_ == checks_.size(), "boxes were read in another order");
            copy_tokenizer();
            if (rounding_) judge_rounding();
            read_back();
            if (fs::exists(out_)) fs::remove(out_);  // empty
            rename_path(temporary_, out_);
            sync_directory(fs::absolute(out_).parent_path());
        } catch (...) {
            std::error_code ignored;
            fs::remove_all(temporary_, ignored);
            throw;
        }
        return {tensors_, files_, total_, progress_->seconds()};
    }

  private:
    void plan() {
        int64_t in_file = 0;
        files_ = 1;
        for (const WeightEntry& entry : map_.entries()) {
            const SavedTensor& saved = from_.at("weight", entry.parameter);
            for (const WeightPiece& place : entry.spellings.front()) {
                const DType plain = entry.fp32 ? DType::f32 : options_.dtype;
                Piece piece{&entry, &saved, place,
                            rounding_ ? rounding_->dtype_of(entry, place) : plain};
                if (in_file > 0 && in_file + piece.bytes() > options_.shard_bytes) {
                    ++files_;
                    in_file = 0;
                }
                in_file += piece.bytes();
                total_ += piece.bytes();
                piece.file = static_cast<int>(files_) - 1;
                tensors_ += piece.in_fp8() ? 2 : 1;
                if (piece.in_fp8()) rounding_->begin(entry, place);  // what will not do, at once
                pieces_.push_back(std::move(piece));
            }
        }
    }

    std::string file_name(int file) const {
        if (files_ == 1) return "model.safetensors";
        return fmt::format("model-{:05d}-of-{:05d}.safetensors", file + 1, files_);
    }

    void write_files() {
        plan_checks();
        nlohmann::json weight_map = nlohmann::json::object();
        for (auto first = pieces_.begin(); first != pieces_.end();) {
            const auto end = std::find_if(first, pieces_.end(), [&](const Piece& piece) {
                return piece.file != first->file;
            });
            std::vector<TensorSpec> specs;
            for (auto piece = first; piece != end; ++piece) {
                specs.push_back(piece->values());
                if (piece->in_fp8()) specs.push_back(piece->scales());
            }
            for (const TensorSpec& spec : specs) weight_map[spec.name] = file_name(first->file);
            TensorFileWriter writer(temporary_ / file_name(first->file), std::move(specs),
                                    {{"format", "pt"}});
            for (; first != end; ++first) {
                write(*first, writer);
            }
            writer.commit();
        }
        if (files_ > 1)
            write_json(temporary_ / "model.safetensors.index.json",
                       {{"metadata", {{"total_size", total_}}}, {"weight_map", weight_map}});
    }

    void write(Piece& piece, TensorFileWriter& writer) {
        StreamingHash hash;
        std::vector<float> scales;
        const std::string where =
            concat(from_.dir().string(), ": ", piece.saved->kind(), " ", piece.saved->name());
        if (piece.in_fp8()) rounding_->begin(*piece.entry, piece.place);
        for_each_part(piece, [&](const Box& box, int64_t first) {
            check(*piece.saved, box);
            values_.resize(static_cast<size_t>(box.size()));
            from_.read(*piece.saved, box, std::span(values_));
            check_finite(where, shape_of(*piece.saved), first, values_);
            store(piece, scales);
            writer.append(stored_);
            hash.add(stored_);
            progress_->add(std::ssize(stored_));
        });
        piece.xxh3 = hash.value();
        if (!piece.in_fp8()) return;
        const std::span<const std::byte> bytes = std::as_bytes(std::span(scales));
        writer.append(bytes);
        piece.scales_xxh3 = XXH3_64bits(bytes.data(), bytes.size());
    }

    // What is read, written and hashed at a time.
    template <class Body>
    void for_each_part(const Piece& piece, const Body& body) const {
        const int64_t most = piece.in_fp8() ? rows_at_once(piece.place.shape.back()) : kElements;
        for_each_box(shape_of(*piece.saved), piece.place.offset, piece.elements(), most, body);
    }

    // Elements of as many rows of blocks as there are threads, or as memory allows.
    int64_t rows_at_once(int64_t columns) const {
        const int64_t row = kQuantizeBlock * columns;
        return row * std::clamp<int64_t>(kRounded / row, 1, options_.threads);
    }

    // Saved boxes in the order in which something of them is wanted first.
    void plan_checks() {
        std::set<const SavedBox*> known;
        for (const Piece& piece : pieces_)
            for_each_part(piece, [&](const Box& wanted, int64_t) {
                for (const SavedBox& box : piece.saved->boxes())
                    if (intersection(box_in(box), wanted) && known.insert(&box).second)
                        checks_.push_back({piece.saved, &box});
            });
        check_ahead();
    }

    void check_ahead() {
        if (next_check_ == checks_.size()) return;
        checked_ = std::async(std::launch::async, [this, check = checks_[next_check_]] {
            from_.check(*check.first, *check.second);
        });
    }

    // Each box is checked while the one before it is written; then it is still in memory.
    void check(const SavedTensor& saved, const Box& wanted) {
        for (const SavedBox& box : saved.boxes()) {
            if (next_check_ == checks_.size()) return;
            if (&box != checks_[next_check_].second || !intersection(box_in(box), wanted)) continue;
            checked_.get();
            ++next_check_;
            check_ahead();
        }
    }

    // values_ as they are written, and behind what is there the scales of their rows of blocks.
    void store(const Piece& piece, std::vector<float>& scales) {
        stored_.resize(values_.size() * static_cast<size_t>(size_of(piece.dtype)));
        if (piece.dtype == DType::f32) {
            std::ranges::copy(std::as_bytes(std::span(values_)), stored_.begin());
        } else if (piece.dtype == DType::bf16) {
            std::ranges::transform(values_, reinterpret_cast<bfloat16*>(stored_.data()),
                                   to_bfloat16);
        } else {
            const size_t before = scales.size();
            const int64_t columns = piece.place.shape.back(), rows = std::ssize(values_) / columns;
            scales.resize(before + static_cast<size_t>(fp8_blocks(rows) * fp8_blocks(columns)));
            rounding_->round(values_, reinterpret_cast<uint8_t*>(stored_.data()),
                             scales.data() + before);
        }
    }

    void judge_rounding() const {
        for (const std::string& line : rounding_->report()) options_.say(line);
        const std::optional<double> share = rounding_->share();
        if (!share || *share >= kLeastKept || options_.force) return;
        fail(ExitCode::usage, out_.string(), ": FP8 would keep ",
             fmt::format("{:.1f}", *share * 100), " % of what training changed, and less than ",
             kLeastKept * 100,
             " % is refused; --dtype bf16 keeps it, --force writes FP8 all the same");
    }

    // Every tensor that was written is there with its shape, dtype and bytes.
    void read_back() const {
        const TensorFile file(temporary_);
        FUCINA_CHECK(std::ssize(file.tensors()) == tensors_, file.tensors().size(),
                     " tensors read back, ", tensors_, " written");
        run_on_threads(std::ssize(pieces_), options_.threads, [&](int64_t i) {
            const Piece& piece = pieces_[static_cast<size_t>(i)];
            compare(file, piece.values(), piece.xxh3);
            if (piece.in_fp8()) compare(file, piece.scales(), piece.scales_xxh3);
        });
    }

    static void compare(const TensorFile& file, const TensorSpec& spec, uint64_t xxh3) {
        const TensorInfo& tensor = file.at(spec.name);
        const InputFile input(file.file_of(tensor));
        if (tensor.shape != spec.shape || tensor.dtype != spec.dtype ||
            hash_range(input, tensor.offset, tensor.nbytes) != xxh3)
            fail(ExitCode::storage, input.path().string(), ": tensor ", tensor.name,
                 " does not read back as it was written");
    }

    void write_config() const {
        nlohmann::json config = spec_.to_config();
        config["torch_dtype"] = options_.dtype == DType::f32 ? "float32" : "bfloat16";
        config["num_nextn_predict_layers"] = with_mtp_ ? 1 : 0;
        if (rounding_) config["quantization_config"] = rounding_->quantization_config();
        write_json(temporary_ / "config.json", config);
        nlohmann::json generation = {{"_from_model_config", true}};
        for (const char* key : {"bos_token_id", "eos_token_id"})
            if (config.contains(key)) generation[key] = config[key];
        write_json(temporary_ / "generation_config.json", generation);
    }

    void copy_tokenizer() const {
        if (options_.tokenizer.empty()) return;
        copy_small_file(options_.tokenizer, temporary_ / "tokenizer.json");
        copy_companions(options_.tokenizer.parent_path(), temporary_);
        if (!fs::exists(temporary_ / "tokenizer_config.json"))
            write_json(temporary_ / "tokenizer_config.json", tokenizer_config());
        if (options_.chat_template.empty()) return;
        const auto there = ChatFormat::find(temporary_ / "tokenizer.json", "");
        if (!there || there->source() != options_.chat_template)
            write_text_file(temporary_ / "chat_template.jinja", options_.chat_template);
    }

    nlohmann::json tokenizer_config() const {
        nlohmann::json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                                 {"model_max_length", spec_.max_positions}};
        const nlohmann::json tokenizer =
            read_json_file(temporary_ / "tokenizer.json", kLargestFile, ExitCode::data);
        for (const nlohmann::json& token :
             tokenizer.value("added_tokens", nlohmann::json::array())) {
            const auto id = token.value("id", int64_t{-1});
            if (!spec_.eos_ids.empty() && id == spec_.eos_ids.front())
                config["eos_token"] = token.at("content");
            if (spec_.bos_id && id == *spec_.bos_id) config["bos_token"] = token.at("content");
        }
        return config;
    }

    const CheckpointReader& from_;
    const fs::path out_, temporary_;
    const ExportOptions& options_;
    const ModelSpec spec_;
    const bool with_mtp_;
    const WeightMap map_;
    std::optional<Fp8Rounding> rounding_;
    std::vector<Piece> pieces_;
    std::vector<std::pair<const SavedTensor*, const SavedBox*>> checks_;
    size_t next_check_ = 0;
    std::future<void> checked_;  // checks_[next_check_]
    std::vector<float> values_;  // of a piece, some at a time; kept, since fresh memory costs
    std::vector<std::byte> stored_;
    int64_t files_ = 0, tensors_ = 0, total_ = 0;
    std::optional<TransferProgress> progress_;
};

}  // namespace

void check_free(const fs::path& out) {
    std::error_code error;
    for (fs::path above = fs::absolute(out).parent_path();; above = above.parent_path()) {
        if (!fs::exists(above, error)) continue;
        if (fs::is_directory(above, error)) break;
        fail(ExitCode::usage, out.string(), ": ", above.string(), " is a file, no directory");
    }
    if (!fs::exists(fs::symlink_status(out, error))) return;
    if (fs::is_directory(out, error) && fs::is_empty(out, error)) return;
    fail(ExitCode::usage, out.string(),
         ": is there already; name a directory that is not, or an empty one");
}

void copy_small_file(const fs::path& from, const fs::path& to) {
    write_text_file(to, read_text_file(from, kLargestFile));
}

void copy_companions(const fs::path& from, const fs::path& to) {
    for (const char* name : {"tokenizer_config.json", "special_tokens_map.json",
                             "chat_template.jinja", "generation_config.json"})
        if (fs::exists(from / name)) copy_small_file(from / name, to / name);
}

Exported export_model(const CheckpointReader& from, const fs::path& out,
                      const ExportOptions& options) {
    return Export(from, out, options).run();
}

}  // namespace fucina
