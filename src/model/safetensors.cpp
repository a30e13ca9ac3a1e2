#include "model/safetensors.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <xxhash.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/json_text.h"

namespace keiko::model {
namespace {

struct DtypeName {
  at::ScalarType type;
  const char* name;
};
constexpr DtypeName kDtypes[] = {{at::kDouble, "F64"},    {at::kFloat, "F32"}, {at::kHalf, "F16"},
                                 {at::kBFloat16, "BF16"}, {at::kLong, "I64"},  {at::kInt, "I32"},
                                 {at::kByte, "U8"},       {at::kBool, "BOOL"}};

int64_t bytes_of(const TensorEntry& entry) {
  int64_t n = int64_t(at::elementSize(entry.dtype));
  for (int64_t d : entry.shape) n *= d;
  return n;
}

}  // namespace

const char* dtype_name(at::ScalarType type) {
  for (const DtypeName& d : kDtypes)
    if (d.type == type) return d.name;
  fail(ErrorKind::kInternal, "dtype {} has no safetensors name", at::toString(type));
}

uint64_t write_safetensors(Env* env, const std::string& path,
                           const std::vector<TensorEntry>& entries,
                           const std::function<at::Tensor(size_t)>& make,
                           const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header;
  if (!metadata.empty()) header["__metadata__"] = metadata;
  int64_t offset = 0;
  for (const TensorEntry& entry : entries) {
    const int64_t size = bytes_of(entry);
    header[entry.name] = {{"dtype", dtype_name(entry.dtype)},
                          {"shape", entry.shape},
                          {"data_offsets", {offset, offset + size}}};
    offset += size;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // the format wants the data aligned
  const uint64_t length = text.size();
  const std::string head = std::string(reinterpret_cast<const char*>(&length), 8) + text;

  const std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(XXH3_createState(),
                                                                       XXH3_freeState);
  XXH3_64bits_reset(state.get());
  const auto file = env->create(path);
  auto write = [&](const void* data, size_t size) {
    file->append(std::span(static_cast<const uint8_t*>(data), size));
    XXH3_64bits_update(state.get(), data, size);
  };
  write(head.data(), head.size());
  for (size_t i = 0; i < entries.size(); ++i) {
    const at::Tensor flat = make(i).cpu().contiguous();
    if (flat.sizes() != entries[i].shape || flat.scalar_type() != entries[i].dtype)
      fail(ErrorKind::kInternal, "{}: {} is not the tensor that the header announced", path,
           entries[i].name);
    if (flat.numel() > 0) write(flat.const_data_ptr(), flat.nbytes());
  }
  file->sync();
  return XXH3_64bits_digest(state.get());
}

uint64_t write_safetensors(Env* env, const std::string& path,
                           const std::vector<NamedTensor>& tensors,
                           const std::map<std::string, std::string>& metadata) {
  std::vector<TensorEntry> entries;
  for (const auto& [name, tensor] : tensors)
    entries.push_back({name, tensor.scalar_type(), tensor.sizes().vec()});
  return write_safetensors(
      env, path, entries, [&](size_t i) { return tensors[i].second; }, metadata);
}

SafetensorsReader::SafetensorsReader(Env* env, const std::string& path) : file_(env->open(path)) {
  auto damaged = [&](const std::string& what) {
    fail(ErrorKind::kData, "{}: not a good safetensors file ({})", path, what);
  };
  uint64_t length = 0;
  if (file_->size() < 8) damaged("shorter than 8 bytes");
  file_->read(0, {reinterpret_cast<uint8_t*>(&length), 8});
  if (length > uint64_t(file_->size()) - 8 || length > 100'000'000)
    damaged(fmt::format("its header claims {} bytes", length));
  std::string text(length, '\0');
  file_->read(8, {reinterpret_cast<uint8_t*>(text.data()), length});
  const auto header = parse_json(text, path);
  if (!header.is_object()) damaged("the header is not a JSON object");
  const int64_t data_start = 8 + int64_t(length), data_size = file_->size() - data_start;
  try {
    for (const auto& [name, value] : header.items()) {
      if (name == "__metadata__") {
        metadata_ = value.get<std::map<std::string, std::string>>();
        continue;
      }
      TensorEntry entry;
      entry.name = name;
      const std::string dtype = value.at("dtype");
      entry.shape = value.at("shape").get<std::vector<int64_t>>();
      const int64_t begin = value.at("data_offsets").at(0), end = value.at("data_offsets").at(1);
      const DtypeName* found = nullptr;
      for (const DtypeName& d : kDtypes)
        if (dtype == d.name) found = &d;
      if (found == nullptr)
        fail(ErrorKind::kData,
             "{}: {} has dtype {}, which Keiko does not read (F64, F32, F16, BF16, I64, I32, U8, "
             "BOOL)",
             path, name, dtype);
      entry.dtype = found->type;
      int64_t count = 1;
      for (int64_t d : entry.shape) {
        if (d < 0 || (d > 0 && count > (int64_t{1} << 40) / d))
          damaged(fmt::format("{} has an impossible shape", name));
        count *= d;
      }
      if (begin < 0 || end < begin || end > data_size || end - begin != bytes_of(entry))
        damaged(fmt::format("{} lies at bytes {} to {}, which do not fit its shape or the file",
                            name, begin, end));
      entry.offset = data_start + begin;
      entry.size = end - begin;
      entries_.push_back(std::move(entry));
    }
  } catch (const nlohmann::json::exception& e) {
    damaged(e.what());
  }
}

void read_numbers(const ReadableFile& file, const TensorEntry& entry, int64_t first,
                  at::Tensor into) {
  const int64_t size = int64_t(at::elementSize(entry.dtype)), count = into.numel();
  if (first < 0 || first + count > entry.size / size)
    fail(ErrorKind::kInternal, "{}: numbers {} to {} of {} are asked for, which has {}",
         file.path(), first, first + count, entry.name, entry.size / size);
  const auto read = [&](int64_t at, const at::Tensor& here) {
    if (here.numel() > 0)
      file.read(entry.offset + (first + at) * size,
                {static_cast<uint8_t*>(here.data_ptr()), size_t(here.nbytes())});
  };
  if (into.is_cpu() && into.scalar_type() == entry.dtype) return read(0, into);
  const c10::NoGradGuard no_grad;
  const at::Tensor flat = into.view({-1});
  const at::Tensor piece = at::empty({std::min(count, kPieceNumbers)}, entry.dtype);
  for (int64_t at = 0; at < count; at += kPieceNumbers) {
    const at::Tensor here = piece.narrow(0, 0, std::min(count - at, kPieceNumbers));
    read(at, here);
    flat.narrow(0, at, here.numel()).copy_(here);
  }
}

at::Tensor SafetensorsReader::read(const TensorEntry& entry) const {
  at::Tensor tensor = at::empty(entry.shape, entry.dtype);
  read(entry, 0, tensor);
  return tensor;
}

at::Tensor SafetensorsFile::get(const std::string& name) const {
  for (const auto& [n, tensor] : tensors)
    if (n == name) return tensor;
  fail(ErrorKind::kData, "{}: holds no tensor {}", path, name);
}

SafetensorsFile read_safetensors(Env* env, const std::string& path) {
  const SafetensorsReader reader(env, path);
  SafetensorsFile out;
  out.path = path;
  out.metadata = reader.metadata();
  for (const TensorEntry& entry : reader.entries())
    out.tensors.emplace_back(entry.name, reader.read(entry));
  return out;
}

}  // namespace keiko::model
