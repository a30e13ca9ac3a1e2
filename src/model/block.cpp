#include "model/block.h"

#include <ATen/ATen.h>

#include "model/attention.h"
#include "model/linear.h"

namespace keiko::model {

const BlockNames kVideoMaeNames = {".layernorm_before",
                                   ".layernorm_after",
                                   ".attention.attention.qkv",
                                   ".attention.attention.query.weight",
                                   ".attention.attention.key.weight",
                                   ".attention.attention.value.weight",
                                   ".attention.attention.q_bias",
                                   "",
                                   ".attention.attention.v_bias",
                                   ".attention.output.dense",
                                   ".intermediate.dense",
                                   ".output.dense"};
const BlockNames kVJepa2Names = {".norm1",
                                 ".norm2",
                                 ".attention.qkv",
                                 ".attention.query.weight",
                                 ".attention.key.weight",
                                 ".attention.value.weight",
                                 ".attention.query.bias",
                                 ".attention.key.bias",
                                 ".attention.value.bias",
                                 ".attention.proj",
                                 ".mlp.fc1",
                                 ".mlp.fc2"};
const BlockNames kPoolerNames = {".layer_norm1",
                                 ".layer_norm2",
                                 ".self_attn.qkv",
                                 ".self_attn.q_proj.weight",
                                 ".self_attn.k_proj.weight",
                                 ".self_attn.v_proj.weight",
                                 ".self_attn.q_proj.bias",
                                 ".self_attn.k_proj.bias",
                                 ".self_attn.v_proj.bias",
                                 ".self_attn.out_proj",
                                 ".mlp.fc1",
                                 ".mlp.fc2"};

at::Tensor mlp(const Linear& fc1, const Linear& fc2, bool tanh_gelu, const at::Tensor& x) {
  return fc2.forward(at::gelu(fc1.forward(x), tanh_gelu ? "tanh" : "none"));
}

at::Tensor Block::forward(const at::Tensor& x, const at::Tensor& keep, const Rotation& rotation,
                          int64_t first) const {
  const int64_t b = x.size(0), n = x.size(1), d = x.size(2);
  const auto branch = [&](const at::Tensor& y, int64_t which) {
    return keep.defined() ? y * keep.select(0, which).to(y.scalar_type()).view({b, 1, 1}) : y;
  };
  at::Tensor bias = qkv_bias;
  if (q_bias.defined()) bias = at::cat({q_bias, at::zeros_like(q_bias), v_bias});
  const at::Tensor normed = before.forward(x);
  const at::Tensor qkv = apply_linear(normed, qkv_weight, bias).view({b, n, 3, heads, d / heads});
  at::Tensor attended;
  if (rotation.cos.defined()) {
    const auto rotated = [&](int64_t part) {
      return rotate(qkv.select(2, part).transpose(1, 2), rotation).transpose(1, 2);
    };
    attended = attend(rotated(0).slice(1, first), rotated(1), qkv.select(2, 2));
  } else {
    attended = attend(qkv, first);
  }
  const at::Tensor y = (first > 0 ? x.slice(1, first) : x) + branch(out.forward(attended), 0);
  return y + branch(mlp(fc1, fc2, tanh_gelu, after.forward(y)), 1);
}

BlockShape shape_of_blocks(const VitOptions& o, int64_t width, int64_t mlp_width, int64_t heads) {
  BlockShape shape;
  shape.width = width;
  shape.mlp_width = mlp_width;
  shape.heads = heads;
  shape.eps = o.layer_norm_eps;
  shape.tanh_gelu = o.tanh_gelu;
  return shape;
}

Block declare_block(Parameters& parameters, const std::string& prefix, int index,
                    const BlockNames& names, const BlockShape& s) {
  const size_t first = parameters.all().size();
  Block block;
  block.heads = s.heads;
  block.tanh_gelu = s.tanh_gelu;
  block.before = declare_norm(parameters, prefix + names.before, index, s.width, s.eps);
  ParameterSpec qkv;
  qkv.name = prefix + names.qkv + ".weight";
  qkv.shape = {3 * s.width, s.width};
  qkv.block = index;
  qkv.init = s.init;
  qkv.scale = s.scale;
  qkv.parts = {prefix + names.query, prefix + names.key, prefix + names.value};
  block.qkv_weight = parameters.declare(qkv);
  if (s.bias == AttentionBias::kQueryValue) {
    block.q_bias =
        parameters.declare({prefix + names.q_bias, {s.width}, index, false, Init::kZeros});
    block.v_bias =
        parameters.declare({prefix + names.v_bias, {s.width}, index, false, Init::kZeros});
  } else if (s.bias == AttentionBias::kAll) {
    block.qkv_bias =
        parameters.declare({prefix + names.qkv + ".bias",
                            {3 * s.width},
                            index,
                            false,
                            Init::kZeros,
                            0,
                            {prefix + names.q_bias, prefix + names.k_bias, prefix + names.v_bias}});
  }
  block.out = declare_linear(parameters, prefix + names.out, index, s.width, s.width, s.init,
                             s.residual_scale);
  block.after = declare_norm(parameters, prefix + names.after, index, s.width, s.eps);
  block.fc1 =
      declare_linear(parameters, prefix + names.fc1, index, s.width, s.mlp_width, s.init, s.scale);
  block.fc2 = declare_linear(parameters, prefix + names.fc2, index, s.mlp_width, s.width, s.init,
                             s.residual_scale);
  parameters.mark_inside(first);
  return block;
}

}  // namespace keiko::model
