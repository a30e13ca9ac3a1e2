#include "model/attentive_pooler.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include "model/attention.h"

namespace keiko::model {

AttentivePooler::AttentivePooler(Parameters& parameters, const std::string& prefix, int first_block,
                                 int64_t width, const PoolerOptions& o)
    : first_block_(first_block), heads_(o.heads), tanh_gelu_(o.tanh_gelu) {
  BlockShape shape;
  shape.width = width;
  shape.mlp_width = 4 * width;
  shape.heads = o.heads;
  shape.eps = o.eps;
  shape.tanh_gelu = o.tanh_gelu;
  for (int64_t i = 0; i < o.depth; ++i)
    blocks_.push_back(declare_block(parameters,
                                    fmt::format("{}.self_attention_layers.{}", prefix, i),
                                    first_block + int(i), kPoolerNames, shape));
  const int last = first_block + int(o.depth);
  const size_t first = parameters.all().size();
  query_ = parameters.declare(
      {prefix + ".query_tokens", {1, 1, width}, last, false, Init::kTruncNormal});
  const std::string cross = prefix + ".cross_attention_layer";
  const auto linear = [&](const std::string& name, int64_t in, int64_t out) {
    return declare_linear(parameters, cross + name, last, in, out, Init::kTruncNormal, 0.02);
  };
  before_ = declare_norm(parameters, cross + ".layer_norm1", last, width, o.eps);
  q_ = linear(".cross_attn.q_proj", width, width);
  const std::string key = cross + ".cross_attn.k_proj", value = cross + ".cross_attn.v_proj";
  kv_.weight = parameters.declare({cross + ".kv.weight",
                                   {2 * width, width},
                                   last,
                                   true,
                                   Init::kTruncNormal,
                                   0.02,
                                   {key + ".weight", value + ".weight"}});
  kv_.bias = parameters.declare({cross + ".kv.bias",
                                 {2 * width},
                                 last,
                                 false,
                                 Init::kZeros,
                                 0,
                                 {key + ".bias", value + ".bias"}});
  after_ = declare_norm(parameters, cross + ".layer_norm2", last, width, o.eps);
  fc1_ = linear(".mlp.fc1", width, 4 * width);
  fc2_ = linear(".mlp.fc2", 4 * width, width);
  parameters.mark_inside(first);
}

at::Tensor AttentivePooler::forward(const at::Tensor& tokens, const BlockRunner& runner) const {
  at::Tensor x = tokens;
  for (size_t i = 0; i < blocks_.size(); ++i)
    x = runner.run(
        first_block_ + int(i),
        [this, i](const at::Tensor& in) { return blocks_[i].forward(in, {}, {}); }, x);
  return runner.run(
      last_block(),
      [this](const at::Tensor& in) {
        const int64_t b = in.size(0), n = in.size(1), d = in.size(2);
        const at::Tensor query = query_.to(in.scalar_type()).expand({b, 1, d});
        const at::Tensor kv = kv_.forward(before_.forward(in)).view({b, n, 2, heads_, d / heads_});
        const at::Tensor attended = attend(q_.forward(query).view({b, 1, heads_, d / heads_}),
                                           kv.select(2, 0), kv.select(2, 1));
        const at::Tensor y = query + attended;
        return (y + mlp(fc1_, fc2_, tanh_gelu_, after_.forward(y))).select(1, 0);
      },
      x);
}

}  // namespace keiko::model
