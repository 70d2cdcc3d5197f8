// The CPU kernels. Compiled once for each instruction set, into namespace MMSNN_ARCH: plain loops over rows of
// kBlock elements, which the compiler turns into vector instructions. Only what is needed of each T-row segment is in
// cache at a time, so memory sees x once forwards, and x, the spikes' gradient and x's gradient once backwards.
#include "cpu_packing.h"

namespace mmsnn {
namespace MMSNN_ARCH {
namespace {

constexpr int kChunk = 16;  // time steps whose charges are kept while going backwards

// Batch norm: per-channel numbers spread over a row, whatever the memory format ------------------------------------

template <typename F>
struct Spread {
  i64 channels, inner;
  explicit Spread(const Job<F>& job) : channels(job.channels), inner(job.inner) {}

  // calls f(channel, from, to) for the runs of one channel within the row that starts at element i0
  template <typename Run>
  void runs(i64 i0, i64 n, Run run) const {
    i64 channel = (i0 / inner) % channels, left = inner - i0 % inner;
    for (i64 from = 0; from < n;) {
      const i64 to = from + left < n ? from + left : n;
      run(channel, from, to);
      from = to;
      left = inner;
      if (++channel == channels) channel = 0;
    }
  }

  void fill(const F* values, F* RESTRICT row, i64 i0, i64 n) const {
    if (inner == 1) {
      i64 c = i0 % channels;
      for (i64 i = 0; i < n;) {
        const i64 m = channels - c < n - i ? channels - c : n - i;
        for (i64 j = 0; j < m; ++j) row[i + j] = values[c + j];
        i += m;
        c = 0;
      }
      return;
    }
    runs(i0, n, [&](i64 c, i64 from, i64 to) {
      const F value = values[c];
      for (i64 i = from; i < to; ++i) row[i] = value;
    });
  }

  void collect(const F* RESTRICT row, double* sums, i64 i0, i64 n) const {
    if (inner == 1) {
      i64 c = i0 % channels;
      for (i64 i = 0; i < n;) {
        const i64 m = channels - c < n - i ? channels - c : n - i;
        for (i64 j = 0; j < m; ++j) sums[c + j] += row[i + j];
        i += m;
        c = 0;
      }
      return;
    }
    runs(i0, n, [&](i64 c, i64 from, i64 to) {
      F lanes[16] = {};
      i64 i = from;
      for (; i + 16 <= to; i += 16)
        for (int j = 0; j < 16; ++j) lanes[j] += row[i + j];
      double sum = 0;
      for (; i < to; ++i) sum += row[i];
      for (int j = 0; j < 16; ++j) sum += lanes[j];
      sums[c] += sum;
    });
  }
};

// Blocks -------------------------------------------------------------------------------------------------------------

template <typename F>
struct Block {
  alignas(64) F v[kBlock], x[kBlock], scale[kBlock], shift[kBlock];
};

// One rounding instead of two where the CPU can, as torch's batch norm has it.
template <typename F>
inline F affine(F x, F scale, F shift) {
#ifdef MMSNN_X86
  if constexpr (Same<F, double>::value) return __builtin_fma(scale, x, shift);
  else return __builtin_fmaf(scale, x, shift);
#else
  return scale * x + shift;
#endif
}

// What the neuron sees at one time step.
template <typename S, typename F>
inline const F* input_row(const Job<F>& job, const S* x, Block<F>& b, i64 n) {
  const F* row = view_row(x, b.x, n);
  if (!job.scale) return row;
  const F *RESTRICT a = b.scale, *RESTRICT c = b.shift;
  F* out = b.x;
  if (row == b.x) {
    ROW(i) out[i] = affine(out[i], a[i], c[i]);
  } else {
    const F* RESTRICT in = row;
    ROW(i) out[i] = affine(in[i], a[i], c[i]);
  }
  return out;
}

template <typename F>
inline Neuron<F> neuron_of(const Job<F>& job) {
  Neuron<F> k = job.neuron;
  if (job.tau) k.rate = F(1) / *job.tau;
  return k;
}

template <typename S, typename F>
void forward_blocks(const Job<F>& job, i64 begin, i64 end) {
  const Neuron<F> k = neuron_of(job);
  const Rows<F> rows(k);
  const Spread<F> spread(job);
  Block<F> b;
  alignas(64) F spikes[kBlock];
  for (i64 block = begin; block < end; ++block) {
    const i64 i0 = block * kBlock, n = job.N - i0 < kBlock ? job.N - i0 : kBlock;
    if (job.v_init) read_row(job.v_init + i0, b.v, n);
    else ROW(i) b.v[i] = k.v_rest;
    if (job.scale) {
      spread.fill(job.scale, b.scale, i0, n);
      spread.fill(job.shift, b.shift, i0, n);
    }
    for (i64 t = 0; t < job.T; ++t) {
      const F* x = input_row(job, static_cast<const S*>(job.x) + t * job.N + i0, b, n);
      S* out = static_cast<S*>(job.out) + t * job.N + i0;
      if constexpr (Same<S, F>::value) {
        rows.forward(x, b.v, out, n, k);
      } else {
        rows.forward(x, b.v, spikes, n, k);
        write_row(spikes, out, n);
      }
    }
    if (job.v_last) write_row(b.v, job.v_last + i0, n);
  }
}

template <typename S, typename F>
void backward_blocks(const Job<F>& job, i64 begin, i64 end) {
  const Neuron<F> k = neuron_of(job);
  const Rows<F> rows(k);
  const Spread<F> spread(job);
  const i64 chunks = (job.T + kChunk - 1) / kChunk;
  Block<F> b;
  alignas(64) F h[kChunk][kBlock], s[kBlock], grad[kBlock], grad_v[kBlock], before[kBlock];
  alignas(64) F mean[kBlock], offset[kBlock], factor[kBlock], sum[kBlock], product[kBlock];
  F* starts = new F[chunks * kBlock];  // potentials before each chunk
  const bool remembers = chunks > 1 || job.grad_rate;
  for (i64 block = begin; block < end; ++block) {
    const i64 i0 = block * kBlock, n = job.N - i0 < kBlock ? job.N - i0 : kBlock;
    if (job.v_init) read_row(job.v_init + i0, b.v, n);
    else ROW(i) b.v[i] = k.v_rest;
    if (job.grad_v) read_row(job.grad_v + i0, grad_v, n);
    else ROW(i) grad_v[i] = F(0);
    if (job.scale) {
      spread.fill(job.scale, b.scale, i0, n);
      spread.fill(job.shift, b.shift, i0, n);
      spread.fill(job.mean, mean, i0, n);
      if (job.sums) {
        ROW(i) sum[i] = product[i] = F(0);
      } else {
        spread.fill(job.offset, offset, i0, n);
        spread.fill(job.slope, factor, i0, n);
      }
    }
    const S* x = static_cast<const S*>(job.x) + i0;
    for (i64 chunk = 0; chunk < chunks; ++chunk) {
      if (remembers) read_row(b.v, starts + chunk * kBlock, n);
      if (chunk == chunks - 1) break;
      for (i64 t = chunk * kChunk; t < (chunk + 1) * kChunk; ++t)
        rows.charge(input_row(job, x + t * job.N, b, n), b.v, h[0], n, k);
    }
    double rate = 0;
    for (i64 chunk = chunks - 1; chunk >= 0; --chunk) {
      const i64 t0 = chunk * kChunk, t1 = t0 + kChunk < job.T ? t0 + kChunk : job.T;
      if (remembers) read_row(starts + chunk * kBlock, b.v, n);
      for (i64 t = t0; t < t1; ++t) rows.charge(input_row(job, x + t * job.N, b, n), b.v, h[t - t0], n, k);
      for (i64 t = t1 - 1; t >= t0; --t) {
        const F* row = h[t - t0];
        rows.gradient(view_row(static_cast<const S*>(job.grad_s) + t * job.N + i0, grad, n), grad_v, row, n, k);
        if (job.grad_rate) {
          const F* earlier = starts + chunk * kBlock;
          if (t > t0) {
            rows.spike(h[t - t0 - 1], s, n, k);
            const F* last = h[t - t0 - 1];
            if (k.reset == kHard) ROW(i) before[i] = after_reset<kHard>(last[i], s[i], k);
            else ROW(i) before[i] = after_reset<kSoft>(last[i], s[i], k);
            earlier = before;
          }
          const F* seen = input_row(job, x + t * job.N, b, n);
          if (k.leak == kDecayInput) ROW(i) rate += double(grad_v[i]) * charge_slope<kDecayInput>(earlier[i], seen[i], k);
          else ROW(i) rate += double(grad_v[i]) * charge_slope<kKeepInput>(earlier[i], seen[i], k);
        }
        if constexpr (Same<S, F>::value) {
          if (!job.scale) {
            rows.back(grad_v, static_cast<F*>(job.out) + t * job.N + i0, n, k);
            continue;
          }
        }
        rows.back(grad_v, grad, n, k);
        if (job.scale) {
          const F* RESTRICT raw = view_row(x + t * job.N, b.x, n);
          if (job.sums) {
            ROW(i) {
              sum[i] += grad[i];
              product[i] += grad[i] * (raw[i] - mean[i]);
            }
            continue;
          }
          ROW(i) grad[i] = b.scale[i] * grad[i] - offset[i] - factor[i] * (raw[i] - mean[i]);
        }
        write_row(grad, static_cast<S*>(job.out) + t * job.N + i0, n);
      }
    }
    if (job.grad_rate) job.grad_rate[block] = rate;
    if (job.grad_v_init) write_row(grad_v, job.grad_v_init + i0, n);
    if (job.sums) {
      spread.collect(sum, job.sums, i0, n);
      spread.collect(product, job.sums + job.channels, i0, n);
    }
  }
  delete[] starts;
}

template <typename S, typename F>
void moment_blocks(const Job<F>& job, i64 begin, i64 end) {
  const Spread<F> spread(job);
  alignas(64) F x[kBlock], mean[kBlock], sum[kBlock], square[kBlock];
  for (i64 block = begin; block < end; ++block) {
    const i64 i0 = block * kBlock, n = job.N - i0 < kBlock ? job.N - i0 : kBlock;
    spread.fill(job.mean, mean, i0, n);
    ROW(i) sum[i] = square[i] = F(0);
    for (i64 t = 0; t < job.T; ++t) {
      const F* RESTRICT row = view_row(static_cast<const S*>(job.x) + t * job.N + i0, x, n);
      ROW(i) {
        const F d = row[i] - mean[i];
        sum[i] += d;
        square[i] += d * d;
      }
    }
    spread.collect(sum, job.sums, i0, n);
    spread.collect(square, job.sums + job.channels, i0, n);
  }
}

#define MMSNN_BY_TYPE(name)                                              \
  template <typename F>                                                  \
  void name(const Job<F>& job, i64 begin, i64 end) {             \
    if constexpr (Same<F, double>::value) {                              \
      name##_blocks<double, double>(job, begin, end);                    \
    } else if (job.type == kFloat) {                                     \
      name##_blocks<float, float>(job, begin, end);                      \
    } else if (job.type == kHalf) {                                      \
      name##_blocks<Half, float>(job, begin, end);                       \
    } else {                                                             \
      name##_blocks<BFloat16, float>(job, begin, end);                   \
    }                                                                    \
  }
MMSNN_BY_TYPE(forward)
MMSNN_BY_TYPE(backward)
MMSNN_BY_TYPE(moment)
#undef MMSNN_BY_TYPE

}  // namespace

template <typename F>
const Kernels<F>& kernels() {
  static const Kernels<F> table{forward<F>, backward<F>, moment<F>};
  return table;
}
template const Kernels<float>& kernels<float>();
template const Kernels<double>& kernels<double>();

const char* pack(const void* x, int type, i64 n, int bits, unsigned char* out) {
  if (type == kFloat) return pack_rows<float, float>(static_cast<const float*>(x), n, bits, out);
  if (type == kDouble) return pack_rows<double, double>(static_cast<const double*>(x), n, bits, out);
  if (type == kHalf) return pack_rows<Half, float>(static_cast<const Half*>(x), n, bits, out);
  return pack_rows<BFloat16, float>(static_cast<const BFloat16*>(x), n, bits, out);
}

void unpack(const unsigned char* packed, i64 n, int bits, void* out, int type) {
  if (type == kFloat) unpack_rows<float, float>(packed, n, bits, static_cast<float*>(out));
  else if (type == kDouble) unpack_rows<double, double>(packed, n, bits, static_cast<double*>(out));
  else if (type == kHalf) unpack_rows<Half, float>(packed, n, bits, static_cast<Half*>(out));
  else unpack_rows<BFloat16, float>(packed, n, bits, static_cast<BFloat16*>(out));
}

#undef ROW
#undef RESTRICT

}  // namespace MMSNN_ARCH
}  // namespace mmsnn
