// The CUDA kernels, as device functions; ops_cuda.cu and mmsnn/ops/nvrtc.py wrap and launch them. Includes nothing
// but job.h, so that NVRTC can compile it; for the same reason 16-bit numbers are converted here.
//
// A thread works on V neighbouring neurons over all T steps. Memory sees x once forwards, and x, the spikes' gradient
// and x's gradient once backwards: everything else stays in registers, for which arrays need indices known to the
// compiler, hence the unrolled loops. Settings of the neuron are asked once a row of V, alike in all threads.
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

// How `reduce` walks over x [rows / runs, columns, runs, V]: a block takes `width` columns and a share of the rows.
struct Walk {
  i64 columns, runs, rows;
  int width;  // a power of two, at most kThreads
};

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

template <int V, typename F>
MMSNN_FN void surrogate_row(F* slope, const F* u, const Neuron<F>& n) {
  if (n.surrogate == kAtan) {
    EACH slope[j] = surrogate_slope<kAtan>(u[j], n.alpha);
  } else if (n.surrogate == kSigmoid) {
    EACH slope[j] = surrogate_slope<kSigmoid>(u[j], n.alpha);
  } else if (n.surrogate == kTriangle) {
    EACH slope[j] = surrogate_slope<kTriangle>(u[j], n.alpha);
  } else {
    EACH slope[j] = surrogate_slope<kRectangle>(u[j], n.alpha);
  }
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

// Forwards -----------------------------------------------------------------------------------------------------------

template <int V, typename F>
MMSNN_FN void first_row(F* v, const Job<F>& job, i64 i) {
  if (job.v_init) load_row<V>(v, job.v_init, i);
  else EACH v[j] = job.neuron.v_rest;
}

// The steps t of a chunk: all, or those before `kept`.
#define MMSNN_STEPS _Pragma("unroll unrolled") for (int t = 0; t < steps; ++t) if (kT || t < kept)

// Steps t0 .. of x, all asked for before any is used.
template <int kT, int fire, int V, typename S, typename F>
MMSNN_FN void load_steps(Row<S, V>* x, const void* from, const Job<F>& job, i64 t0, int kept, i64 i) {
  constexpr int steps = kT ? kT : kSteps, unrolled = fire == kAnyFire ? 1 : steps;
  MMSNN_STEPS x[t] = load<V, S>(from, (t0 + t) * job.N + i);
}

// kT: T, or 0 where it is known at run time only. N is a multiple of V.
template <typename S, int kT, int V, int fire, bool norm, typename F>
MMSNN_FN void forward(const Job<F>& job) {
  constexpr int steps = kT ? kT : kSteps, unrolled = fire == kAnyFire ? 1 : steps;
  const i64 i = (static_cast<i64>(blockIdx.x) * kThreads + threadIdx.x) * V, T = kT ? kT : job.T;
  if (i >= job.N) return;
  const Neuron<F> n = neuron_of(job);
  Norm<norm, V, F> front;
  front.read(job, i);
  F v[V];
  first_row<V>(v, job, i);
  for (i64 t0 = 0; t0 < T; t0 += steps) {
    const int kept = T - t0 < steps ? static_cast<int>(T - t0) : steps;
    Row<S, V> x[steps];
    load_steps<kT, fire>(x, job.x, job, t0, kept, i);
    MMSNN_STEPS {
      F y[V], h[V], s[V];
      front.apply(y, x[t]);
      charge_row<V>(h, v, y, n);
      spike_row<fire, V>(s, h, n);
      reset_row<V>(v, h, s, n);
      save_row<S, V>(s, job.out, (t0 + t) * job.N + i);
    }
  }
  if (job.v_last) save_row<F, V>(v, job.v_last, i);
}

// Backwards ----------------------------------------------------------------------------------------------------------

// Hands the gradient of what the neurons i, i + 1 .. saw to give(t, x, gradient), last step first. Returns their part
// of d loss / d rate, if that is asked for.
template <typename S, int kT, int V, int fire, bool norm, typename F, typename Give>
MMSNN_FN double go_back(const Job<F>& job, const Neuron<F>& n, const Norm<norm, V, F>& front, i64 i, Give give) {
  constexpr int steps = kT ? kT : kSteps, unrolled = fire == kAnyFire ? 1 : steps;
  const i64 T = kT ? kT : job.T, last = kT ? 0 : (T - 1) / steps * steps;
  F start[V], v[V], y[V], s[V], grad_v[V];
  Row<S, V> x[steps], grad_s[steps];
  if (!kT && last) {
    // potentials before later chunks of steps; this thread will read them again
    first_row<V>(v, job, i);
    for (i64 t0 = 0; t0 < last; t0 += steps) {
      const int kept = steps;
      load_steps<kT, fire>(x, job.x, job, t0, kept, i);
      MMSNN_STEPS {
        F h[V];
        front.apply(y, x[t]);
        charge_row<V>(h, v, y, n);
        spike_row<fire, V>(s, h, n);
        reset_row<V>(v, h, s, n);
      }
      save_row<F, V>(v, job.starts, t0 / steps * job.N + i);
    }
  }
  EACH grad_v[j] = F(0);
  if (job.grad_v) load_row<V>(grad_v, job.grad_v, i);
  double rate = 0;
  for (i64 t0 = last; t0 >= 0; t0 -= steps) {
    const int kept = T - t0 < steps ? static_cast<int>(T - t0) : steps;
    load_steps<kT, fire>(x, job.x, job, t0, kept, i);
    load_steps<kT, fire>(grad_s, job.grad_s, job, t0, kept, i);
    if (kT || t0 == 0) first_row<V>(start, job, i);
    else load_row<V>(start, job.starts, (t0 / steps - 1) * job.N + i);
    F h[steps][V];
    EACH v[j] = start[j];
    MMSNN_STEPS {
      front.apply(y, x[t]);
      charge_row<V>(h[t], v, y, n);
      spike_row<fire, V>(s, h[t], n);
      reset_row<V>(v, h[t], s, n);
    }
    _Pragma("unroll unrolled") for (int t = steps - 1; t >= 0; --t) {
      if (!kT && t >= kept) continue;
      F slope[V], grad[V];
      spike_row<fire, V>(s, h[t], n);
      slope_row<fire, V>(slope, h[t], n);
      EACH grad[j] = widen(grad_s[t].at[j]);
      gradient_row<V>(grad_v, grad, h[t], s, slope, n);
      if (job.grad_rate) {
        const F* before = start;
        if (t > 0) {
          spike_row<fire, V>(s, h[t - (t > 0)], n);
          reset_row<V>(v, h[t - (t > 0)], s, n);
          before = v;
        }
        front.apply(y, x[t]);
        rate += rate_row<V>(grad_v, before, y, n);
      }
      back_row<V>(grad, grad_v, n);
      give(t0 + t, x[t], grad);
    }
  }
  if (job.grad_v_init) save_row<F, V>(grad_v, job.grad_v_init, i);
  return rate;
}

template <typename S, int kT, int V, int fire, bool norm, typename F>
MMSNN_FN void backward(const Job<F>& job) {
  const i64 i = (static_cast<i64>(blockIdx.x) * kThreads + threadIdx.x) * V;
  double rate = 0;
  if (i < job.N) {
    const Neuron<F> n = neuron_of(job);
    Norm<norm, V, F> front;
    front.read(job, i);
    F mean[V], offset[V], slope[V];
    if constexpr (norm) {
      const auto take = [&](int j, i64 c) {
        mean[j] = job.mean[c];
        offset[j] = job.offset[c];
        slope[j] = job.slope[c];
      };
      if (job.N < 0x100000000) channels_of<V, unsigned>(job, static_cast<unsigned>(i), take);
      else channels_of<V, i64>(job, i, take);
    }
    rate = go_back<S, kT, V, fire, norm>(job, n, front, i, [&](i64 t, const Row<S, V>& x, F* grad) {
      if constexpr (norm) {
        EACH grad[j] = front.scale[j] * grad[j] - offset[j] - slope[j] * (widen(x.at[j]) - mean[j]);
      }
      save_row<S, V>(grad, job.out, t * job.N + i);
    });
  }
  if (job.grad_rate) {
    rate = block_sum(rate, 1);
    if (threadIdx.x == 0) job.grad_rate[blockIdx.x] = rate;
  }
}

// Sums [gridDim.y, 2, channels] of the gradient g of what the neuron sees, and of g * (x - mean). A thread keeps its
// channels: one where a channel's elements lie together, else V neighbouring ones.
template <typename S, int kT, int V, int fire, typename F>
MMSNN_FN void reduce(const Job<F>& job, const Walk& walk) {
  const int height = kThreads / walk.width;
  const i64 column = static_cast<i64>(blockIdx.x) * walk.width + threadIdx.x % walk.width;
  const bool together = job.inner > 1 || V == 1, mine = column < walk.columns;
  const i64 share = (walk.rows + gridDim.y - 1) / gridDim.y, end = share * (blockIdx.y + 1);
  i64 row = share * blockIdx.y + threadIdx.x / walk.width, outer = row / walk.runs, run = row % walk.runs;
  const i64 outer_step = height / walk.runs, run_step = height % walk.runs;
  const i64 channel = together ? column : column * V;
  double sum[V], product[V];
  EACH sum[j] = product[j] = 0;
  if (mine) {
    const Neuron<F> n = neuron_of(job);
    Norm<true, V, F> front;
    F mean[V];
    EACH {
      const i64 c = together ? channel : channel + j;
      front.scale[j] = job.scale[c];
      front.shift[j] = job.shift[c];
      mean[j] = job.mean[c];
    }
    for (; row < end && row < walk.rows; row += height) {
      const i64 i = ((outer * walk.columns + column) * walk.runs + run) * V;
      F g[V], p[V];
      EACH g[j] = p[j] = F(0);
      go_back<S, kT, V, fire, true>(job, n, front, i, [&](i64, const Row<S, V>& x, const F* grad) {
        EACH g[j] += grad[j];
        EACH p[j] += grad[j] * (widen(x.at[j]) - mean[j]);
      });
      EACH sum[j] += g[j];
      EACH product[j] += p[j];
      outer += outer_step;
      run += run_step;
      if (run >= walk.runs) {
        run -= walk.runs;
        ++outer;
      }
    }
  }
  if (together) {
    _Pragma("unroll") for (int j = 1; j < V; ++j) {
      sum[0] += sum[j];
      product[0] += product[j];
    }
  }
  double* out = job.sums + 2 * job.channels * blockIdx.y + channel;
  const bool writes = mine && threadIdx.x < walk.width;
  EACH {
    if (together && j) continue;
    const double a = block_sum(sum[j], walk.width), b = block_sum(product[j], walk.width);
    if (writes) out[j] = a;
    if (writes) out[job.channels + j] = b;
  }
}

// Spikes as bits, small integers as bytes ----------------------------------------------------------------------------

// A thread takes 8 numbers. aligned: x and out allow 16-byte access.
template <typename S, int bits, bool aligned>
MMSNN_FN void pack(const void* x, i64 n, unsigned char* out) {
  const i64 i = (static_cast<i64>(blockIdx.x) * kThreads + threadIdx.x) * 8;
  if (i >= n) return;
  const int m = n - i < 8 ? static_cast<int>(n - i) : 8;
  Row<S, 8> in{};
  if (aligned && m == 8) in = load<8, S>(x, i);
  else _Pragma("unroll") for (int j = 0; j < 8; ++j) if (j < m) in.at[j] = static_cast<const S*>(x)[i + j];
  Row<unsigned char, 8> bytes;
  bool wrong = false;
  unsigned byte = 0;
  _Pragma("unroll") for (int j = 0; j < 8; ++j) {
    const auto value = widen(in.at[j]);
    const auto largest = decltype(value + value)(bits == 1 ? 1 : 255);
    const int whole = value >= 0 && value <= largest ? static_cast<int>(value) : 0;
    wrong |= !(value == whole);
    byte |= static_cast<unsigned>(whole) << j;
    bytes.at[j] = static_cast<unsigned char>(whole);
  }
  if (wrong) {
    MMSNN_REFUSE(bits == 1 ? "the input of a convolution that packs spikes holds values other than 0 and 1: "
                             "set packed_spikes=False, or give it spikes"
                           : "the input of a convolution that packs spikes holds values other than the integers 0 to "
                             "255: set packed_spikes=False, or give it spikes");
  }
  if (bits == 1) out[i / 8] = static_cast<unsigned char>(byte);
  else if (aligned && m == 8) save(bytes, out, i);
  else _Pragma("unroll") for (int j = 0; j < 8; ++j) if (j < m) out[i + j] = bytes.at[j];
}

template <typename S, int bits, bool aligned>
MMSNN_FN void unpack(const unsigned char* packed, i64 n, void* out) {
  const i64 i = (static_cast<i64>(blockIdx.x) * kThreads + threadIdx.x) * 8;
  if (i >= n) return;
  const int m = n - i < 8 ? static_cast<int>(n - i) : 8;
  const unsigned byte = bits == 1 ? packed[i / 8] : 0;
  Row<unsigned char, 8> bytes{};
  if (bits == 8) {
    if (aligned && m == 8) bytes = load<8, unsigned char>(packed, i);
    else _Pragma("unroll") for (int j = 0; j < 8; ++j) if (j < m) bytes.at[j] = packed[i + j];
  }
  Row<S, 8> row;
  _Pragma("unroll") for (int j = 0; j < 8; ++j) {
    const unsigned value = bits == 1 ? (byte >> j) & 1 : bytes.at[j];
    narrow(decltype(widen(S()))(value), row.at[j]);
  }
  if (aligned && m == 8) save(row, out, i);
  else _Pragma("unroll") for (int j = 0; j < 8; ++j) if (j < m) static_cast<S*>(out)[i + j] = row.at[j];
}

#undef EACH
#undef MMSNN_STEPS

}  // namespace mmsnn
