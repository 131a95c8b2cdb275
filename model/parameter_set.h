// ParameterSet: owns the parameters of a model, in the order in which layers declare them.
// Addresses are stable.
#pragma once
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "parallel/parameter.h"

namespace fucina {

class ParameterSet {
  public:
    // A weight of a matrix product, [N, K].
    Parameter* matrix(const std::string& name, std::initializer_list<int64_t> shape,
                      PackKind forward_kind = PackKind::forward) {
        Parameter* parameter = add(name, shape);
        parameter->gemm = true;
        parameter->forward_kind = forward_kind;
        return parameter;
    }
    // [experts, N, K]: a product each.
    Parameter* experts(const std::string& name, std::initializer_list<int64_t> shape,
                       PackKind forward_kind = PackKind::forward) {
        Parameter* parameter = matrix(name, shape, forward_kind);
        parameter->layout.expert = 0;
        return parameter;
    }
    // A norm's gain [D], or a table that is read row by row.
    Parameter* plain(const std::string& name, std::initializer_list<int64_t> shape) {
        return add(name, shape);
    }
    // Not trained: no gradient, no moments, but part of every checkpoint.
    Parameter* buffer(const std::string& name, std::initializer_list<int64_t> shape) {
        Parameter* parameter = add(name, shape);
        parameter->trained = false;
        return parameter;
    }

    std::span<Parameter* const> all() const { return order_; }

  private:
    Parameter* add(const std::string& name, std::initializer_list<int64_t> shape) {
        MemoryPurpose purpose("weights");
        owned_.push_back(std::make_unique<Parameter>());
        Parameter* parameter = owned_.back().get();
        parameter->name = name;
        parameter->value = Tensor::empty(shape, DType::f32);
        order_.push_back(parameter);
        return parameter;
    }

    std::vector<std::unique_ptr<Parameter>> owned_;
    std::vector<Parameter*> order_;
};

}  // namespace fucina
