#include "trainer/hf_import.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <sstream>

#include "data/run_on_threads.h"
#include "data/streaming_hash.h"
#include "kernels/error.h"
#include "trainer/checkpoint.h"
#include "trainer/fault_point.h"
#include "trainer/hf_export.h"
#include "trainer/manifest.h"
#include "trainer/save_plan.h"
#include "trainer/shard_file.h"
#include "trainer/stored_weight.h"
#include "trainer/weights.h"

namespace fucina {
namespace {

namespace fs = std::filesystem;

constexpr const char* kJournal = "import.journal";
constexpr int64_t kBoxBytes = int64_t{256} << 20;  // of a dataset, or one index of dimension 0
constexpr int64_t kElements = int64_t{1} << 18;    // of it, in memory at a time, each thread
constexpr int64_t kMostThreads = 8;
constexpr int64_t kLargestJournal = int64_t{1} << 30;

// Of rows of a parameter: a dataset of its own, in the shard of its `writer`.
struct Part {
    const WeightEntry* entry;
    Share share;

    int64_t elements() const { return share.box.size(); }
    int64_t begin() const { return share.box.offset[0] * (elements() / share.box.extent[0]); }
};

std::string size_and_time(const fs::path& path) {
    struct stat status {};
    if (stat(path.c_str(), &status) != 0) return path.string();
    return fmt::format("{} {} {}.{:09d}", path.filename().string(), status.st_size,
                       status.st_mtim.tv_sec, status.st_mtim.tv_nsec);
}

class Import {
  public:
    Import(const fs::path& from, const fs::path& out, const ImportOptions& options)
        : from_(from),
          out_(out.has_filename() ? out : out.parent_path()),
          temporary_(out_.string() + ".importing"),
          options_(options),
          spec_(read_model_spec(from)),
          file_(from) {
        if (std::string note = settle_head(spec_, file_); !note.empty())
            result_.notes.push_back(std::move(note));
        map_.emplace(spec_, has_mtp_weights(file_, spec_));
        check_tensors();
        plan();
    }

    Imported run() {
        if (is_finished()) return finish();
        check_free(out_);
        begin();
        for (int shard = 0; shard < shards_; ++shard) write_shard(shard);
        copy_companions(from_, temporary_);
        commit();
        return finish();
    }

  private:
    // Headers alone: before anything is written, all that the model needs is there.
    void check_tensors() {
        std::set<std::string_view> used;
        for (const WeightEntry& entry : map_->entries()) {
            for (const WeightPiece& piece : pieces_[&entry] = spelling_of(entry, file_)) {
                const StoredWeight stored(file_, piece);
                used.insert(stored.tensor().name);
                if (stored.scales()) used.insert(stored.scales()->name);
            }
        }
        if (!file_.note().empty()) result_.notes.push_back("WARNING: " + file_.note());
        if (std::string aside = left_aside(file_, *map_, used); !aside.empty())
            result_.notes.push_back("note: " + std::move(aside));
    }

    void plan() {
        int64_t in_shard = 0;
        shards_ = 1;
        for (const WeightEntry& entry : map_->entries()) {
            tensors_.push_back({.kind = "weight", .name = entry.parameter, .shape = entry.shape});
            const int64_t rows = entry.shape[0];
            const int64_t row = element_count(entry.shape) / rows * int64_t{sizeof(float)};
            const int64_t step = std::clamp<int64_t>(kBoxBytes / row, 1, rows);
            for (int64_t first = 0; first < rows; first += step) {
                Part part{&entry, {tensors_.size() - 1, whole_box(entry.shape), 0, {}}};
                part.share.box.offset[0] = first;
                part.share.box.extent[0] = std::min(step, rows - first);
                const int64_t bytes = part.share.nbytes = part.share.box.extent[0] * row;
                if (in_shard > 0 && in_shard + bytes > options_.shard_bytes) {
                    ++shards_;
                    in_shard = 0;
                }
                in_shard += bytes;
                result_.bytes += bytes;
                part.share.writer = shards_ - 1;
                parts_.push_back(std::move(part));
            }
        }
        hashes_.resize(parts_.size());
        result_.tensors = std::ssize(map_->entries());
        result_.files = shards_;
    }

    // Of all that decides what is written where.
    std::string fingerprint() const {
        std::string text = concat("1 ", options_.shard_bytes, " ", spec_.to_config().dump(), "\n");
        std::set<fs::path> files;
        for (const TensorInfo& tensor : file_.tensors()) files.insert(file_.file_of(tensor));
        for (const fs::path& file : files) text += size_and_time(file) + "\n";
        return content_hash(text);
    }

    // A process that was killed right after the rename.
    bool is_finished() const {
        const fs::path journal = out_ / kJournal;
        return fs::exists(journal) && fs::exists(out_ / kManifestName) &&
               read_text_file(journal, kLargestJournal).starts_with(fingerprint());
    }

    void begin() {
        make_directories(temporary_);
        lock_ = open_file(temporary_, O_DIRECTORY);
        if (flock(lock_.get(), LOCK_EX | LOCK_NB) != 0)
            fail(ExitCode::usage, temporary_.string(), ": another process imports there");
        read_journal();
        int64_t there = 0;
        for (const auto& entry : fs::directory_iterator(temporary_))
            if (entry.is_regular_file()) there += static_cast<int64_t>(entry.file_size());
        try {
            check_room(fs::absolute(out_).parent_path(),
                       std::max<int64_t>(0, result_.bytes - there),
                       std::min(result_.bytes, options_.shard_bytes));
        } catch (...) {
            std::error_code ignored;
            fs::remove(temporary_, ignored);  // unless there is something in it
            throw;
        }
        progress_.emplace(result_.bytes, options_.say);
        journal_.emplace(temporary_ / kJournal);
        if (known_.empty()) journal_->append(fingerprint() + "\n");
    }

    // "PART XXH3" a line behind the fingerprint's; a torn last line counts for nothing.
    void read_journal() {
        const fs::path path = temporary_ / kJournal;
        std::istringstream text(fs::exists(path) ? read_text_file(path, kLargestJournal) : "");
        std::string line;
        const bool same = std::getline(text, line) && line == fingerprint();
        while (same && std::getline(text, line) && !text.eof()) {
            size_t part = 0;
            uint64_t hash = 0;
            if (std::sscanf(line.c_str(), "%zu %lx", &part, &hash) == 2 && part < parts_.size())
                known_[part] = hash;
        }
        if (!known_.empty()) return options_.say(concat("goes on in ", temporary_.string()));
        for (const auto& entry : fs::directory_iterator(temporary_)) remove_tree(entry.path());
    }

    void write_shard(int shard) {
        const auto belongs = [&](const Part& part) { return part.share.writer == shard; };
        const auto first = std::ranges::find_if(parts_, belongs);
        const auto end = std::find_if_not(first, parts_.end(), belongs);
        std::vector<ShardDataset> datasets;
        for (auto part = first; part != end; ++part) {
            datasets.push_back(dataset_of(tensors_[part->share.tensor], part->share));
        }
        const fs::path path = temporary_ / shard_name(shard, shards_);
        const bool kept = lay_out(path, datasets);
        const FileDescriptor file = open_shard(path);
        const auto offset = static_cast<size_t>(first - parts_.begin());
        run_on_threads(std::ssize(datasets), std::min(options_.threads, kMostThreads),
                       [&](int64_t i) {
                           const auto at = static_cast<size_t>(i);
                           if (!kept || !is_there(path, datasets[at], offset + at))
                               write_part(file, path, datasets[at], offset + at);
                       });
        sync_file(file, path);
        fault_point("import.shard", 0);
        add_file(manifest_, path.filename().string(), InputFile(path).size(),
                 frame_hash(path, datasets));
        for (const ShardDataset& dataset : datasets) datasets_.push_back(dataset);
    }

    // Whether the file of an earlier import stays; else it is a new one.
    bool lay_out(const fs::path& path, std::vector<ShardDataset>& datasets) const {
        const fs::path fresh = path.string() + ".new";
        remove_tree(fresh);
        const int64_t size = lay_out_shard(fresh, datasets);
        const bool kept = fs::exists(path) && InputFile(path).size() == size &&
                          frame_hash(path, datasets) == frame_hash(fresh, datasets);
        if (kept)
            remove_tree(fresh);
        else
            rename_path(fresh, path);
        return kept;
    }

    bool is_there(const fs::path& path, const ShardDataset& dataset, size_t part) {
        const auto known = known_.find(part);
        if (known == known_.end() ||
            hash_range(InputFile(path), dataset.byte_offset, dataset.nbytes) != known->second)
            return false;
        hashes_[part] = known->second;
        progress_->keep(dataset.nbytes);
        const std::lock_guard lock(mutex_);
        result_.kept += dataset.nbytes;
        return true;
    }

    void write_part(const FileDescriptor& file, const fs::path& path, const ShardDataset& dataset,
                    size_t number) {
        const Part& part = parts_[number];
        const int64_t begin = part.begin(), end = begin + part.elements();
        std::vector<StoredWeight> sources;
        for (const WeightPiece& piece : pieces_.at(part.entry))
            if (piece.offset < end && piece.offset + element_count(piece.shape) > begin)
                sources.emplace_back(file_, piece);
        StreamingHash hash;
        std::vector<float> values(static_cast<size_t>(std::min(kElements, part.elements())));
        for (int64_t at = begin; at < end; at += kElements) {
            const int64_t stop = std::min(at + kElements, end);
            for (StoredWeight& source : sources) source.read(at, stop, values.data());
            const auto bytes =
                std::as_bytes(std::span(values).first(static_cast<size_t>(stop - at)));
            write_at(file, path, dataset.byte_offset + (at - begin) * int64_t{sizeof(float)},
                     bytes);
            hash.add(bytes);
            progress_->add(std::ssize(bytes));
        }
        hashes_[number] = hash.value();
        const std::lock_guard lock(mutex_);
        fault_point("import.part", 0);
        journal_->append(fmt::format("{} {:016x}\n", number, hashes_[number]));
        fault_point("import.journal", 0);
    }

    void commit() {
        manifest_.set_model_config(spec_.to_config().dump());
        manifest_.set_model_hash(content_hash(manifest_.model_config()));
        if (const fs::path tokenizer = from_ / "tokenizer.json"; fs::exists(tokenizer)) {
            copy_small_file(tokenizer, temporary_ / "tokenizer.json");
            const InputFile file(tokenizer);
            manifest_.set_tokenizer_hash(fmt::format("{:016x}", hash_range(file, 0, file.size())));
        }
        for (const PlannedTensor& tensor : tensors_) add_tensor(manifest_, tensor);
        for (size_t p = 0; p < parts_.size(); ++p) {
            const Share& share = parts_[p].share;
            add_box(*manifest_.mutable_tensors(static_cast<int>(share.tensor)),
                    tensors_[share.tensor], share, datasets_[p].byte_offset, hashes_[p]);
        }
        check_manifest(manifest_, (temporary_ / kManifestName).string());
        for (int shard = 0; shard < shards_; ++shard)
            cross_check_shard(temporary_, manifest_, shard);
        fault_point("import.checked", 0);
        write_manifest(manifest_, temporary_);
        fault_point("import.manifest", 0);
        if (fs::exists(out_)) fs::remove(out_);  // empty
        rename_path(temporary_, out_);
        fault_point("import.renamed", 0);
        sync_directory(fs::absolute(out_).parent_path());
    }

    Imported finish() {
        remove_tree(out_ / kJournal);
        if (progress_)
            result_.seconds = progress_->seconds();
        else
            result_.kept = result_.bytes;
        return std::move(result_);
    }

    const fs::path from_, out_, temporary_;
    const ImportOptions& options_;
    ModelSpec spec_;
    const TensorFile file_;
    std::optional<WeightMap> map_;
    std::map<const WeightEntry*, std::vector<WeightPiece>> pieces_;
    std::vector<PlannedTensor> tensors_;
    std::vector<Part> parts_;
    std::vector<uint64_t> hashes_;        // of each part
    std::vector<ShardDataset> datasets_;  // of each part
    int shards_ = 0;
    Manifest manifest_;
    std::map<size_t, uint64_t> known_;  // of parts that an earlier import wrote
    FileDescriptor lock_;
    std::mutex mutex_;  // of what follows
    std::optional<AppendFile> journal_;
    Imported result_;
    std::optional<TransferProgress> progress_;
};

}  // namespace

Imported import_model(const fs::path& from, const fs::path& out, const ImportOptions& options) {
    return Import(from, out, options).run();
}

}  // namespace fucina
