// For x86 CPUs with AVX-512.
#if defined(__x86_64__)
#include <immintrin.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prefer-vector-width=512"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prefer-vector-width=512")
#endif
#define MMSNN_ARCH avx512
#define MMSNN_X86
#define MMSNN_WIDE 16
#include "cpu_kernels.h"
#include "event_kernels.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
