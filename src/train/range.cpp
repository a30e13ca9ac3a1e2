#include "train/range.h"

#include <ATen/core/Tensor.h>
#include <fmt/format.h>

#include "cuda/ranges.h"

namespace keiko::train {

Range::Range(const std::string& name) : record_(at::RecordScope::USER_SCOPE) {
  cuda::open_range(name.c_str());
  if (record_.isActive()) record_.before(std::string_view(name));
}

Range::~Range() { cuda::close_range(); }

// The range goes around the block itself: what runs it may run it again later.
at::Tensor NamingRunner::run(int index, const Forward& forward, const at::Tensor& input) const {
  const Forward named = [forward, index](const at::Tensor& x) {
    const Range range(fmt::format("block {:02}", index));
    return forward(x);
  };
  return inner_.run(index, named, input);
}

}  // namespace keiko::train
