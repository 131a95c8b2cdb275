#include "trainer/optimizer.h"

#include <cmath>

#include "kernels/optimizer.h"

namespace fucina {
namespace {

// By squaring: the same bits whether a run counted up to n or was resumed there.
double power(double base, int64_t n) {
    double result = 1;
    for (; n > 0; n >>= 1, base *= base) {
        if ((n & 1) != 0) result *= base;
    }
    return result;
}

}  // namespace

Optimizer::Optimizer(const Train& train, std::span<Parameter* const> parameters, int64_t chunks)
    : train_(train), chunks_(chunks) {
    MemoryPurpose purpose("moments");
    const DType type = train.moments() == "bf16" ? DType::bf16 : DType::f32;
    for (Parameter* parameter : parameters) {
        if (!parameter->trained) continue;
        const auto shape = parameter->value.shape();
        State state{parameter, Tensor::empty(shape, type), Tensor::empty(shape, type)};
        state.m.zero();
        state.v.zero();
        states_.push_back(std::move(state));
    }
}

double Optimizer::join_and_norm(Communicator& expert) {
    ExactSum squares, of_experts;
    for (const State& state : states_) {
        auto& grads = state.parameter->grads;
        for (size_t use = 1; use < grads.size(); ++use) {
            ops::add_in_place(state.parameter->grad(0), grads[use]);
        }
        ExactSum& sum = state.parameter->layout.expert >= 0 ? of_experts : squares;
        const Tensor& grad = state.parameter->grad(0);
        const bool cut = grad.dim(grad.rank() - 1) % chunks_ == 0;
        sum.add(ops::sum_of_squares(grad, cut ? chunks_ : 1));
    }
    expert.all_reduce_sum(of_experts.words());
    squares.add(of_experts);
    return std::sqrt(squares.value());
}

void Optimizer::update(double learning_rate, double grad_norm) {
    ++updates_;
    AdamW step;
    step.learning_rate = static_cast<float>(learning_rate);
    step.beta1 = static_cast<float>(train_.betas(0));
    step.beta2 = static_cast<float>(train_.betas(1));
    step.eps = static_cast<float>(train_.eps());
    step.bias_correction1 = static_cast<float>(1 - power(train_.betas(0), updates_));
    step.bias_correction2 = static_cast<float>(1 - power(train_.betas(1), updates_));
    const double factor = train_.clip_norm() / (grad_norm + 1e-6);
    if (train_.clip_norm() > 0 && factor < 1) step.grad_scale = static_cast<float>(factor);
    for (const State& state : states_) {
        step.weight_decay =
            state.parameter->decayed() ? static_cast<float>(train_.weight_decay()) : 0.0f;
        Parameter& parameter = *state.parameter;
        const PackedCopies copies = parameter.dgrad.defined()
                                        ? PackedCopies{&parameter.forward, &parameter.dgrad}
                                        : PackedCopies{};
        ops::adamw(step, parameter.as_matrix(parameter.value), parameter.grad(0), state.m, state.v,
                   copies);
    }
}

}  // namespace fucina
