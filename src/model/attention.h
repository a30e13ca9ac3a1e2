// Softmax attention: Keiko's own kernels where they apply, ATen's elsewhere.
//
// On the CPU in float32 both passes run in model/attention_kernels.h, which reads queries, keys and
// values where the product that made them left them, and writes their gradients into one tensor of
// that layout: nothing is copied between layouts. Any other dtype goes through ATen, and so does
// any other device: on CUDA in bf16 that is FlashAttention.

#pragma once
#include <ATen/core/Tensor.h>

namespace keiko::model {

// `qkv` [B, N, 3, heads, D]: queries, keys and values of every token. Returns [B, N - first, heads
// * D]: softmax(q k^T / sqrt(D)) v for the queries from token `first` on; earlier tokens are only
// attended to. Differentiable once. The same bits for any number of threads.
at::Tensor attend(const at::Tensor& qkv, int64_t first = 0);

// The same with queries [B, M, heads, D] and keys and values [B, N, heads, D] apart (after a
// rotation, or from other tokens). Channels must be neighbours in memory. Returns [B, M, heads *
// D].
at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);

// What attend() does where it has no kernel: ATen's scaled_dot_product_attention on views [B,
// heads, N, D], on any device.
at::Tensor attend_in_aten(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);

}  // namespace keiko::model
