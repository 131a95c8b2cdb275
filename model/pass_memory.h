// How much memory a pass needs: the layers' tensors are taken and given back in the order of
// model/layers/*.cpp, by size alone. Whoever changes what a layer keeps changes it here too; a test
// compares each kind of layer with what the arena measured.
#pragma once
#include <cstdint>

#include "model/model_spec.h"
#include "model/recompute.h"

namespace fucina {

struct PassShape {
    DType compute = DType::bf16;
    bool fp8 = false;  // of products; as activations it stays bf16
    RecomputeKind recompute = RecomputeKind::none;
    // Of a pipeline's stage: decoder blocks [begin, end), end -1 being the model's last, and
    // whether it has the embedding, and head and MTP.
    int64_t begin = 0, end = -1;
    bool has_embedding = true, has_head = true;
    // Bytes that other micro-batches keep.
    struct Beside {
        int64_t forward = 0, backward = 0;
    };
    Beside beside = {};
    bool with_mtp = false;
    bool balance = false;  // whether the balance loss has a gradient
    // Of the layer's experts those on this rank, if they are on several: rows are exchanged then,
    // as many as the rank's own if experts are met evenly. 0: all are here.
    int64_t experts_here = 0;
    int64_t received = 0;   // rows for these, if they are not met evenly
    int64_t chunks = 1;     // exact.chunks
    int tensor = 1;         // ranks that share the matrices
    bool sequence = false;  // and the rows between them
    int64_t tokens = 0;
    int64_t leaves = 1;  // grains of the pass, or 1 in fast numerics
    int held = 0;        // whole sets of gradients before the pass
    int merges = 0;      // so often its gradients are added to one of them, as they are made
    // Gradients of all but experts are made grain by grain; each is added to the sum of its
    // replica, if that has one: `replicas` do before the pass, `new_replicas` only after it.
    bool apart = false;
    int replicas = 0, new_replicas = 0;
    bool last = false;  // of the step: replicas are added up as their sums become whole
    // With apart: experts' too are made grain by grain, and added to one sum of 8 bytes a weight,
    // which is there before the pass if `held` is 1.
    bool integers = false;
    // Of the experts' sums of earlier waves (held) this is one of so many shares.
    int held_shards = 1;
    // Where not 0, gradients are exchanged as they are made, by so many bytes, between so many
    // ranks: experts', and in the last pass all others. shards: what this rank owns is left of
    // them. joins: experts' sums, once exchanged, are added to those of earlier waves.
    int64_t bucket = 0;
    int expert_holders = 1, other_holders = 1;
    bool shards = false, joins = false;
};

// Bytes; each the most at any moment of the pass.
struct PassMemory {
    int64_t activations = 0, gradients = 0;
    int64_t together = 0;  // less than their sum: backward frees the ones as it makes the others
    int64_t all_gradients = 0;  // of one pass, of them
    int64_t expert_gradients = 0;
};

PassMemory pass_memory(const ModelSpec& spec, const PassShape& shape);

// Bytes of activations that forward keeps for backward.
int64_t kept_activations(const ModelSpec& spec, const PassShape& shape);

// Bytes that the kernels' threads work in together, for a pass whose grains are `longest` tokens,
// as are its documents. Products of experts are counted as smaller than those of all tokens.
int64_t kernel_scratch(const ModelSpec& spec, const PassShape& shape, int64_t longest);

}  // namespace fucina
