// The CUDA kernels, as device functions; ops_cuda.cu and mmsnn/ops/nvrtc.py compile and launch them.
//
// A thread works on V neighbouring neurons over all T steps. Memory sees x once forwards, and x, the spikes' gradient
// and x's gradient once backwards: everything else stays in registers, for which arrays need indices known to the
// compiler, hence the unrolled loops. Settings of the neuron are asked once a row of V, alike in all threads.
#pragma once

#include "rows.cuh"

namespace mmsnn {

// How `reduce` walks over x [rows / runs, columns, runs, V]: a block takes `width` columns and a share of the rows.
struct Walk {
  i64 columns, runs, rows;
  int width;  // a power of two, at most kThreads
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
