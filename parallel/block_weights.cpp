#include "parallel/block_weights.h"

#include <algorithm>

#include "kernels/error.h"
#include "parallel/box_copy.h"

namespace fucina {
BlockWeights::BlockWeights(const Mesh& mesh, std::vector<std::vector<Parameter*>> blocks,
                           const Options& options)
    : mesh_(mesh), blocks_(std::move(blocks)), options_(options) {}

// Of experts, and of all others.
std::vector<BlockWeights::Gather> BlockWeights::gathers(
    const std::vector<Parameter*>& parameters) const {
    std::vector<Gather> gathers;
    for (const bool experts : {false, true}) {
        Gather gather{.holders = Holders(mesh_, experts)};
        for (Parameter* parameter : parameters)
            if (parameter->shard.defined() && Holders::is_expert(*parameter) == experts)
                gather.parameters.push_back(parameter);
        if (gather.parameters.empty()) continue;
        for (int place = 0; place < gather.holders.size(); ++place) {
            int64_t elements = 0;
            for (const Parameter* parameter : gather.parameters)
                elements += gather.holders.owned(*parameter, place).size();
            gather.most = std::max(gather.most, elements);
        }
        gathers.push_back(std::move(gather));
    }
    return gathers;
}

void BlockWeights::start(size_t block) {
    if (under_way_.contains(block)) return;
    std::vector<Parameter*> missing;
    for (Parameter* parameter : blocks_[block])
        if (uses_[parameter] == 0) missing.push_back(parameter);
    MemoryPurpose purpose("communication");
    std::vector<Gather> started = gathers(missing);
    for (Gather& gather : started) {
        gather.own = mesh_.exec().empty({gather.most}, DType::f32);
        gather.all = mesh_.exec().empty({gather.holders.size(), gather.most}, DType::f32);
        mesh_.exec().zero(gather.own);  // what is beyond our part travels too
        int64_t at = 0;
        for (const Parameter* parameter : gather.parameters) {
            const Tensor shard = parameter->shard.flat();
            mesh_.exec().copy(shard, gather.own.slice(at, at + shard.size()));
            at += shard.size();
        }
        gather.request =
            gather.holders.ranks().start_all_gather(gather.own.memory(), gather.all.memory());
    }
    if (!started.empty()) under_way_.emplace(block, std::move(started));
}

void BlockWeights::take(size_t block) {
    start(block);
    if (const auto node = under_way_.extract(block); !node.empty()) {
        for (const Gather& gather : node.mapped()) {
            gather.request->wait();
            unpack(gather);
        }
    }
    for (Parameter* parameter : blocks_[block]) {
        ++uses_[parameter];
        const bool packed = parameter->packed && parameter->packed->defined();
        FUCINA_CHECK(parameter->value.defined() || packed, parameter->name,
                     " was given back while it was waited for");
    }
}

void BlockWeights::unpack(const Gather& gather) {
    std::vector<Tensor> from;  // by place, what is left of it
    for (int place = 0; place < gather.holders.size(); ++place)
        from.push_back(gather.all.slice(place, place + 1).flat());
    for (Parameter* parameter : gather.parameters) {
        {
            MemoryPurpose purpose("weights");
            parameter->value = mesh_.exec().empty(parameter->box.extent, DType::f32);
        }
        for (int place = 0; place < gather.holders.size(); ++place) {
            const Box box = gather.holders.owned(*parameter, place);
            Tensor& next = from[static_cast<size_t>(place)];
            copy_shared(mesh_.exec(), box, next, parameter->box, parameter->value);
            next = next.slice(box.size(), next.size());
        }
        if (parameter->packed)
            parameter->packed->pack(mesh_.exec(), parameter->value, options_.compute,
                                    options_.with_dgrad);
        if (!parameter->reads_value) parameter->value = {};
    }
}

void BlockWeights::give_back(size_t block) {
    for (Parameter* parameter : blocks_[block]) {
        if (--uses_[parameter] > 0 || !parameter->shard.defined()) continue;
        parameter->value = {};
        if (parameter->packed) parameter->packed->release();
    }
}

int64_t BlockWeights::gathered_bytes(size_t block) const {
    int64_t bytes = 0;
    for (const Gather& gather : gathers(blocks_[block]))
        bytes += 4 * gather.most * (gather.holders.size() + 1);
    return bytes;
}

int64_t BlockWeights::used_bytes(size_t block) const {
    int64_t bytes = 0;
    for (const Parameter* parameter : blocks_[block])
        if (parameter->shard.defined() && parameter->reads_value)
            bytes += 4 * parameter->box.size();
    return bytes;
}

}  // namespace fucina
