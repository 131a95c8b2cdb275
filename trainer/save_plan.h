// Who writes what of a checkpoint: every rank makes the same plan, without a word.
#pragma once
#include <span>
#include <string>
#include <vector>

#include "parallel/mesh.h"
#include "trainer/checkpoint.h"
#include "trainer/shard_file.h"

namespace fucina {

// What the plan needs to know of a tensor.
struct PlannedTensor {
    std::string kind, name;
    std::vector<int64_t> shape;
    DType dtype = DType::f32;
    Layout layout = {};
    bool shared_out = false;  // NamedTensor's
};
std::vector<PlannedTensor> planned(std::span<const NamedTensor> tensors);

// A box of a tensor, and the rank that writes it.
struct Share {
    size_t tensor;
    Box box;
    int64_t nbytes;
    std::vector<int> holders;  // ranks that hold it all
    int writer = 0;
};

// What several ranks hold is written once; boxes too large for an even share are cut along
// dimension 0, and the largest goes first to the holder with the least.
std::vector<Share> plan_shares(std::span<const PlannedTensor> tensors, const MeshShape& mesh,
                               int ranks);

// What each rank writes, in bytes.
std::vector<int64_t> bytes_by_writer(std::span<const Share> shares, int ranks);

// "/weight/NAME", and behind it where the box begins if it is not the whole tensor.
std::string dataset_path(const PlannedTensor& tensor, const Box& box);

// Of the box, without its data.
ShardDataset dataset_of(const PlannedTensor& tensor, const Share& share);

// A manifest's entries of a tensor, of a shard, and of a box that was written.
SavedTensor* add_tensor(Manifest& manifest, const PlannedTensor& tensor);
void add_file(Manifest& manifest, const std::string& name, int64_t size, uint64_t frame_xxh3);
void add_box(SavedTensor& saved, const PlannedTensor& tensor, const Share& share,
             int64_t byte_offset, uint64_t xxh3);

}  // namespace fucina
