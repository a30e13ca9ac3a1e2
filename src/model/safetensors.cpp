#include "model/safetensors.h"

#include <ATen/ATen.h>
#include <xxhash.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace keiko::model {
namespace {

struct DtypeName {
  at::ScalarType type;
  const char* name;
};
constexpr DtypeName kDtypes[] = {{at::kDouble, "F64"},    {at::kFloat, "F32"}, {at::kHalf, "F16"},
                                 {at::kBFloat16, "BF16"}, {at::kLong, "I64"},  {at::kInt, "I32"},
                                 {at::kByte, "U8"},       {at::kBool, "BOOL"}};

const char* name_of(at::ScalarType type) {
  for (const DtypeName& d : kDtypes)
    if (d.type == type) return d.name;
  fail(ErrorKind::kInternal, "dtype {} has no safetensors name", at::toString(type));
}

}  // namespace

uint64_t write_safetensors(Env* env, const std::string& path,
                           const std::vector<NamedTensor>& tensors,
                           const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header;
  if (!metadata.empty()) header["__metadata__"] = metadata;
  int64_t offset = 0;
  for (const auto& [name, tensor] : tensors) {
    const int64_t size = tensor.numel() * int64_t(tensor.element_size());
    header[name] = {{"dtype", name_of(tensor.scalar_type())},
                    {"shape", tensor.sizes().vec()},
                    {"data_offsets", {offset, offset + size}}};
    offset += size;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // the format wants the data aligned
  const uint64_t length = text.size();
  const std::string head = std::string(reinterpret_cast<const char*>(&length), 8) + text;

  XXH3_state_t* state = XXH3_createState();
  XXH3_64bits_reset(state);
  const auto file = env->create(path);
  auto write = [&](const void* data, size_t size) {
    file->append(std::span(static_cast<const uint8_t*>(data), size));
    XXH3_64bits_update(state, data, size);
  };
  write(head.data(), head.size());
  for (const auto& [name, tensor] : tensors) {
    const at::Tensor flat = tensor.contiguous();
    if (flat.numel() > 0) write(flat.const_data_ptr(), flat.nbytes());
  }
  file->sync();
  const uint64_t hash = XXH3_64bits_digest(state);
  XXH3_freeState(state);
  return hash;
}

at::Tensor SafetensorsFile::get(const std::string& name) const {
  for (const auto& [n, tensor] : tensors)
    if (n == name) return tensor;
  fail(ErrorKind::kData, "{}: holds no tensor {}", path, name);
}

SafetensorsFile read_safetensors(Env* env, const std::string& path) {
  const auto file = env->open(path);
  auto damaged = [&](const std::string& what) {
    fail(ErrorKind::kData, "{}: not a good safetensors file ({})", path, what);
  };
  uint64_t length = 0;
  if (file->size() < 8) damaged("shorter than 8 bytes");
  file->read(0, {reinterpret_cast<uint8_t*>(&length), 8});
  if (length > uint64_t(file->size()) - 8 || length > 100'000'000)
    damaged(fmt::format("its header claims {} bytes", length));
  std::string text(length, '\0');
  file->read(8, {reinterpret_cast<uint8_t*>(text.data()), length});
  const auto header = nlohmann::json::parse(text, nullptr, false);
  if (!header.is_object()) damaged("the header is not JSON");
  SafetensorsFile out;
  out.path = path;
  const int64_t data_start = 8 + int64_t(length), data_size = file->size() - data_start;
  try {
    for (const auto& [name, entry] : header.items()) {
      if (name == "__metadata__") {
        out.metadata = entry.get<std::map<std::string, std::string>>();
        continue;
      }
      const std::string dtype = entry.at("dtype");
      const auto shape = entry.at("shape").get<std::vector<int64_t>>();
      const int64_t begin = entry.at("data_offsets").at(0), end = entry.at("data_offsets").at(1);
      const DtypeName* found = nullptr;
      for (const DtypeName& d : kDtypes)
        if (dtype == d.name) found = &d;
      if (found == nullptr) damaged(fmt::format("{} has dtype {}", name, dtype));
      int64_t count = 1;
      for (int64_t d : shape) {
        if (d < 0 || (d > 0 && count > (int64_t{1} << 40) / d))
          damaged(fmt::format("{} has an impossible shape", name));
        count *= d;
      }
      if (begin < 0 || end < begin || end > data_size ||
          end - begin != count * int64_t(at::elementSize(found->type)))
        damaged(fmt::format("{} lies at bytes {} to {}, which do not fit its shape or the file",
                            name, begin, end));
      at::Tensor tensor = at::empty(shape, found->type);
      if (count > 0)
        file->read(data_start + begin,
                   {static_cast<uint8_t*>(tensor.data_ptr()), size_t(end - begin)});
      out.tensors.emplace_back(name, tensor);
    }
  } catch (const nlohmann::json::exception& e) {
    damaged(e.what());
  }
  return out;
}

}  // namespace keiko::model
