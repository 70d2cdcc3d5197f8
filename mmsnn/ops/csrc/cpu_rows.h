// Rows of kBlock elements on the CPU: converted from and to 16 bits, and the recurrence, a row at a time. Included by
// cpu_kernels.h, once for each instruction set, into namespace MMSNN_ARCH.
#include "cpu.h"

namespace mmsnn {
namespace MMSNN_ARCH {
namespace {

#define ROW(i) for (i64 i = 0; i < n; ++i)
#define RESTRICT __restrict__

// 16-bit rows -----------------------------------------------------------------------------------------------------

union Bits { unsigned u; float f; };

inline void read_row(const float* RESTRICT in, float* RESTRICT out, i64 n) { ROW(i) out[i] = in[i]; }
inline void read_row(const double* RESTRICT in, double* RESTRICT out, i64 n) { ROW(i) out[i] = in[i]; }
inline void write_row(const float* RESTRICT in, float* RESTRICT out, i64 n) { ROW(i) out[i] = in[i]; }
inline void write_row(const double* RESTRICT in, double* RESTRICT out, i64 n) { ROW(i) out[i] = in[i]; }

struct BFloat16 { unsigned short bits; };

inline void read_row(const BFloat16* RESTRICT in, float* RESTRICT out, i64 n) {
  ROW(i) {
    Bits b;
    b.u = static_cast<unsigned>(in[i].bits) << 16;
    out[i] = b.f;
  }
}

inline void write_row(const float* RESTRICT in, BFloat16* RESTRICT out, i64 n) {
  ROW(i) {
    Bits b;
    b.f = in[i];
    const unsigned rounded = (b.u + 0x7fffu + ((b.u >> 16) & 1u)) >> 16;
    out[i].bits = static_cast<unsigned short>(in[i] != in[i] ? 0x7fc0u : rounded);
  }
}

struct Half { unsigned short bits; };

inline void read_row(const Half* RESTRICT in, float* RESTRICT out, i64 n) {
#ifdef MMSNN_X86
  i64 i = 0;
  for (; i + 8 <= n; i += 8)
    _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i))));
  for (; i < n; ++i) out[i] = _cvtsh_ss(in[i].bits);
#else
  ROW(i) out[i] = c10::detail::fp16_ieee_to_fp32_value(in[i].bits);
#endif
}

inline void write_row(const float* RESTRICT in, Half* RESTRICT out, i64 n) {
#ifdef MMSNN_X86
  i64 i = 0;
  for (; i + 8 <= n; i += 8)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), _mm256_cvtps_ph(_mm256_loadu_ps(in + i), 0));
  for (; i < n; ++i) out[i].bits = _cvtss_sh(in[i], 0);
#else
  ROW(i) out[i].bits = c10::detail::fp16_ieee_from_fp32_value(in[i]);
#endif
}

template <typename A, typename B> struct Same { static constexpr bool value = false; };
template <typename A> struct Same<A, A> { static constexpr bool value = true; };

// A row of an input: where it lies, or converted into `space`.
template <typename S, typename F>
inline const F* view_row(const S* in, F* space, i64 n) {
  if constexpr (Same<S, F>::value) {
    return in;
  } else {
    read_row(in, space, n);
    return space;
  }
}

// The recurrence, a row at a time ----------------------------------------------------------------------------------

template <int leak, int reset, int fire, typename F>
void forward_row(const F* RESTRICT x, F* RESTRICT v, F* RESTRICT s, i64 n, const Neuron<F>& neuron) {
  const Neuron<F> k = neuron;
  ROW(i) {
    const F h = charge<leak>(v[i], x[i], k);
    s[i] = spike<fire>(h, k);
    v[i] = after_reset<reset>(h, s[i], k);
  }
}

template <int leak, int reset, int fire, typename F>
void charge_row(const F* RESTRICT x, F* RESTRICT v, F* RESTRICT h, i64 n, const Neuron<F>& neuron) {
  const Neuron<F> k = neuron;
  ROW(i) {
    const F c = charge<leak>(v[i], x[i], k);
    h[i] = c;
    v[i] = after_reset<reset>(c, spike<fire>(c, k), k);
  }
}

template <int fire, typename F>
void spike_row(const F* RESTRICT h, F* RESTRICT s, i64 n, const Neuron<F>& neuron) {
  const Neuron<F> k = neuron;
  ROW(i) s[i] = spike<fire>(h[i], k);
}

// grad_v becomes d loss / d charge; the caller turns that into the gradients of the input and the earlier potential
template <int reset, bool detach, int fire, int surrogate, typename F>
void gradient_row(const F* RESTRICT grad_s, F* RESTRICT grad_v, const F* RESTRICT h, i64 n, const Neuron<F>& neuron) {
  const Neuron<F> k = neuron;
  ROW(i) {
    const F slope = spike_slope<fire, surrogate>(h[i], k);
    grad_v[i] = charge_gradient<reset, detach>(grad_s[i], grad_v[i], h[i], spike<fire>(h[i], k), slope, k);
  }
}

template <int leak, typename F>
void back_row(F* RESTRICT grad_v, F* RESTRICT grad_x, i64 n, const Neuron<F>& neuron) {
  const Neuron<F> k = neuron;
  ROW(i) {
    const F g = grad_v[i];
    grad_x[i] = input_gradient<leak>(g, k);
    grad_v[i] = potential_gradient<leak>(g, k);
  }
}

template <typename F>
struct Rows {
  using Forward = void (*)(const F*, F*, F*, i64, const Neuron<F>&);
  using Spike = void (*)(const F*, F*, i64, const Neuron<F>&);
  using Gradient = void (*)(const F*, F*, const F*, i64, const Neuron<F>&);
  using Back = void (*)(F*, F*, i64, const Neuron<F>&);
  Forward forward, charge;
  Spike spike;
  Gradient gradient;
  Back back;

  template <int leak>
  void choose_leak(const Neuron<F>& k) {
    back = back_row<leak, F>;
    if (k.reset == kHard) choose_fire<leak, kHard>(k); else choose_fire<leak, kSoft>(k);
  }

  template <int leak, int reset>
  void choose_fire(const Neuron<F>& k) {
    if (k.fire == kBinary) choose<leak, reset, kBinary>(k);
    else if (k.fire == kLevels) choose<leak, reset, kLevels>(k);
    else choose<leak, reset, kSmooth>(k);
  }

  template <int leak, int reset, int fire>
  void choose(const Neuron<F>& k) {
    forward = forward_row<leak, reset, fire, F>;
    charge = charge_row<leak, reset, fire, F>;
    spike = spike_row<fire, F>;
    if (k.detach_reset) choose_surrogate<reset, true, fire>(k); else choose_surrogate<reset, false, fire>(k);
  }

  // from the first surrogate to the last
  template <int reset, bool detach, int fire, int surrogate = 0>
  void choose_surrogate(const Neuron<F>& k) {
    if constexpr (surrogate + 1 < kSurrogates) {
      if (k.surrogate != surrogate) return choose_surrogate<reset, detach, fire, surrogate + 1>(k);
    }
    gradient = gradient_row<reset, detach, fire, surrogate, F>;
  }

  explicit Rows(const Neuron<F>& k) {
    if (k.leak == kNoLeak) choose_leak<kNoLeak>(k);
    else if (k.leak == kDecayInput) choose_leak<kDecayInput>(k);
    else choose_leak<kKeepInput>(k);
  }
};

}  // namespace
}  // namespace MMSNN_ARCH
}  // namespace mmsnn
