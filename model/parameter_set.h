// ParameterSet: owns the parameters of a model, in the order in which layers declare them.
// Addresses are stable.
#pragma once
#include <algorithm>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "parallel/mesh.h"
#include "parallel/parameter.h"

namespace fucina {

class ParameterSet {
  public:
    // What `rank` of the mesh holds; sums over what tensor parallelism may cut are of `chunks`.
    // shards: of what other ranks hold too, only what it owns. fp8: the products of matrices are.
    ParameterSet(const Exec& exec, const MeshShape& mesh, int rank, int64_t chunks,
                 bool shards = false, bool fp8 = false)
        : exec_(exec), mesh_(mesh), rank_(rank), chunks_(chunks), shards_(shards), fp8_(fp8) {}

    int64_t chunks() const { return chunks_; }
    // Those that a tensor-parallel rank has.
    int64_t own_chunks() const { return std::max<int64_t>(chunks_ / mesh_.tensor, 1); }
    // Of the columns here of a weight, `parts` fused weights' outputs.
    KCut cut(int64_t parts = 1) const { return chunks_ == 1 ? KCut{} : KCut{own_chunks(), parts}; }
    // What this rank has of `count` heads, columns or tokens of the vocabulary.
    int64_t own(int64_t count) const { return count / mesh_.tensor; }

    // A weight of a matrix product, [N, K], or [2, N, K] of a fused gate and up.
    Parameter* matrix(const std::string& name, std::initializer_list<int64_t> shape,
                      const Layout& layout = {}, PackKind kind = PackKind::forward) {
        Parameter* parameter = add(name, shape, layout);
        parameter->packed.emplace() = {.kind = kind, .fp8 = fp8_};
        return parameter;
    }
    // [experts, N, K], or [experts, 2, N, K]: a product each.
    Parameter* experts(const std::string& name, std::initializer_list<int64_t> shape,
                       PackKind kind = PackKind::forward) {
        return matrix(name, shape, {.expert = 0}, kind);
    }
    // A norm's gain [D], or a table that is read row by row.
    Parameter* plain(const std::string& name, std::initializer_list<int64_t> shape,
                     const Layout& layout = {}) {
        Parameter* parameter = add(name, shape, layout);
        parameter->reads_value = true;
        return parameter;
    }
    // Not trained: no gradient, no moments, but part of every checkpoint.
    Parameter* buffer(const std::string& name, std::initializer_list<int64_t> shape) {
        Parameter* parameter = add(name, shape, {}, false);
        parameter->reads_value = true;
        return parameter;
    }

    // What is declared from here on is held by that stage of the pipeline, and by another if the
    // two differ.
    void place(int stage, int other_stage) {
        stage_ = stage;
        other_stage_ = other_stage;
    }

    std::span<Parameter* const> all() const { return order_; }
    bool holds(const Parameter& parameter) const {
        return parameter.layout.on_stage(mesh_.pipeline_index(rank_));
    }

  private:
    Parameter* add(const std::string& name, std::initializer_list<int64_t> shape,
                   const Layout& layout = {}, bool trained = true) {
        MemoryPurpose purpose("weights");
        owned_.push_back(std::make_unique<Parameter>());
        Parameter* parameter = owned_.back().get();
        parameter->name = name;
        parameter->shape = shape;
        parameter->layout = layout;
        parameter->layout.stage = stage_;
        parameter->layout.other_stage = other_stage_;
        parameter->box = box_of(parameter->shape, parameter->layout, mesh_, rank_);
        parameter->trained = trained;
        parameter->exec = exec_;
        const int holders = layout.expert >= 0 ? mesh_.expert_data() : mesh_.data;
        if (shards_ && trained && holders > 1) {
            parameter->shard_box = owned_box(parameter->shape, parameter->layout, mesh_, rank_);
            parameter->shard = exec_.empty(parameter->shard_box.extent, DType::f32);
        } else {
            parameter->value = exec_.empty(parameter->box.extent, DType::f32);
        }
        order_.push_back(parameter);
        return parameter;
    }

    const Exec exec_;
    const MeshShape mesh_;
    const int rank_;
    const int64_t chunks_;
    const bool shards_, fp8_;
    int stage_ = 0, other_stage_ = 0;
    std::vector<std::unique_ptr<Parameter>> owned_;
    std::vector<Parameter*> order_;
};

}  // namespace fucina
