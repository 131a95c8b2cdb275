// Saving, in the order that makes it safe: write and fsync the shards; gather; write and fsync the
// manifest; fsync the directory; rename it; fsync its parent; only then drop older checkpoints.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <numeric>

#include "data/file.h"
#include "kernels/error.h"
#include "parallel/agreement.h"
#include "trainer/checkpoint.h"
#include "trainer/fault_point.h"
#include "trainer/manifest.h"
#include "trainer/shard_file.h"

namespace fucina {
namespace {

namespace fs = std::filesystem;

// A box of a tensor, and the rank that writes it.
struct Share {
    size_t tensor;
    Box box;
    int64_t nbytes;
    std::vector<int> holders;  // ranks that hold it all
    int writer = 0;
};

// What the ranks hold of a tensor, each box once, with its holders.
std::vector<std::pair<Box, std::vector<int>>> boxes_of(const NamedTensor& named,
                                                       const MeshShape& mesh, int ranks) {
    std::vector<std::pair<Box, std::vector<int>>> boxes;
    for (int rank = 0; rank < ranks; ++rank) {
        const Box box = named.shared_out ? owned_box(named.shape(), named.layout, mesh, rank)
                                         : box_of(named.shape(), named.layout, mesh, rank);
        const auto found =
            std::ranges::find_if(boxes, [&](const auto& known) { return known.first == box; });
        if (found == boxes.end())
            boxes.push_back({box, {rank}});
        else
            found->second.push_back(rank);
    }
    return boxes;
}

int64_t rows_of(const Box& box) {
    return box.extent.empty() ? 1 : box.extent[0];
}

// Every rank makes the same plan: boxes too large for an even share are cut along dimension 0, and
// the largest goes first to the holder with the least.
std::vector<Share> plan_shares(std::span<const NamedTensor> tensors, const MeshShape& mesh,
                               int ranks) {
    int64_t total = 0;
    for (const NamedTensor& named : tensors)
        total += whole_box(named.shape()).size() * size_of(named.tensor.dtype());
    const int64_t limit = ranks == 1 ? total : std::max<int64_t>(total / (2 * ranks), 1 << 20);
    std::vector<Share> shares;
    for (size_t t = 0; t < tensors.size(); ++t) {
        for (const auto& [box, holders] : boxes_of(tensors[t], mesh, ranks)) {
            if (box.size() == 0) continue;
            const int64_t rows = rows_of(box);
            const int64_t row_bytes = box.size() / rows * size_of(tensors[t].tensor.dtype());
            const int64_t step = std::clamp<int64_t>(limit / row_bytes, 1, rows);
            for (int64_t first = 0; first < rows; first += step) {
                const int64_t count = std::min(step, rows - first);
                shares.push_back({t, box, count * row_bytes, holders});
                if (box.extent.empty()) continue;
                shares.back().box.offset[0] += first;
                shares.back().box.extent[0] = count;
            }
        }
    }
    std::vector<size_t> order(shares.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return shares[a].nbytes > shares[b].nbytes; });
    std::vector<int64_t> load(static_cast<size_t>(ranks), 0);
    for (size_t i : order) {
        const auto of = [&](int rank) -> int64_t& { return load[static_cast<size_t>(rank)]; };
        shares[i].writer = *std::ranges::min_element(shares[i].holders,
                                                     [&](int a, int b) { return of(a) < of(b); });
        of(shares[i].writer) += shares[i].nbytes;
    }
    return shares;
}

// "/weight/NAME", and behind it where the box begins if it is not the whole tensor.
std::string dataset_path(const NamedTensor& named, const Share& share) {
    const std::string path = concat("/", named.kind, "/", named.name);
    const Box& box = share.box;
    if (box == whole_box(named.shape())) return path;
    bool by_rows = true;
    for (size_t d = 1; d < box.extent.size(); ++d)
        by_rows = by_rows && box.extent[d] == named.shape()[d];
    if (by_rows) return fmt::format("{}@{}", path, box.offset[0]);
    return fmt::format("{}@{}", path, fmt::join(box.offset, ","));
}

// Of a box that this rank holds.
ShardDataset dataset_of(const NamedTensor& named, const Share& share) {
    const Tensor& tensor = named.tensor;
    ShardDataset dataset;
    dataset.path = dataset_path(named, share);
    dataset.dtype = tensor.dtype();
    dataset.shape = share.box.extent;
    const int64_t row = share.box.offset.empty() ? 0 : share.box.offset[0] - named.box().offset[0];
    dataset.data = tensor.raw() + row * (share.nbytes / rows_of(share.box));
    dataset.nbytes = share.nbytes;
    return dataset;
}

bool is_valid(const fs::path& dir) {
    try {
        read_manifest(dir);
        return true;
    } catch (const Error&) {
        return false;
    }
}

// Checkpoints to be removed so that the `keep` newest valid ones stay. Damaged ones do not count;
// they stay as long as they are not older than the ones kept. `known` is valid, and stays.
std::vector<fs::path> beyond(const fs::path& run_dir, int64_t keep, const fs::path& known = {}) {
    std::vector<fs::path> old;
    int64_t kept = 0;
    for (const fs::path& dir : list_checkpoints(run_dir)) {
        if (kept < keep)
            kept += dir == known || is_valid(dir) ? 1 : 0;
        else if (dir != known)
            old.push_back(dir);
    }
    return old;
}

// A directory disappears under another name first, durably, so that neither a kill nor a crash
// leaves half of it under its own.
fs::path to_trash(const fs::path& dir) {
    const fs::path trash = dir.string() + fmt::format(".trash-{}", getpid());
    rename_path(dir, trash);
    return trash;
}

void empty_trash(const fs::path& parent, const std::vector<fs::path>& trash) {
    if (trash.empty()) return;
    sync_directory(parent);
    for (const fs::path& dir : trash) remove_tree(dir);
}

// Without a mesh all ranks hold the same.
MeshShape mesh_of(const SaveRequest& request, int ranks) {
    return request.mesh.ranks() == ranks ? request.mesh : MeshShape{.data = ranks};
}

class Save {
  public:
    Save(Communicator& communicator, const SaveRequest& request)
        : communicator_(communicator),
          request_(request),
          shares_(plan_shares(request.tensors, mesh_of(request, communicator.size()),
                              communicator.size())),
          target_(checkpoint_directory(request.run_dir, request.manifest.step())),
          temporary_(target_.string() + fmt::format(".tmp-{}", getpid())) {}

    SaveOutcome run() {
        SaveOutcome outcome;
        outcome.directory = target_;
        try {
            on_first([&] { begin(); });
            share_temporary();
            agree(communicator_, [&] { write(); });
            gather();
            on_first([&] { commit(); });
        } catch (const Error& error) {
            if (error.code() != ExitCode::storage) throw;
            outcome.problem = error.what();
            if (communicator_.rank() == 0) take_back();
            return outcome;
        }
        for (const SavedFile& file : manifest_.files()) outcome.bytes += file.size();
        on_first([&] { retire(); });
        return outcome;
    }

  private:
    template <class Body>
    void on_first(const Body& body) {
        agree(communicator_, [&] {
            if (communicator_.rank() == 0) body();
        });
    }
    void reach(std::string_view point) const { fault_point(point, communicator_.rank()); }

    void begin() {
        make_directories(target_.parent_path());
        // metrics.jsonl and all else that the run made so far; also checkpoints/, if a process made
        // it that was killed before this.
        sync_directory(request_.run_dir);
        int64_t total = 0;
        std::vector<int64_t> files(static_cast<size_t>(communicator_.size()), 0);
        for (const Share& share : shares_) {
            total += share.nbytes;
            files[static_cast<size_t>(share.writer)] += share.nbytes;
        }
        check_room(target_.parent_path(), total, *std::max_element(files.begin(), files.end()));
        remove_tree(temporary_);  // of an earlier failure of this process
        make_directories(temporary_);
    }

    // Every rank must use rank 0's name.
    void share_temporary() {
        int64_t process = getpid();
        communicator_.broadcast(std::as_writable_bytes(std::span(&process, 1)), 0);
        temporary_ = target_.string() + fmt::format(".tmp-{}", process);
    }

    void write() {
        const int rank = communicator_.rank();
        std::vector<ShardDataset> datasets;
        for (const Share& share : shares_) {
            if (share.writer == rank) {
                datasets.push_back(dataset_of(request_.tensors[share.tensor], share));
            }
        }
        reach("save.begin");
        const std::string name = shard_name(rank, communicator_.size());
        const WrittenShard shard = write_shard(temporary_ / name, datasets);
        reach("save.shard");
        own_ = {shard.size, static_cast<int64_t>(shard.frame_xxh3)};
        for (const ShardDataset& dataset : datasets) {
            own_.push_back(dataset.byte_offset);
            own_.push_back(static_cast<int64_t>(dataset.xxh3));
        }
    }

    // Sizes, offsets and checksums of all shards; every rank can then write the manifest, and rank
    // 0 does.
    void gather() {
        const auto ranks = static_cast<size_t>(communicator_.size());
        std::vector<int64_t> longest{static_cast<int64_t>(own_.size())};
        communicator_.all_reduce_max(longest);
        const auto width = static_cast<size_t>(longest[0]);
        own_.resize(width, 0);
        std::vector<int64_t> all(width * ranks);
        communicator_.all_gather(std::as_bytes(std::span(own_)),
                                 std::as_writable_bytes(std::span(all)));
        manifest_ = request_.manifest;
        for (size_t r = 0; r < ranks; ++r) {
            SavedFile* file = manifest_.add_files();
            file->set_name(shard_name(static_cast<int>(r), communicator_.size()));
            file->set_size(all[r * width]);
            file->set_frame_xxh3(static_cast<uint64_t>(all[r * width + 1]));
        }
        for (const NamedTensor& named : request_.tensors) {
            SavedTensor* saved = manifest_.add_tensors();
            saved->set_kind(named.kind);
            saved->set_name(named.name);
            saved->set_dtype(std::string(name_of(named.tensor.dtype())));
            for (int64_t dim : named.shape()) saved->add_shape(dim);
        }
        std::vector<size_t> next(ranks);
        for (size_t r = 0; r < ranks; ++r) next[r] = r * width + 2;
        for (const Share& share : shares_) {
            const auto writer = static_cast<size_t>(share.writer);
            add_box(share, all[next[writer]], static_cast<uint64_t>(all[next[writer] + 1]));
            next[writer] += 2;
        }
    }

    void add_box(const Share& share, int64_t byte_offset, uint64_t xxh3) {
        SavedBox* box = manifest_.mutable_tensors(static_cast<int>(share.tensor))->add_boxes();
        box->set_file(static_cast<uint32_t>(share.writer));
        for (const int64_t offset : share.box.offset) box->add_offset(offset);
        for (const int64_t extent : share.box.extent) box->add_extent(extent);
        box->set_byte_offset(byte_offset);
        box->set_nbytes(share.nbytes);
        box->set_xxh3(xxh3);
        box->set_dataset(dataset_path(request_.tensors[share.tensor], share));
    }

    void commit() {
        reach("save.gathered");
        check_manifest(manifest_, (temporary_ / kManifestName).string());
        OutputFile file(temporary_ / kManifestName);
        const std::string bytes = frame_manifest(manifest_);
        file.append(std::as_bytes(std::span(bytes)));
        reach("save.manifest");
        file.commit();  // and with it the directory's names
        reach("save.written");
        if (fs::exists(target_)) move_to_trash(target_);
        rename_path(temporary_, target_);
        renamed_ = true;
        reach("save.renamed");
        sync_directory(target_.parent_path());
    }

    // A save that failed leaves nothing, not even a checkpoint that may be gone after a crash.
    void take_back() {
        try {
            if (renamed_) rename_path(target_, temporary_);
            if (!trash_.empty()) rename_path(trash_.front(), target_);
            remove_tree(temporary_);
        } catch (const Error&) {  // it failed already
        }
    }

    void move_to_trash(const fs::path& dir) { trash_.push_back(to_trash(dir)); }

    // Too many old checkpoints are no reason to fail a save that stands.
    void retire() {
        try {
            for (const fs::path& dir : beyond(request_.run_dir, request_.keep, target_)) {
                reach("save.retire");
                move_to_trash(dir);
            }
            empty_trash(target_.parent_path(), trash_);
        } catch (const std::exception&) {
        }
    }

    Communicator& communicator_;
    const SaveRequest& request_;
    const std::vector<Share> shares_;
    const fs::path target_;
    fs::path temporary_;
    std::vector<int64_t> own_;  // our shard's size and checksum, each box's offset and checksum
    Manifest manifest_;
    bool renamed_ = false;
    std::vector<fs::path> trash_;  // to be removed when the save stands
};

}  // namespace

void check_room(const fs::path& dir, int64_t bytes, int64_t largest_file) {
    struct statvfs system;
    if (statvfs(dir.c_str(), &system) == 0) {
        const auto free =
            static_cast<int64_t>(system.f_bavail) * static_cast<int64_t>(system.f_frsize);
        if (free < bytes) {
            fail(ExitCode::storage, dir.string(), ": no space left: a checkpoint needs ", bytes,
                 " bytes, ", free, " are free");
        }
    }
    struct rlimit limit;
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
        static_cast<int64_t>(limit.rlim_cur) < largest_file) {
        fail(ExitCode::storage, dir.string(), ": a shard needs ", largest_file,
             " bytes, this process may write files of ", limit.rlim_cur);
    }
}

NamedTensor named(std::string kind, const Parameter& parameter, const Tensor& tensor) {
    return {std::move(kind), parameter.name,   tensor,
            parameter.shape, parameter.layout, parameter.box};
}

NamedTensor named(std::string kind, const Parameter& parameter, const Tensor& tensor,
                  const Box& part, bool shared_out) {
    NamedTensor result = named(std::move(kind), parameter, tensor);
    result.part = part;
    result.shared_out = shared_out;
    return result;
}

std::vector<fs::path> prune_checkpoints(const fs::path& run_dir, int64_t keep) {
    const std::vector<fs::path> old = beyond(run_dir, keep);
    std::vector<fs::path> trash;
    for (const fs::path& dir : old) trash.push_back(to_trash(dir));
    empty_trash(run_dir / "checkpoints", trash);
    return old;
}

SaveOutcome save_checkpoint(Communicator& communicator, const SaveRequest& request) {
    return Save(communicator, request).run();
}

}  // namespace fucina
