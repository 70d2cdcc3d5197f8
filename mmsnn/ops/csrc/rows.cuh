// Rows of V neighbouring neurons, as a thread of the CUDA kernels holds them: loaded and saved, charged, fired and reset,
// and gone back through. Includes nothing but job.h, so that NVRTC can compile it; for the same reason 16-bit numbers are
// converted here.
#pragma once

#include "job.h"

#ifndef MMSNN_FROM_HALF
#define MMSNN_FROM_HALF(to, bits) asm("cvt.f32.f16 %0, %1;" : "=f"(to) : "h"(bits))
#define MMSNN_TO_HALF(bits, from) asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(from))
#define MMSNN_FLOAT_BITS(f) __float_as_uint(f)
#define MMSNN_BITS_FLOAT(u) __uint_as_float(u)
// one store each: left to itself the compiler splits them
#define MMSNN_SAVE_4(to, a) asm volatile("st.global.b32 [%0], %1;" ::"l"(to), "r"(a) : "memory")
#define MMSNN_SAVE_8(to, a, b) asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(to), "r"(a), "r"(b) : "memory")
#define MMSNN_SAVE_16(to, a, b, c, d) \
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(a), "r"(b), "r"(c), "r"(d) : "memory")
// what a failing assert() calls, whatever NDEBUG says
#ifdef __CUDACC_RTC__
#define MMSNN_REFUSE(message) __assertfail(message, "kernels.cuh", __LINE__, "pack", 1)
#else
#define MMSNN_REFUSE(message) __assert_fail(message, "kernels.cuh", __LINE__, "pack")
#endif
#endif

namespace mmsnn {

constexpr int kThreads = 128;  // of a block
constexpr int kSteps = 16;     // steps whose charges are kept while going backwards where T is no template parameter
constexpr int kAnyFire = -1;   // as a template parameter: asked at run time, and steps stay a loop

// Storage ------------------------------------------------------------------------------------------------------------

struct Half { unsigned short bits; };
struct BFloat16 { unsigned short bits; };

MMSNN_FN float widen(float x) { return x; }
MMSNN_FN double widen(double x) { return x; }

MMSNN_FN float widen(Half x) {
  float f;
  MMSNN_FROM_HALF(f, x.bits);
  return f;
}

MMSNN_FN float widen(BFloat16 x) { return MMSNN_BITS_FLOAT(static_cast<unsigned>(x.bits) << 16); }

MMSNN_FN void narrow(float x, float& out) { out = x; }
MMSNN_FN void narrow(double x, double& out) { out = x; }
MMSNN_FN void narrow(float x, Half& out) { MMSNN_TO_HALF(out.bits, x); }

MMSNN_FN void narrow(float x, BFloat16& out) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out.bits) : "f"(x));
#else
  const unsigned u = MMSNN_FLOAT_BITS(x);
  out.bits = static_cast<unsigned short>(x != x ? 0x7fc0u : (u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
#endif
}

// V numbers in a row, as memory moves them
template <typename S, int V>
struct alignas(V * sizeof(S) < 16 ? V * sizeof(S) : 16) Row {
  S at[V];
};

#define EACH _Pragma("unroll") for (int j = 0; j < V; ++j)

template <int V, typename S>
MMSNN_FN Row<S, V> load(const void* from, i64 i) {
  return *reinterpret_cast<const Row<S, V>*>(static_cast<const S*>(from) + i);
}

template <typename S, int V>
MMSNN_FN void save(const Row<S, V>& row, void* to, i64 i) {
  constexpr int bytes = V * sizeof(S);
  S* out = static_cast<S*>(to) + i;
  if constexpr (bytes < 4) {
    *reinterpret_cast<Row<S, V>*>(out) = row;
  } else {
    const union {
      Row<S, V> row;
      unsigned word[bytes / 4];
    } all = {row};
    const unsigned* w = all.word;
    char* p = reinterpret_cast<char*>(out);
    if constexpr (bytes == 4) {
      MMSNN_SAVE_4(p, w[0]);
    } else if constexpr (bytes == 8) {
      MMSNN_SAVE_8(p, w[0], w[1]);
    } else {
      _Pragma("unroll") for (int k = 0; k < bytes / 4; k += 4) {
        MMSNN_SAVE_16(p + 4 * k, w[k], w[k + 1], w[k + 2], w[k + 3]);
      }
    }
  }
}

template <int V, typename F>
MMSNN_FN void load_row(F* row, const F* from, i64 i) {
  const Row<F, V> in = load<V, F>(from, i);
  EACH row[j] = in.at[j];
}

template <typename S, int V, typename F>
MMSNN_FN void save_row(const F* row, void* to, i64 i) {
  Row<S, V> out;
  EACH narrow(row[j], out.at[j]);
  save(out, to, i);
}

// Sums over the threads of a block with equal threadIdx.x % width; thread i < width gets the i-th. Always added in the
// same order.
MMSNN_FN double block_sum(double value, int width) {
  __shared__ double sums[kThreads];
  const int i = threadIdx.x;
  sums[i] = value;
  __syncthreads();
  for (int half = kThreads / 2; half >= width; half /= 2) {
    if (i < half) sums[i] += sums[i + half];
    __syncthreads();
  }
  const double sum = sums[i];
  // before the next one overwrites it
  __syncthreads();
  return sum;
}

// The recurrence, a row at a time --------------------------------------------------------------------------------------

template <typename F>
MMSNN_FN Neuron<F> neuron_of(const Job<F>& job) {
  Neuron<F> n = job.neuron;
  if (job.tau) n.rate = F(1) / *job.tau;
  return n;
}

template <int V, typename F>
MMSNN_FN void charge_row(F* h, const F* v, const F* x, const Neuron<F>& n) {
  if (n.leak == kDecayInput) {
    EACH h[j] = charge<kDecayInput>(v[j], x[j], n);
  } else if (n.leak == kKeepInput) {
    EACH h[j] = charge<kKeepInput>(v[j], x[j], n);
  } else {
    EACH h[j] = charge<kNoLeak>(v[j], x[j], n);
  }
}

template <int fire, int V, typename F>
MMSNN_FN void spike_row(F* s, const F* h, const Neuron<F>& n) {
  if (fire == kBinary || (fire == kAnyFire && n.fire == kBinary)) {
    EACH s[j] = spike<kBinary>(h[j], n);
  } else if (fire == kLevels || n.fire == kLevels) {
    EACH s[j] = spike<kLevels>(h[j], n);
  } else {
    EACH s[j] = spike<kSmooth>(h[j], n);
  }
}

// The surrogate is asked once a row, from the first to the last.
template <int V, int surrogate = 0, typename F>
MMSNN_FN void surrogate_row(F* slope, const F* u, const Neuron<F>& n) {
  if constexpr (surrogate + 1 < kSurrogates) {
    if (n.surrogate != surrogate) return surrogate_row<V, surrogate + 1>(slope, u, n);
  }
  EACH slope[j] = surrogate_slope<surrogate>(u[j], n.alpha);
}

// spike_slope, with one loop over the levels for the row: far less code
template <int fire, int V, typename F>
MMSNN_FN void slope_row(F* slope, const F* h, const Neuron<F>& n) {
  F u[V], part[V];
  if (fire == kBinary || (fire == kAnyFire && n.fire != kLevels)) {
    EACH u[j] = h[j] - n.v_threshold;
    surrogate_row<V>(slope, u, n);
  } else if (n.surrogate == kRectangle && n.alpha == F(1)) {
    EACH slope[j] = spike_slope<kLevels, kRectangle>(h[j], n);
  } else {
    EACH slope[j] = F(0);
    for (int k = 0; k < n.levels; ++k) {
      EACH u[j] = h[j] / n.v_threshold - (F(k) + F(0.5));
      surrogate_row<V>(part, u, n);
      EACH slope[j] += part[j];
    }
    EACH slope[j] = slope[j] / n.v_threshold;
  }
}

template <int V, typename F>
MMSNN_FN void reset_row(F* v, const F* h, const F* s, const Neuron<F>& n) {
  if (n.reset == kHard) {
    EACH v[j] = after_reset<kHard>(h[j], s[j], n);
  } else {
    EACH v[j] = after_reset<kSoft>(h[j], s[j], n);
  }
}

// grad_v becomes d loss / d charge
template <int V, typename F>
MMSNN_FN void gradient_row(F* grad_v, const F* grad_s, const F* h, const F* s, const F* slope, const Neuron<F>& n) {
  if (n.reset == kHard && n.detach_reset) {
    EACH grad_v[j] = charge_gradient<kHard, true>(grad_s[j], grad_v[j], h[j], s[j], slope[j], n);
  } else if (n.reset == kHard) {
    EACH grad_v[j] = charge_gradient<kHard, false>(grad_s[j], grad_v[j], h[j], s[j], slope[j], n);
  } else if (n.detach_reset) {
    EACH grad_v[j] = charge_gradient<kSoft, true>(grad_s[j], grad_v[j], h[j], s[j], slope[j], n);
  } else {
    EACH grad_v[j] = charge_gradient<kSoft, false>(grad_s[j], grad_v[j], h[j], s[j], slope[j], n);
  }
}

// ... and then the gradient of the earlier potential
template <int V, typename F>
MMSNN_FN void back_row(F* grad_x, F* grad_v, const Neuron<F>& n) {
  if (n.leak == kDecayInput) {
    EACH grad_x[j] = input_gradient<kDecayInput>(grad_v[j], n);
    EACH grad_v[j] = potential_gradient<kDecayInput>(grad_v[j], n);
  } else {
    EACH grad_x[j] = grad_v[j];
    if (n.leak == kKeepInput) EACH grad_v[j] = potential_gradient<kKeepInput>(grad_v[j], n);
  }
}

// d loss / d rate, from d loss / d charge
template <int V, typename F>
MMSNN_FN double rate_row(const F* grad_h, const F* v, const F* x, const Neuron<F>& n) {
  double sum = 0;
  if (n.leak == kDecayInput) {
    EACH sum += double(grad_h[j]) * charge_slope<kDecayInput>(v[j], x[j], n);
  } else {
    EACH sum += double(grad_h[j]) * charge_slope<kKeepInput>(v[j], x[j], n);
  }
  return sum;
}

// Batch norm in front ------------------------------------------------------------------------------------------------

MMSNN_FN float affine(float x, float scale, float shift) { return fmaf(scale, x, shift); }
MMSNN_FN double affine(double x, double scale, double shift) { return fma(scale, x, shift); }

// Calls take(j, channel of element i + j). I is as narrow as N allows: long divisions cost hundreds of instructions.
template <int V, typename I, typename F, typename Take>
MMSNN_FN void channels_of(const Job<F>& job, I i, Take take) {
  const I inner = static_cast<I>(job.inner), channels = static_cast<I>(job.channels);
  const I run = inner == 1 ? i : i / inner;
  I c = run % channels, k = i - run * inner;
  EACH {
    take(j, c);
    if (++k == inner) {
      k = 0;
      if (++c == channels) c = 0;
    }
  }
}

template <bool norm, int V, typename F>
struct Norm {
  F scale[V], shift[V];

  MMSNN_METHOD void read(const Job<F>& job, i64 i) {
    const auto take = [&](int j, i64 c) {
      scale[j] = job.scale[c];
      shift[j] = job.shift[c];
    };
    if (job.N < 0x100000000) channels_of<V, unsigned>(job, static_cast<unsigned>(i), take);
    else channels_of<V, i64>(job, i, take);
  }

  template <typename S>
  MMSNN_METHOD void apply(F* y, const Row<S, V>& x) const {
    EACH y[j] = affine(widen(x.at[j]), scale[j], shift[j]);
  }
};

template <int V, typename F>
struct Norm<false, V, F> {
  MMSNN_METHOD void read(const Job<F>&, i64) {}

  template <typename S>
  MMSNN_METHOD void apply(F* y, const Row<S, V>& x) const {
    EACH y[j] = widen(x.at[j]);
  }
};

}  // namespace mmsnn
