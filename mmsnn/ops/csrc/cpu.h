// The builds of the CPU kernels, one for each instruction set.
#pragma once

#include "job.h"

namespace mmsnn {

constexpr i64 kBlock = 128;  // elements of one time step that are worked on at a time; their rows stay in cache

// Each works on blocks [begin, end) of the ceil(N / kBlock) there are.
template <typename F>
struct Kernels {
  void (*forward)(const Job<F>&, i64 begin, i64 end);
  void (*backward)(const Job<F>&, i64 begin, i64 end);  // with sums: adds to them instead of writing out
  void (*moments)(const Job<F>&, i64 begin, i64 end);
};

#define MMSNN_DECLARE(arch)                                                             \
  namespace arch {                                                                      \
  template <typename F>                                                                 \
  const Kernels<F>& kernels();                                                          \
  const char* pack(const void* x, int type, i64 n, int bits, unsigned char* out);       \
  void unpack(const unsigned char* packed, i64 n, int bits, void* out, int type);       \
  }
MMSNN_DECLARE(baseline)
MMSNN_DECLARE(avx2)
MMSNN_DECLARE(avx512)
#undef MMSNN_DECLARE

}  // namespace mmsnn
