// WeightMap: which Hugging Face tensors make up which of our parameters. Fused parameters (gate
// over up, all experts of a layer, MLA's joint down-projection) are contiguous runs of Hugging Face
// tensors, so a piece is a name, a shape and a place; moving the bytes is trainer/weights.h.
#pragma once
#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "model/model_spec.h"

namespace fucina {

struct WeightPiece {
    std::string tensor;          // Hugging Face name
    std::vector<int64_t> shape;  // as stored there, outermost first
    int64_t offset = 0;          // elements, from the start of the parameter
};

struct WeightEntry {
    std::string parameter;       // our name (parallel/parameter.h)
    std::vector<int64_t> shape;  // of the parameter
    // Each spelling alone covers the parameter; the hub's comes first, transformers 5's fused one
    // last.
    std::vector<std::vector<WeightPiece>> spellings;
    // A tensor of the parameter's shape that stands for it where a file has none of the spellings:
    // a tied model's other half.
    std::string stand_in;
    bool fp32 = false;  // wherever it is written, whatever the others are
    bool fp8 = false;   // one of those that a release in FP8 has in FP8
};

class WeightMap {
  public:
    WeightMap(const ModelSpec& spec, bool with_mtp);

    const std::vector<WeightEntry>& entries() const { return entries_; }
    const WeightEntry* find(std::string_view parameter) const;

    // Whether a tensor that no parameter is made of belongs to what does not run: rotary
    // frequencies, scales of caches and activations, copies of a shared embedding or head, layers
    // beyond the model's (the MTP module when it is off), other modules. False inside what runs:
    // such a tensor is a mistake, or would change what the model computes.
    bool ignorable(std::string_view tensor) const;

    // Names of the first tensors of the MTP module: present in files that have one.
    static std::string mtp_marker(const ModelSpec& spec);

  private:
    std::vector<WeightEntry> entries_;
    std::set<std::string, std::less<>> modules_;  // that hold a tensor of ours
    int64_t layers_ = 0;
    bool with_mtp_ = false, tied_head_ = false;
};

}  // namespace fucina
