// Weights from a Hugging Face directory (config.json and safetensors) into a Model.
#pragma once
#include <filesystem>

#include "data/tensor_file.h"
#include "model/model.h"

namespace fucina {

// directory/config.json. Fails with exit 3 if the file is missing, with exit 2 if its content will
// not do.
ModelSpec read_model_spec(const std::filesystem::path& directory);

// Fails (exit 3) in a line that begins with `where` unless all values are finite: weights of NaN
// would pass for a model, whose every token is 0. They are elements `first` and on of a tensor of
// `shape`.
void check_finite(const std::string& where, std::span<const int64_t> shape, int64_t first,
                  std::span<const float> values);

bool has_mtp_weights(const TensorFile& file, const ModelSpec& spec);

// Fills every parameter from tensors of the dtypes of trainer/stored_weight.h, and repacks. MTP's
// parameters are left as they are when the file has none. A missing, unexpected or misshapen tensor
// fails (exit 3), named with found and expected shape, and so does one with values that are not
// finite. What belongs to no part of the model that runs is left aside; the lines returned say so,
// and which of two files was read.
std::vector<std::string> load_weights(Model& model, const TensorFile& file);

// Where the config ties the head to the embedding and the file holds both with other values, the
// file is right: spec gets a head of its own, and the line returned says so (else it is empty).
std::string settle_head(ModelSpec& spec, const TensorFile& file);

// The sum of each parameter's gradients over its uses, as f32 tensors under Hugging Face names
// (experts fused).
void write_gradients(Model& model, const std::filesystem::path& path);

}  // namespace fucina
