// For x86 CPUs with AVX2. The pragma instead of compiler flags, so that the build needs no rule a file.
#if defined(__x86_64__)
#include <immintrin.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif
#define MMSNN_ARCH avx2
#define MMSNN_X86
#define MMSNN_WIDE 8
#include "cpu_kernels.h"
#include "event_kernels.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
