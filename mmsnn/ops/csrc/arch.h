// Which build of the CPU kernels serves: that for the best instruction set that this CPU has.
#pragma once

#include <cstdlib>
#include <string>

namespace mmsnn {

enum Arch { kBaseline, kAvx2, kAvx512 };
inline constexpr const char* kArchNames[] = {"baseline", "avx2", "avx512"};

inline Arch choose_arch() {
  int best = kBaseline;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) best = kAvx2;
  if (best == kAvx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    best = kAvx512;
#endif
  // a lesser one than the best may be asked for
  const char* wish = std::getenv("MMSNN_CPU");
  for (int arch = 0; wish && arch < best; ++arch)
    if (std::string(wish) == kArchNames[arch]) return static_cast<Arch>(arch);
  return static_cast<Arch>(best);
}

inline Arch arch() {
  static const Arch chosen = choose_arch();
  return chosen;
}

#if defined(__x86_64__)
#define MMSNN_FOR_ARCH(what) (arch() == kAvx512 ? avx512::what : arch() == kAvx2 ? avx2::what : baseline::what)
#else
#define MMSNN_FOR_ARCH(what) baseline::what
#endif

}  // namespace mmsnn
