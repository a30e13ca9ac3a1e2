// Folders as Hugging Face has them: config.json, one or several safetensors files, a model card.

#pragma once
#include <string>
#include <vector>

#include "model/parameters.h"

namespace keiko::model {

// Gives tensors the names that Keiko's parameters have: VideoMAE's attention biases as q_bias and
// v_bias (transformers 5.5 to 5.17 wrote query.bias and value.bias; a key.bias beside them is left
// out, softmax cancels it). Other names stay. Values are shared, not copied.
std::vector<NamedTensor> published_spelling(std::vector<NamedTensor> tensors);

}  // namespace keiko::model
