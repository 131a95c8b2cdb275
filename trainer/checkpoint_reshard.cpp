#include "trainer/checkpoint_reshard.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <numeric>

#include "data/run_on_threads.h"
#include "data/streaming_hash.h"
#include "kernels/error.h"
#include "kernels/runtime.h"
#include "kernels/tensor.h"
#include "trainer/checkpoint_reader.h"
#include "trainer/hf_export.h"
#include "trainer/manifest.h"
#include "trainer/save_plan.h"

namespace fucina {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kElements = int64_t{1} << 20;  // in memory at a time, each thread

class Resharding {
  public:
    explicit Resharding(const Reshard& request)
        : request_(request),
          reader_(request.from),
          temporary_(request.out.string() + fmt::format(".tmp-{}", getpid())) {
        manifest_ = reader_.manifest();
        manifest_.clear_files();
        manifest_.clear_tensors();
        for (const SavedTensor& saved : reader_.manifest().tensors()) {
            if (request.weights_only && saved.kind() != "weight") continue;
            sources_.push_back(&saved);
            tensors_.push_back({saved.kind(), saved.name(), shape_of(saved), saved_dtype(saved)});
            add_tensor(manifest_, tensors_.back());
        }
        const int files = static_cast<int>(request.files);
        shares_ = plan_shares(tensors_, {.data = files}, files);
        const std::vector<int64_t> bytes = bytes_by_writer(shares_, files);
        bytes_ = std::accumulate(bytes.begin(), bytes.end(), int64_t{0});
        largest_ = *std::ranges::max_element(bytes);
    }

    int64_t run() {
        check_free(request_.out);
        make_directories(temporary_);
        try {
            write_all();
        } catch (...) {
            remove_tree(temporary_);
            throw;
        }
        return bytes_;
    }

  private:
    void write_all() {
        check_room(fs::absolute(request_.out).parent_path(), bytes_, largest_);
        for (const SavedTensor* source : sources_) reader_.check(*source);
        TransferProgress progress(bytes_, request_.say);
        for (int file = 0; file < request_.files; ++file) write_file(file, progress);
        const fs::path tokenizer = reader_.dir() / "tokenizer.json";
        if (fs::exists(tokenizer)) copy_small_file(tokenizer, temporary_ / tokenizer.filename());
        copy_companions(reader_.dir(), temporary_);
        check_manifest(manifest_, (temporary_ / kManifestName).string());
        write_manifest(manifest_, temporary_);
        rename_path(temporary_, request_.out);
        sync_directory(fs::absolute(request_.out).parent_path());
    }

    void write_file(int number, TransferProgress& progress) {
        std::vector<const Share*> shares;
        std::vector<ShardDataset> datasets;
        for (const Share& share : shares_) {
            if (share.writer != number) continue;
            shares.push_back(&share);
            datasets.push_back(dataset_of(tensors_[share.tensor], share));
        }
        const fs::path path = temporary_ / shard_name(number, static_cast<int>(request_.files));
        const int64_t size = lay_out_shard(path, datasets);
        const FileDescriptor file = open_shard(path);
        run_on_threads(std::ssize(datasets), runtime().threads, [&](int64_t i) {
            const auto at = static_cast<size_t>(i);
            copy(file, path, *shares[at], datasets[at], progress);
        });
        add_file(manifest_, path.filename().string(), size, frame_hash(path, datasets));
        sync_file(file, path);
        for (size_t i = 0; i < shares.size(); ++i)
            add_box(*manifest_.mutable_tensors(static_cast<int>(shares[i]->tensor)),
                    tensors_[shares[i]->tensor], *shares[i], datasets[i].byte_offset,
                    datasets[i].xxh3);
    }

    void copy(const FileDescriptor& file, const fs::path& path, const Share& share,
              ShardDataset& dataset, TransferProgress& progress) const {
        const int64_t element = size_of(tensors_[share.tensor].dtype);
        StreamingHash hash;
        std::vector<std::byte> bytes;
        for_each_box(share.box.extent, 0, share.box.size(), kElements,
                     [&](const Box& part, int64_t first) {
                         Box whole = part;
                         for (size_t d = 0; d < whole.offset.size(); ++d)
                             whole.offset[d] += share.box.offset[d];
                         bytes.resize(static_cast<size_t>(part.size() * element));
                         reader_.read(*sources_[share.tensor], whole, std::span(bytes));
                         write_at(file, path, dataset.byte_offset + first * element, bytes);
                         hash.add(bytes);
                         progress.add(std::ssize(bytes));
                     });
        dataset.xxh3 = hash.value();
    }

    const Reshard& request_;
    const CheckpointReader reader_;
    const fs::path temporary_;
    std::vector<const SavedTensor*> sources_;
    std::vector<PlannedTensor> tensors_;
    std::vector<Share> shares_;
    int64_t bytes_ = 0, largest_ = 0;
    Manifest manifest_;
};

}  // namespace

int64_t reshard_checkpoint(const Reshard& request) {
    return Resharding(request).run();
}

}  // namespace fucina
