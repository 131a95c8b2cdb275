// BlockWeights: with ZeRO 3 a rank keeps only what it owns of the weights. Those of a block are
// gathered before it is used and released after; the next block's come while this one computes.
//
// All ranks that hold the same weights use the same blocks in the same order.
#pragma once
#include <map>
#include <memory>
#include <vector>

#include "parallel/holders.h"

namespace fucina {

class BlockWeights {
  public:
    struct Options {
        DType compute = DType::bf16;  // of packed copies
        bool with_dgrad = true;
    };
    // blocks: a parameter may be in several. They and the mesh must outlive this.
    BlockWeights(const Mesh& mesh, std::vector<std::vector<Parameter*>> blocks,
                 const Options& options);

    // Begins to gather what is not here of a block.
    void start(size_t block);

    // The weights of a block, here while this lives.
    class Use {
      public:
        Use() = default;  // of nothing
        // weights: null where all are here.
        Use(BlockWeights* weights, size_t block) : weights_(weights), block_(block) {
            if (weights_ != nullptr) weights_->take(block_);
        }
        Use(Use&& other) noexcept : Use() { *this = std::move(other); }
        Use& operator=(Use&& other) noexcept {
            std::swap(weights_, other.weights_);
            std::swap(block_, other.block_);
            return *this;
        }
        ~Use() {
            if (weights_ != nullptr) weights_->give_back(block_);
        }

      private:
        BlockWeights* weights_ = nullptr;
        size_t block_ = 0;
    };

    // Bytes that a block takes: on its way; of fp32 values while it is used.
    int64_t gathered_bytes(size_t block) const;
    int64_t used_bytes(size_t block) const;
    const std::vector<std::vector<Parameter*>>& blocks() const { return blocks_; }

  private:
    struct Gather {
        Holders holders;
        std::vector<Parameter*> parameters;
        int64_t most = 0;  // elements that a rank owns of them, at most
        Tensor own, all;   // [most], [ranks, most]
        std::unique_ptr<Request> request;
    };
    void take(size_t block);
    void give_back(size_t block);
    std::vector<Gather> gathers(const std::vector<Parameter*>& parameters) const;
    void unpack(const Gather& gather);

    const Mesh& mesh_;
    const std::vector<std::vector<Parameter*>> blocks_;
    const Options options_;
    std::map<Parameter*, int> uses_;
    std::map<size_t, std::vector<Gather>> under_way_;
};

}  // namespace fucina
