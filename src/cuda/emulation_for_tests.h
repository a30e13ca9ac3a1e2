// Kernels on the CPU, for tests on machines without a GPU: every thread of a block is a fiber, and
// a barrier is where it gives way to the next one.
//
// Indices, guards and barriers of a kernel are thereby run as they are written; races that need
// threads at the same time are not. Shared memory starts as NaN and has exactly the bytes of the
// launch, so that reading what nobody staged shows, and a sanitizer sees what lies outside. Include
// this before a .cuh file; never in a file that nvcc compiles.

#pragma once
#include <ucontext.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define KEIKO_DYNAMIC_SHARED(type, name) \
  type* name = reinterpret_cast<type*>(::keiko::cuda::emulation().shared)
#define KEIKO_SHARED(type, name) \
  type& name = *reinterpret_cast<type*>(::keiko::cuda::emulation().shared)

struct EmulatedDim {
  unsigned x = 1, y = 1, z = 1;
};
inline EmulatedDim threadIdx, blockIdx, blockDim, gridDim;

namespace keiko::cuda {

struct Emulation {
  uint8_t* shared = nullptr;
  const std::function<void()>* kernel = nullptr;
  ucontext_t scheduler{};
  ucontext_t* running = nullptr;
  bool* is_done = nullptr;  // of the running thread
};
inline Emulation& emulation() {
  static Emulation one;
  return one;
}

// What a fiber starts with; it returns to the scheduler for good.
inline void run_emulated_thread() {
  (*emulation().kernel)();
  *emulation().is_done = true;
}

constexpr size_t kFiberStack = 64 * 1024;

struct Fiber {
  ucontext_t context{};
  bool is_done = false;
};

inline void prepare_fiber(Fiber& fiber, uint8_t* stack) {
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = stack;
  fiber.context.uc_stack.ss_size = kFiberStack;
  fiber.context.uc_link = &emulation().scheduler;
  makecontext(&fiber.context, run_emulated_thread, 0);
}

// Runs `kernel` (a call of the kernel with its arguments) for every thread of every block.
inline void emulate(EmulatedDim grid, EmulatedDim block, size_t shared_bytes,
                    const std::function<void()>& kernel) {
  Emulation& e = emulation();
  e.kernel = &kernel;
  gridDim = grid;
  blockDim = block;
  const unsigned threads = block.x * block.y * block.z;
  std::vector<std::unique_ptr<uint8_t[]>> stacks;
  for (unsigned i = 0; i < threads; ++i) stacks.emplace_back(new uint8_t[kFiberStack]);
  for (unsigned b = 0; b < grid.x * grid.y * grid.z; ++b) {
    blockIdx = {b % grid.x, b / grid.x % grid.y, b / grid.x / grid.y};
    const std::unique_ptr<uint8_t[]> shared(new uint8_t[shared_bytes]);
    std::memset(shared.get(), 0xff, shared_bytes);
    e.shared = shared.get();
    std::vector<Fiber> fibers(threads);
    for (unsigned i = 0; i < threads; ++i) prepare_fiber(fibers[i], stacks[i].get());
    // Each round takes every thread to its next barrier, or to its end.
    for (bool any = true; any;) {
      any = false;
      for (unsigned i = 0; i < threads; ++i) {
        Fiber& fiber = fibers[i];
        if (fiber.is_done) continue;
        any = true;
        threadIdx = {i % block.x, i / block.x % block.y, i / block.x / block.y};
        e.running = &fiber.context;
        e.is_done = &fiber.is_done;
        swapcontext(&e.scheduler, &fiber.context);
      }
    }
  }
}

inline void emulated_barrier() {
  Emulation& e = emulation();
  swapcontext(e.running, &e.scheduler);
}

}  // namespace keiko::cuda

inline void __syncwarp() { keiko::cuda::emulated_barrier(); }
inline void __syncthreads() { keiko::cuda::emulated_barrier(); }
