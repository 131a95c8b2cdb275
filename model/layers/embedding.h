// Embedding: one row of the table per token id. Tensor-parallel ranks have parts of the vocabulary.
#pragma once
#include "model/parameter_set.h"
#include "model/pass_context.h"

namespace fucina {

// The table is shared with a tied head and with MTP; each use of it has a gradient of its own.
struct Embedding {
    Parameter* table = nullptr;  // [V, D], cut by V
    size_t use = 0;

    // ids [T] of all rows; stream rows.
    Tensor forward(const PassContext& context, std::span<const int32_t> ids) const;
    void backward(const PassContext& context, std::span<const int32_t> ids, const Tensor& dx) const;
};

}  // namespace fucina
