#include "model/hugging_face.h"

#include <utility>

namespace keiko::model {

std::vector<NamedTensor> published_spelling(std::vector<NamedTensor> tensors) {
  static constexpr std::pair<const char*, const char*> kRenamed[] = {
      {".attention.attention.query.bias", ".attention.attention.q_bias"},
      {".attention.attention.value.bias", ".attention.attention.v_bias"}};
  std::erase_if(tensors, [](const NamedTensor& entry) {
    return entry.first.ends_with(".attention.attention.key.bias");
  });
  for (auto& [name, tensor] : tensors)
    for (const auto& [from, to] : kRenamed)
      if (name.ends_with(from))
        name.replace(name.size() - std::string(from).size(), std::string::npos, to);
  return tensors;
}

}  // namespace keiko::model
