// What a rank holds beside its passes: weights and moments, and what travels between ranks.
#pragma once
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "configs/recipe.pb.h"
#include "model/model.h"

namespace fucina {

// Bytes by purpose.
std::vector<std::pair<std::string, int64_t>> held_bytes(const Recipe& recipe, Model& model);

// What weights that are gathered block by block take at the most, over a rank's stages.
struct Gathered {
    Gathered(const Model& model, int64_t compute);  // compute: bytes of an operand's element
    int64_t travelling = 0, values = 0, packed = 0;
    int64_t apart = 0;  // of the first two, not at the process's widest moment
};

// How gradients are exchanged.
struct Exchange {
    int64_t bytes = 0, bucket = 0;
};
Exchange exchange_of(const Recipe& recipe, Model& model);

// Of weights that another stage of the pipeline uses too.
int64_t received_gradients(const Recipe& recipe, Model& model);

// What weights that were updated elsewhere arrive in.
int64_t gatherer_bytes(const Recipe& recipe, Model& model);

}  // namespace fucina
