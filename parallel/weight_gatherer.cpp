#include "parallel/weight_gatherer.h"

#include <algorithm>

#include "kernels/error.h"
#include "parallel/box_copy.h"

namespace fucina {
WeightGatherer::WeightGatherer(const Mesh& mesh, std::span<Parameter* const> parameters,
                               int64_t bucket_bytes)
    : mesh_(mesh) {
    for (const bool experts : {false, true}) {
        const Holders holders(mesh, experts);
        const int ranks = holders.size();
        if (ranks == 1) continue;
        Bucket bucket{experts, {}};
        const auto close = [&] {
            for (int place = 0; place < ranks; ++place) {
                int64_t elements = 0;
                for (const Parameter* parameter : bucket.parameters)
                    elements += holders.owned(*parameter, place).size();
                bucket.most = std::max(bucket.most, elements);
            }
            largest_ = std::max(largest_, bucket.most);
            received_ = std::max(received_, bucket.most * ranks);
            if (bucket.most > 0) buckets_.push_back(bucket);
            bucket = {experts, {}};
        };
        int64_t held = 0;
        for (Parameter* parameter : parameters) {
            if (Holders::is_expert(*parameter) != experts || parameter->shard.defined()) continue;
            const int64_t bytes = parameter->value.bytes() / ranks;
            if (held > 0 && held + bytes > bucket_bytes) {
                close();
                held = 0;
            }
            bucket.parameters.push_back(parameter);
            held += bytes;
        }
        close();
    }
}

void WeightGatherer::gather() const {
    for (const Bucket& bucket : buckets_) gather(bucket);
}

void WeightGatherer::gather(const Bucket& bucket) const {
    const Holders holders(mesh_, bucket.experts);
    Communicator& ranks = holders.ranks();
    const Exec& exec = mesh_.exec();
    MemoryPurpose purpose("communication");
    const Tensor own = exec.empty({bucket.most}, DType::f32);
    const Tensor all = exec.empty({ranks.size(), bucket.most}, DType::f32);
    exec.zero(own);  // what is beyond our part travels too
    int64_t at = 0;
    for (const Parameter* parameter : bucket.parameters) {
        const Box box = holders.owned(*parameter, holders.here());
        copy_shared(exec, parameter->box, parameter->value, box, own.slice(at, at + box.size()));
        at += box.size();
    }
    ranks.all_gather(own.memory(), all.memory());
    for (int place = 0; place < ranks.size(); ++place) {
        Tensor next = all.slice(place, place + 1).flat();
        for (const Parameter* parameter : bucket.parameters) {
            const Box box = holders.owned(*parameter, place);
            if (place != ranks.rank())
                copy_shared(exec, box, next, parameter->box, parameter->value);
            next = next.slice(box.size(), next.size());
        }
    }
}

}  // namespace fucina
