#include "model/flat_memory.h"

#include <ATen/ATen.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace keiko::model {
namespace {

constexpr size_t kWorthMapping = 1 << 20;  // bytes

struct Mapping {
  void* start;
  size_t bytes;
};

void unmap(void* context) {
  const auto* mapping = static_cast<Mapping*>(context);
  ::munmap(mapping->start, mapping->bytes);
  delete mapping;
}

}  // namespace

at::DataPtr map_memory(size_t bytes) {
  void* start = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (start == MAP_FAILED)
    fail(ErrorKind::kIo, "no memory for a vector of {} bytes of weights or gradients: {}", bytes,
         std::strerror(errno));
  ::madvise(start, bytes, MADV_HUGEPAGE);  // a hint; not every kernel takes it
  return {start, new Mapping{start, bytes}, unmap, at::kCPU};
}

at::Tensor flat_zeros(int64_t numbers, at::ScalarType dtype) {
  const size_t bytes = size_t(numbers) * at::elementSize(dtype);
  if (bytes < kWorthMapping) return at::zeros({numbers}, dtype);
  const at::Tensor vector = at::empty({0}, dtype);
  c10::StorageImpl* storage = vector.storage().unsafeGetStorageImpl();
  storage->set_data_ptr_noswap(map_memory(bytes));
  storage->set_nbytes(bytes);
  return at::empty({0}, dtype).set_(vector.storage(), 0, {numbers}, {1});
}

at::Tensor flat_zeros(int64_t numbers, at::ScalarType dtype, at::Device device) {
  return device.is_cpu() ? flat_zeros(numbers, dtype)
                         : at::zeros({numbers}, at::TensorOptions(dtype).device(device));
}

at::Tensor flat_zeros_like(const at::Tensor& vector) {
  return flat_zeros(vector.numel(), vector.scalar_type(), vector.device());
}

}  // namespace keiko::model
