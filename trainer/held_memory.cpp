#include "trainer/held_memory.h"

#include <algorithm>

#include "parallel/grad_reducer.h"
#include "parallel/holders.h"
#include "parallel/weight_gatherer.h"
#include "trainer/pass_batch.h"

namespace fucina {
namespace {

int64_t packed_bytes(const Parameter& parameter, int64_t compute) {
    if (!parameter.packed) return 0;
    if (parameter.packed->defined()) return parameter.packed->bytes();
    const int64_t elements = parameter.box.size();
    const bool fp8 = parameter.packed->fp8;  // values held as bf16 on CPU, and scales
    if (fp8 && !parameter.exec.on_host()) compute = 1;
    return 2 * ((parameter.packed->fp32 ? 4 : compute) * elements + (fp8 ? elements / 32 : 0));
}

// fp32 values of a block while its weights arrive, in their order (BlockWeights): those that are
// only packed are gone when the next is here.
int64_t arriving_bytes(const std::vector<Parameter*>& block) {
    int64_t used = 0, most = 0;
    for (const bool experts : {false, true})
        for (const Parameter* parameter : block) {
            if (!parameter->shard.defined() || Holders::is_expert(*parameter) != experts) continue;
            const int64_t bytes = 4 * parameter->box.size();
            most = std::max(most, used + bytes);
            if (parameter->reads_value) used += bytes;
        }
    return most;
}

// Of what is shared out from that `parallel.zero` on, what this rank has.
int64_t updated_elements(const Recipe& recipe, const Model& model, const Parameter& parameter,
                         int zero) {
    const Mesh* const mesh = model.options().mesh;
    if (mesh == nullptr || recipe.parallel().zero() < zero) return parameter.box.size();
    return owned_box(parameter.shape, parameter.layout, mesh->shape(), mesh->rank()).size();
}

}  // namespace

Gathered::Gathered(const Model& model, int64_t compute) {
    int64_t widest = 0;
    for (const auto& weights : model.block_weights()) {
        for (size_t block = 0; block < weights->blocks().size(); ++block) {
            travelling = std::max(travelling, weights->gathered_bytes(block));
            values = std::max(values, arriving_bytes(weights->blocks()[block]));
            int64_t bytes = 0;
            for (const Parameter* parameter : weights->blocks()[block])
                if (parameter->shard.defined()) bytes += packed_bytes(*parameter, compute);
            packed = std::max(packed, bytes);
        }
        // Activations are most when backward begins: the weights of the head, if there is one, are
        // used, and the last block's travel.
        const size_t end = weights->blocks().size() - 1;
        widest = std::max(widest, weights->gathered_bytes(end - 1) + weights->used_bytes(end));
    }
    apart = travelling + values - widest;
}

std::vector<std::pair<std::string, int64_t>> held_bytes(const Recipe& recipe, Model& model) {
    const int64_t compute = recipe.train().precision() == "fp32" ? 4 : 2;
    const int64_t moment = recipe.train().moments() == "bf16" ? 2 : 4;
    int64_t values = 0, packed = 0, moments = 0;
    for (const Parameter* parameter : model.parameters()) {
        values += 4 * parameter->master().size();
        if (!parameter->shard.defined()) packed += packed_bytes(*parameter, compute);
        if (parameter->trained)
            moments += 2 * moment * updated_elements(recipe, model, *parameter, 1);
    }
    const Gathered gathered(model, compute);
    return {{"weights", values + gathered.values},
            {"packed weights", packed + gathered.packed},
            {"moments", moments}};
}

Exchange exchange_of(const Recipe& recipe, Model& model) {
    const Mesh* const mesh = model.options().mesh;
    if (mesh == nullptr) return {};
    Exchange exchange;
    for (int chunk = 0; chunk < model.chunks(); ++chunk) {
        const GradReducer reducer(*mesh, model.parameters(chunk), reducer_options(recipe));
        exchange.bytes += reducer.bytes();
        exchange.bucket = std::max(exchange.bucket, reducer.bucket_bytes());
    }
    return exchange;
}

int64_t received_gradients(const Recipe& recipe, Model& model) {
    int64_t bytes = 0;
    for (const Parameter* parameter : model.parameters())
        for (size_t use = 0; use < parameter->grads.size(); ++use)
            if (!parameter->makes(use)) bytes += 4 * updated_elements(recipe, model, *parameter, 2);
    return bytes;
}

int64_t gatherer_bytes(const Recipe& recipe, Model& model) {
    const Mesh* const mesh = model.options().mesh;
    if (mesh == nullptr || recipe.parallel().zero() == 0) return 0;
    std::vector<Parameter*> trained;
    for (Parameter* parameter : model.parameters())
        if (parameter->trained) trained.push_back(parameter);
    return WeightGatherer(*mesh, trained).bytes();
}

}  // namespace fucina
