// Event-driven kernels. Compiled once for each instruction set, into namespace MMSNN_ARCH, with vectors of MMSNN_WIDE
// floats. For one pixel and a block of output channels the sums stay in registers while the events under the kernel,
// in the order of rows, columns and channels, each add one row of the weights; the neurons' potentials stay in the
// first cache over all time steps.
#include "event_scan.h"

namespace mmsnn {
namespace MMSNN_ARCH {
namespace {

// Convolution ----------------------------------------------------------------------------------------------------------

// a row of a block of weights, as V vectors
template <int V>
struct Single {
  static constexpr i64 kStride = V * kWide;  // in floats
  template <bool ones>
  static EVENT_INLINE void add(Wide (&sum)[V], const float* row, float value) {
    const Wide factor = spread(value);
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) {
      const Wide w = load(row + v * kWide);
      sum[v] = ones ? sum[v] + w : multiply_add(factor, w, sum[v]);
    }
  }
};

// Two bfloat16 to a word: its upper half, with whatever follows, is the one of the block's first half, its lower half
// that of the second. The upper one is rounded with its tail in place, so that it is as near as a bfloat16 would be.
template <int V>
struct Paired {
  static constexpr i64 kStride = V * kWide / 2;
  template <bool ones>
  static EVENT_INLINE void add(Wide (&sum)[V], const float* row, float value) {
    const Wide factor = spread(value);
#pragma GCC unroll 8
    for (int v = 0; v < V / 2; ++v) {
      const Wide upper = load(row + v * kWide);
      const Wide lower = (Wide)((Bits32)upper << 16);
      sum[v] = ones ? sum[v] + upper : multiply_add(factor, upper, sum[v]);
      sum[v + V / 2] = ones ? sum[v + V / 2] + lower : multiply_add(factor, lower, sum[v + V / 2]);
    }
  }
};

// The runs of events under rows [begin, end) of the kernel at output (oy, ox), as run(first, last, row of the weights
// less the event).
template <typename Run>
EVENT_INLINE void runs(const Window& w, const int* starts, i64 channels, i64 oy, i64 ox, i64 begin, i64 end, Run run) {
  const i64 left = ox * w.stride_w - w.pad_w, top = oy * w.stride_h - w.pad_h;
  for (i64 ky = begin; ky < end; ++ky) {
    const i64 y = top + ky * w.dilation_h;
    if (y < 0 || y >= w.H) continue;
    const int* row = starts + y * (w.W + 1);
    if (w.dilation_w == 1) {
      const i64 from = left < 0 ? 0 : left, to = left + w.kernel_w < w.W ? left + w.kernel_w : w.W;
      if (from < to) run(row[from], row[to], (ky * w.kernel_w - left) * channels);
      continue;
    }
    for (i64 kx = 0; kx < w.kernel_w; ++kx) {
      const i64 x = left + kx * w.dilation_w;
      if (x >= 0 && x < w.W) run(row[x], row[x + 1], (ky * w.kernel_w + kx - x) * channels);
    }
  }
}

// Adds to sums[V * kWide] what rows [begin, end) of the kernel see; the first of them begins the sums.
template <typename Row, int V, bool ones>
EVENT_INLINE void convolve(const Layer& s, const int* starts, const float* rows, i64 oy, i64 ox, i64 begin, i64 end,
                           float* sums) {
  Wide sum[V] = {};
  if (begin)
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) sum[v] = load(sums + v * kWide);
  const int* where = s.events.where;
  const float* values = s.events.values;
  runs(s.window, starts, s.channels, oy, ox, begin, end, [&](i64 from, i64 to, i64 base) __attribute__((always_inline)) {
    for (i64 i = from; i < to; ++i)
      Row::template add<ones>(sum, rows + (base + where[i]) * Row::kStride, ones ? 1.0f : values[i]);
  });
#pragma GCC unroll 16
  for (int v = 0; v < V; ++v) store(sums + v * kWide, sum[v]);
}

// Neurons ----------------------------------------------------------------------------------------------------------

using FireRow = void (*)(const float* x, float* v, unsigned char* s, i64 n, const Neuron<float>& neuron);

template <int leak, int reset, int fire>
void fire_row(const float* __restrict__ x, float* __restrict__ v, unsigned char* __restrict__ s, i64 n,
              const Neuron<float>& neuron) {
  const Neuron<float> k = neuron;
  for (i64 i = 0; i < n; ++i) {
    const float h = charge<leak>(v[i], x[i], k);
    const float fired = spike<fire>(h, k);
    s[i] = static_cast<unsigned char>(static_cast<int>(fired));
    v[i] = after_reset<reset>(h, fired, k);
  }
}

template <int leak, int reset>
FireRow choose_fire(const Neuron<float>& k) {
  return k.fire == kLevels ? fire_row<leak, reset, kLevels> : fire_row<leak, reset, kBinary>;
}

template <int leak>
FireRow choose_reset(const Neuron<float>& k) {
  return k.reset == kHard ? choose_fire<leak, kHard>(k) : choose_fire<leak, kSoft>(k);
}

FireRow choose_neuron(const Neuron<float>& k) {
  if (k.leak == kNoLeak) return choose_reset<kNoLeak>(k);
  return k.leak == kDecayInput ? choose_reset<kDecayInput>(k) : choose_reset<kKeepInput>(k);
}

void fire(const Firing& f, i64 begin, i64 end) {
  const FireRow row = choose_neuron(f.neuron);
  float v[kFireBlock];
  for (i64 block = begin; block < end; ++block) {
    const i64 first = block * kFireBlock, n = f.N - first < kFireBlock ? f.N - first : kFireBlock;
    for (i64 i = 0; i < n; ++i) v[i] = f.neuron.v_rest;
    for (i64 t = 0; t < f.T; ++t) row(f.x + (f.repeat ? 0 : t * f.N) + first, v, f.spikes + t * f.N + first, n, f.neuron);
  }
}

// Layers ---------------------------------------------------------------------------------------------------------------

// bytes of a block of weights from which on the kernel's rows are taken one after the other, each for many pixels: the
// second cache then holds what is read
constexpr i64 kLargeBlock = 384 << 10;
// bytes of the sums of these pixels
constexpr i64 kTile = 96 << 10;

template <typename Row, int V, bool ones>
struct LayerBlock {
  static constexpr i64 kWidth = V * kWide;
  const Layer& s;
  const i64 block, rows = s.window.kernel_h * s.window.kernel_w * s.channels, all = s.groups * s.outputs;
  const i64 group = block / s.blocks, first = block % s.blocks * kWidth, channel = group * s.outputs + first;
  const i64 n = s.outputs - first < kWidth ? s.outputs - first : kWidth;
  const float* weights = static_cast<const float*>(s.rows) + block * rows * Row::kStride;
  const FireRow fire = s.spikes ? choose_neuron(s.neuron) : nullptr;
  alignas(64) float shift[kWidth];

  EVENT_INLINE LayerBlock(const Layer& s, i64 block) : s(s), block(block) {
    for (i64 i = 0; i < kWidth; ++i) shift[i] = s.shift && i < n ? s.shift[channel + i] : 0.0f;
  }

  EVENT_INLINE void sum(i64 line, i64 ox, i64 t, i64 begin, i64 end, float* sums) const {
    const i64 b = line / s.window.OH, sample = group * s.T * s.B + t * s.B + b;
    const int* starts = s.events.starts + sample * s.window.H * (s.window.W + 1);
    convolve<Row, V, ones>(s, starts, weights, line % s.window.OH, ox, begin, end, sums);
  }

  // From sums to spikes, at one pixel and time step.
  EVENT_INLINE void emit(i64 line, i64 ox, i64 t, float* __restrict__ x, float* __restrict__ v) const {
    const i64 at = ((t * s.B * s.window.OH + line) * s.window.OW + ox) * all + channel;
    if (s.shift)
      for (i64 i = 0; i < kWidth; ++i) x[i] += shift[i];
    if (s.add)
      for (i64 i = 0; i < n; ++i) x[i] += s.add[at + i];
    if (s.add_bytes)
      for (i64 i = 0; i < n; ++i) x[i] += s.add_bytes[at + i];
    if (s.current) memcpy(s.current + at, x, n * sizeof(float));
    if (!fire) return;
    if (n == kWidth) {
      fire(x, v, s.spikes + at, kWidth, s.neuron);
    } else {
      unsigned char fired[kWidth];
      fire(x, v, fired, kWidth, s.neuron);
      memcpy(s.spikes + at, fired, n);
    }
  }

  void run(i64 begin, i64 end) const {
    const i64 OW = s.window.OW, kernel_h = s.window.kernel_h;
    alignas(64) float x[kWidth], v[kWidth];
    const i64 bytes_a_line = OW * s.T * kWidth * static_cast<i64>(sizeof(float));
    const bool large = rows * Row::kStride * static_cast<i64>(sizeof(float)) > kLargeBlock && bytes_a_line <= kTile;
    if (!large) {
      for (i64 line = begin; line < end; ++line)
        for (i64 ox = 0; ox < OW; ++ox) {
          for (i64 i = 0; i < kWidth; ++i) v[i] = s.neuron.v_rest;
          for (i64 t = 0; t < s.T; ++t) {
            sum(line, ox, t, 0, kernel_h, x);
            emit(line, ox, t, x, v);
          }
        }
      return;
    }
    alignas(64) static thread_local float sums[kTile / sizeof(float)];
    const i64 lines = kTile / bytes_a_line;
    for (i64 top = begin; top < end; top += lines) {
      const i64 bottom = top + lines < end ? top + lines : end;
      for (i64 ky = 0; ky < kernel_h; ++ky) {
        float* to = sums;
        for (i64 line = top; line < bottom; ++line)
          for (i64 ox = 0; ox < OW; ++ox)
            for (i64 t = 0; t < s.T; ++t, to += kWidth) sum(line, ox, t, ky, ky + 1, to);
      }
      float* from = sums;
      for (i64 line = top; line < bottom; ++line)
        for (i64 ox = 0; ox < OW; ++ox) {
          for (i64 i = 0; i < kWidth; ++i) v[i] = s.neuron.v_rest;
          for (i64 t = 0; t < s.T; ++t, from += kWidth) emit(line, ox, t, from, v);
        }
    }
  }
};

template <typename Row, int V, bool ones>
void layer_rows(const Layer& s, i64 begin, i64 end) {
  const i64 lines = s.B * s.window.OH;
  while (begin < end) {
    const i64 block = begin / lines, last = (block + 1) * lines < end ? (block + 1) * lines : end;
    LayerBlock<Row, V, ones>(s, block).run(begin - block * lines, last - block * lines);
    begin = last;
  }
}

template <template <int> class Row, bool ones>
void layer_widths(const Layer& s, i64 begin, i64 end) {
  if (s.width == 64) layer_rows<Row<64 / kWide>, 64 / kWide, ones>(s, begin, end);
  else layer_rows<Row<32 / kWide>, 32 / kWide, ones>(s, begin, end);
}

void layer(const Layer& s, i64 begin, i64 end) {
  if (s.half) return s.events.values ? layer_widths<Paired, false>(s, begin, end) : layer_widths<Paired, true>(s, begin, end);
  s.events.values ? layer_widths<Single, false>(s, begin, end) : layer_widths<Single, true>(s, begin, end);
}

// The gradient of the weights: every event adds the gradient of the pixels that it reached to its row.
void weight_grad(const Layer& s, const float* grad, float* grad_rows, i64 begin, i64 end) {
  constexpr i64 kWidth = 64;
  constexpr int V = 64 / kWide;
  const Window& w = s.window;
  const i64 N = s.T * s.B, all = s.groups * s.outputs, rows = w.kernel_h * w.kernel_w * s.channels;
  alignas(64) float g[kWidth];
  for (i64 block = begin; block < end; ++block) {
    const i64 group = block / s.blocks, first = block % s.blocks * kWidth;
    const i64 n = s.outputs - first < kWidth ? s.outputs - first : kWidth, channel = group * s.outputs + first;
    float* target = grad_rows + block * rows * kWidth;
    for (i64 i = 0; i < rows * kWidth; ++i) target[i] = 0.0f;
    for (i64 sample = 0; sample < N; ++sample) {
      const int* starts = s.events.starts + (group * N + sample) * w.H * (w.W + 1);
      for (i64 oy = 0; oy < w.OH; ++oy) {
        for (i64 ox = 0; ox < w.OW; ++ox) {
          const float* from = grad + ((sample * w.OH + oy) * w.OW + ox) * all + channel;
          for (i64 i = 0; i < kWidth; ++i) g[i] = i < n ? from[i] : 0.0f;
          Wide held[V];
#pragma GCC unroll 16
          for (int v = 0; v < V; ++v) held[v] = load(g + v * kWide);
          runs(w, starts, s.channels, oy, ox, 0, w.kernel_h, [&](i64 a, i64 b, i64 base) __attribute__((always_inline)) {
            for (i64 i = a; i < b; ++i) {
              float* row = target + (base + s.events.where[i]) * kWidth;
              const Wide value = spread(s.events.values ? s.events.values[i] : 1.0f);
#pragma GCC unroll 16
              for (int v = 0; v < V; ++v) store(row + v * kWide, multiply_add(value, held[v], load(row + v * kWide)));
            }
          });
        }
      }
    }
  }
}

// Max pooling of bytes, channels last; padding never wins. Rows [begin, end) of N * OH.
void max_pool(const unsigned char* x, unsigned char* out, const Window& w, i64 channels, i64 begin, i64 end) {
  for (i64 line = begin; line < end; ++line) {
    const i64 sample = line / w.OH, oy = line % w.OH;
    for (i64 ox = 0; ox < w.OW; ++ox) {
      unsigned char* __restrict__ to = out + (line * w.OW + ox) * channels;
      memset(to, 0, channels);
      for (i64 ky = 0; ky < w.kernel_h; ++ky) {
        const i64 y = oy * w.stride_h - w.pad_h + ky * w.dilation_h;
        if (y < 0 || y >= w.H) continue;
        for (i64 kx = 0; kx < w.kernel_w; ++kx) {
          const i64 column = ox * w.stride_w - w.pad_w + kx * w.dilation_w;
          if (column < 0 || column >= w.W) continue;
          const unsigned char* from = x + ((sample * w.H + y) * w.W + column) * channels;
          for (i64 c = 0; c < channels; ++c) to[c] = from[c] > to[c] ? from[c] : to[c];
        }
      }
    }
  }
}

}  // namespace

const EventKernels& event_kernels() {
  static const EventKernels kernels{scan<Bytes>, scan<Floats>, layer, weight_grad, fire, max_pool, count};
  return kernels;
}

}  // namespace MMSNN_ARCH
}  // namespace mmsnn
