// Checkpoints: RUN/checkpoints/step-00000100/ = MANIFEST.pb + shard-RRRRR-of-WWWWW.h5
// (docs/formats.md, "Checkpoint"). A checkpoint appears by one rename after everything in it is on
// disk, so a directory of that name is whole; what is in it is still checked, byte by byte, at
// load.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "configs/manifest.pb.h"
#include "kernels/tensor.h"
#include "parallel/communicator.h"
#include "parallel/mesh.h"
#include "parallel/parameter.h"

namespace fucina {

class Model;
struct ModelSpec;

// A tensor of the state under its global name.
struct NamedTensor {
    std::string kind;  // weight, m, v
    std::string name;
    Tensor tensor;  // contiguous fp32 or bf16: what this rank holds of it
    // Of the whole, and which part this is; empty where the tensor is the whole.
    std::vector<int64_t> whole = {};
    Layout layout = {};
    Box part = {};
    bool shared_out = false;  // each rank has its owned_box of it
    Exec exec = kHost;        // where the tensor lies

    std::span<const int64_t> shape() const { return whole.empty() ? tensor.shape() : whole; }
    Box box() const { return whole.empty() ? whole_box(tensor.shape()) : part; }
};
// tensor: of the parameter's box.
NamedTensor named(std::string kind, const Parameter& parameter, const Tensor& tensor);
// tensor: of `part` of it, the rank's owned_box where it is shared out.
NamedTensor named(std::string kind, const Parameter& parameter, const Tensor& tensor,
                  const Box& part, bool shared_out);

struct SaveRequest {
    std::filesystem::path run_dir;
    Manifest manifest;                 // all but files and tensors
    std::vector<NamedTensor> tensors;  // the same on every rank, each its part
    MeshShape mesh;                    // by which layouts cut; of all ranks
    int64_t keep = 2;                  // newest valid checkpoints that stay
};

struct SaveOutcome {
    std::string problem;  // empty: saved; the same on every rank
    std::filesystem::path directory;
    int64_t bytes = 0;
    double seconds = 0;  // from its beginning to its end
    double waited = 0;   // of these, in which this rank could not go on
};

// Collective; every rank writes its share. A failure of the storage leaves the earlier checkpoints
// as they are and is returned, not thrown. CheckpointSaver does it beside other work.
SaveOutcome save_checkpoint(Communicator& communicator, SaveRequest request);

// Fails (exit 11) early and in plain words where a checkpoint of so many bytes cannot fit.
void check_room(const std::filesystem::path& dir, int64_t bytes, int64_t largest_file);

// "checkpoints/step-00000100" of a run directory.
std::filesystem::path checkpoint_directory(const std::filesystem::path& run_dir, int64_t step);

// Committed checkpoints of a run directory, newest first; nothing is read of them. Fails where the
// directory is there and cannot be listed.
std::vector<std::filesystem::path> list_checkpoints(const std::filesystem::path& run_dir);

// Removes all but the `keep` newest valid checkpoints, and damaged ones that are older; each
// disappears by a rename first. Returns what was removed. Not while another process saves there.
std::vector<std::filesystem::path> prune_checkpoints(const std::filesystem::path& run_dir,
                                                     int64_t keep);

// Removes what interrupted saves left. Not while another process saves there.
void remove_leftovers(const std::filesystem::path& run_dir);

// Told of every checkpoint that is damaged: why, in a line.
using DamageReport = std::function<void(const std::filesystem::path& dir, const std::string& why)>;

// A run directory's newest checkpoint whose manifest and files are in order, or the checkpoint
// directory itself. Damaged ones (DamagedFile) are reported and passed over, those in `known`
// without a word; whatever else is wrong with one, such as a file that cannot be opened, is thrown.
// Exit 10 if there is none.
std::filesystem::path find_checkpoint(const std::filesystem::path& path,
                                      const DamageReport& damaged,
                                      std::span<const std::filesystem::path> known = {});

// Renames a damaged checkpoint to DIR.damaged, DIR.damaged-2 and so on, the first that is free.
std::filesystem::path set_aside(const std::filesystem::path& dir);

// Fills the tensors, reading only boxes that hold some of them; each must be in the manifest with
// the same shape and dtype, which is looked at before any byte is read. Every byte's checksum is
// compared. Fails with exit 3, naming tensor and file: DamagedFile only where all files could be
// read and one holds other bytes than were written.
void load_tensors(const std::filesystem::path& dir, const Manifest& manifest,
                  std::span<const NamedTensor> tensors);

// The model whose state it is.
ModelSpec saved_spec(const Manifest& manifest, const std::filesystem::path& dir);

// All weights of a model, which must be finite (exit 3); the caller repacks. MTP stays as it is
// where the checkpoint has none, so that training with train.mtp_loss can start from a model
// without it.
void load_weights(const std::filesystem::path& dir, Model& model);

// Re-reads everything and compares checksums, then opens the shards with libhdf5 and compares
// their datasets with the manifest. Fails with exit 3.
void verify_checkpoint(const std::filesystem::path& dir);

}  // namespace fucina
