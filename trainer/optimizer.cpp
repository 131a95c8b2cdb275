#include "trainer/optimizer.h"

#include <algorithm>
#include <cmath>
#include <iterator>

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

Optimizer::Optimizer(const Train& train, std::span<Parameter* const> parameters,
                     const Options& options)
    : train_(train), options_(options) {
    MemoryPurpose purpose("moments");
    std::vector<Parameter*> trained;
    for (Parameter* parameter : parameters) {
        if (!parameter->trained) continue;
        trained.push_back(parameter);
        states_.push_back(fresh_state(*parameter));
    }
    if (options.shared_out) gatherer_.emplace(*options.mesh, trained);
}

// Whether the squares of the gradient that we have are ours to add, so that each counts once. Of
// shards only those that tensor-parallel ranks have alike are on several.
bool Optimizer::counts(const Mesh& mesh, const Layout& layout) const {
    const MeshShape& shape = mesh.shape();
    if (!options_.grad_shards) return shape.is_first_holder(layout, mesh.rank());
    if (layout.stage != shape.pipeline_index(mesh.rank())) return false;
    return layout.expert >= 0 || layout.tensor >= 0 || shape.tensor_index(mesh.rank()) == 0;
}

// Of the chunks of the parameter's rows, those that lie here.
int64_t Optimizer::chunks_here(const Parameter& parameter) const {
    const int64_t chunks = options_.chunks;
    if (parameter.shape.empty() || parameter.shape.back() % chunks != 0) return 1;
    const bool cut = parameter.layout.tensor == std::ssize(parameter.shape) - 1;
    const int64_t ranks = cut && options_.mesh != nullptr ? options_.mesh->shape().tensor : 1;
    return std::max<int64_t>(chunks / ranks, 1);
}

Optimizer::State Optimizer::fresh_state(Parameter& parameter) const {
    const DType type = train_.moments() == "bf16" ? DType::bf16 : DType::f32;
    State state{&parameter, whole_box(parameter.master().shape()), {}, {}};
    if (!parameter.shape.empty()) state.box = parameter.box;
    if (options_.shared_out)
        state.box = owned_box(parameter.shape, parameter.layout, options_.mesh->shape(),
                              options_.mesh->rank());
    const Exec& exec = parameter.exec;
    state.m = exec.empty(state.box.extent, type);
    state.v = exec.empty(state.box.extent, type);
    exec.zero(state.m);
    exec.zero(state.v);
    return state;
}

double Optimizer::join_and_norm() {
    const Mesh* const mesh = options_.mesh;
    ExactSum squares;
    for (const State& state : states_) {
        auto& grads = state.parameter->grads;
        for (size_t use = 1; use < grads.size(); ++use) {
            ops::add_in_place(state.parameter->exec, state.parameter->grad(0), grads[use]);
        }
        if (mesh != nullptr && !counts(*mesh, state.parameter->layout)) continue;
        const Tensor& grad = state.parameter->grad(0);
        if (grad.size() == 0) continue;
        squares.add(
            ops::sum_of_squares(state.parameter->exec, grad, chunks_here(*state.parameter)));
    }
    if (mesh != nullptr) mesh->world().all_reduce_sum(squares.words());
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
        update(step, state);
    }
    if (!gatherer_) return;
    gatherer_->gather();
    for (const State& state : states_)
        if (const Parameter& p = *state.parameter; p.packed)
            state.parameter->packed->repack(p.exec, p.value);
}

// Where we update all of it, while the new weights lie in cache the packed copies are remade; of a
// part of it the others' come first.
void Optimizer::update(const AdamW& step, const State& state) const {
    Parameter& parameter = *state.parameter;
    if (!gatherer_) {
        PackedCopies* const copies = parameter.packed ? &*parameter.packed : nullptr;
        ops::adamw(parameter.exec, step, parameter.as_matrix(parameter.value), parameter.grad(0),
                   state.m, state.v, copies);
        return;
    }
    if (state.box.size() == 0) return;
    const Box& held = parameter.master_box();
    Box part = state.box;  // counted from the beginning of what we hold
    for (size_t d = 0; d < part.offset.size(); ++d) part.offset[d] -= held.offset[d];
    const auto flat = [](const Tensor& x) { return x.view({x.size()}); };
    const Tensor w = flat(parameter.master()), grad = flat(parameter.grad(0));
    const Tensor m = flat(state.m), v = flat(state.v);
    for_each_run(held.extent, part, [&](int64_t first, int64_t at, int64_t count) {
        const int64_t from = options_.grad_shards ? at : first;
        ops::adamw(parameter.exec, step, w.slice(first, first + count),
                   grad.slice(from, from + count), m.slice(at, at + count),
                   v.slice(at, at + count));
    });
}

}  // namespace fucina
