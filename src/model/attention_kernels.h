// Attention of one head in float32: the arithmetic alone, on plain memory, for processors with wide
// vectors.
//
// softmax(scale * q k^T) v is computed in blocks that stay in the caches, and its gradient from the
// same blocks again: no matrix of scores is ever kept. Scores stand transposed, keys down and 64
// queries across, so that every product reads its operands in order and the softmax needs no sums
// across a vector. Numbers are added in an order that depends on the sizes alone.

#pragma once
#include <cstdint>

namespace keiko::model {

// One head of one clip. Pointers to the first token's first channel; `*_step`: floats from a token
// to the next. Channels are neighbours in memory.
struct AttentionHead {
  int64_t queries = 0, keys = 0, width = 0;
  float scale = 1;
  const float *q = nullptr, *k = nullptr, *v = nullptr;
  int64_t q_step = 0, k_step = 0, v_step = 0;
  float* out = nullptr;  // written by forward, read by backward
  int64_t out_step = 0;
  float* log_sum = nullptr;  // [queries], base-2 logarithm of the softmax's divisor; as `out`
  // For backward alone: the gradient of `out`, and where those of q, k and v are written.
  const float* out_grad = nullptr;
  int64_t out_grad_step = 0;
  float *q_grad = nullptr, *k_grad = nullptr, *v_grad = nullptr;
  int64_t q_grad_step = 0, k_grad_step = 0, v_grad_step = 0;
};

struct AttentionKernels {
  const char* name;
  // Floats of scratch memory, aligned to 64 bytes, that a call needs.
  int64_t (*forward_scratch)(int64_t queries, int64_t keys, int64_t width);
  int64_t (*backward_scratch)(int64_t queries, int64_t keys, int64_t width);
  void (*forward)(const AttentionHead& head, float* scratch);
  void (*backward)(const AttentionHead& head, float* scratch);
};

// Null when the compiler cannot make them. Call only what the processor has.
extern const AttentionKernels* const kAvx2Attention;    // AVX2 and FMA
extern const AttentionKernels* const kAvx512Attention;  // AVX-512F

// The best that this processor runs; null when it has neither.
const AttentionKernels* attention_kernels();

}  // namespace keiko::model
