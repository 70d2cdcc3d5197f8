// CUDA's words for a C++ compiler: kernels run on the CPU, so that their logic can be tested without a GPU. The threads
// of a block take turns: each runs until it waits at __syncthreads() or ends.
#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <vector>

struct Index { unsigned x, y, z; };
inline Index threadIdx, blockIdx, gridDim;
inline const char* refusal;

#define __global__
#define __device__
#define __shared__ static
#define __launch_bounds__(n)

inline unsigned float_bits(float f) {
  unsigned u;
  std::memcpy(&u, &f, 4);
  return u;
}

inline float bits_float(unsigned u) {
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}

inline float from_half(unsigned short bits) {
  _Float16 h;
  std::memcpy(&h, &bits, 2);
  return static_cast<float>(h);
}

inline unsigned short to_half(float f) {
  const _Float16 h = static_cast<_Float16>(f);
  unsigned short bits;
  std::memcpy(&bits, &h, 2);
  return bits;
}

#define MMSNN_FROM_HALF(to, bits) to = from_half(bits)
#define MMSNN_TO_HALF(bits, from) bits = to_half(from)
#define MMSNN_FLOAT_BITS(f) float_bits(f)
#define MMSNN_BITS_FLOAT(u) bits_float(u)
#define MMSNN_REFUSE(message) refusal = message

#define MMSNN_SAVE_4(to, a) save_words(to, {a})
#define MMSNN_SAVE_8(to, a, b) save_words(to, {a, b})
#define MMSNN_SAVE_16(to, a, b, c, d) save_words(to, {a, b, c, d})

inline void save_words(void* to, std::initializer_list<unsigned> words) {
  // as strict as the GPU
  if (reinterpret_cast<std::uintptr_t>(to) % (4 * words.size())) refusal = "misaligned store";
  std::memcpy(to, words.begin(), 4 * words.size());
}

// Threads ------------------------------------------------------------------------------------------------------------

struct Fiber {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(1 << 17);
  bool done;
};

inline ucontext_t scheduler;
inline Fiber* running;
inline const std::function<void()>* work;

inline void __syncthreads() { swapcontext(&running->context, &scheduler); }

inline void run_fiber() {
  (*work)();
  running->done = true;
}

inline void launch(unsigned threads, unsigned x, unsigned y, const std::function<void()>& kernel) {
  static std::vector<Fiber> fibers;
  fibers.resize(threads);
  work = &kernel;
  gridDim = {x, y, 1};
  refusal = nullptr;
  for (blockIdx.y = 0; blockIdx.y < y; ++blockIdx.y) {
    for (blockIdx.x = 0; blockIdx.x < x; ++blockIdx.x) {
      for (Fiber& fiber : fibers) {
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = fiber.stack.size();
        fiber.context.uc_link = &scheduler;
        makecontext(&fiber.context, run_fiber, 0);
        fiber.done = false;
      }
      for (bool left = true; left;) {
        left = false;
        for (unsigned i = 0; i < threads; ++i) {
          if (fibers[i].done) continue;
          running = &fibers[i];
          threadIdx = {i, 0, 0};
          swapcontext(&scheduler, &running->context);
          left |= !running->done;
        }
      }
    }
  }
}
