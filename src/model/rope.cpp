#include "model/rope.h"

#include <ATen/ATen.h>

#include <cmath>

namespace keiko::model {

int64_t rope_channels(int64_t head_width) { return 2 * ((head_width / 3) / 2); }

at::Tensor rope_frequencies(int64_t head_width, const std::string& order) {
  const int64_t channels = rope_channels(head_width);
  if (order == "none" || channels == 0) return {};
  std::vector<double> frequencies;
  const int64_t half = channels / 2;
  for (int64_t j = 0; j < channels; ++j) {
    const int64_t index = order == "rope_interleaved" ? j / 2 : j % half;
    frequencies.push_back(std::pow(10000.0, -double(index) / double(half)));
  }
  return at::tensor(frequencies, at::kDouble);
}

Rotation make_rotation(const at::Tensor& ids, const at::Tensor& frequencies, int64_t side,
                       at::ScalarType dtype) {
  if (!frequencies.defined()) return {};
  const int64_t frame = side * side;
  const at::Tensor axes = at::stack(
      {ids.floor_divide(frame), ids.remainder(frame).floor_divide(side), ids.remainder(side)},
      -1);  // [B, N, 3]
  const at::Tensor angle =
      (axes.to(at::kDouble).unsqueeze(-1) * frequencies).flatten(2).unsqueeze(1);  // [B, 1, N, C]
  return {angle.cos().to(dtype), angle.sin().to(dtype)};
}

at::Tensor rotate(const at::Tensor& x, const Rotation& r) {
  if (!r.cos.defined()) return x;
  const int64_t turned = r.cos.size(-1), d = x.size(-1);
  const at::Tensor head = x.narrow(-1, 0, turned);
  const at::Tensor pairs = head.unflatten(-1, {turned / 2, 2});
  const at::Tensor swapped =
      at::stack({pairs.select(-1, 1).neg(), pairs.select(-1, 0)}, -1).flatten(-2);
  const at::Tensor out = (head * r.cos + swapped * r.sin).to(x.scalar_type());
  return turned == d ? out : at::cat({out, x.narrow(-1, turned, d - turned)}, -1);
}

}  // namespace keiko::model
