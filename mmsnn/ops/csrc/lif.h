// One step of a neuron, forwards and backwards: the recurrence that the CPU and the CUDA kernels share.
// mmsnn/ops/reference.py holds the same equations in words. Operations stand in the order in which PyTorch would run
// them, and both directions use the same ones, so that a recomputed spike is the spike (compile without contraction
// to fused multiply-adds). This file includes nothing, so that NVRTC can compile it.
#pragma once

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define MMSNN_METHOD __device__ __forceinline__
#else
#define MMSNN_METHOD inline __attribute__((always_inline))
#endif
#define MMSNN_FN static MMSNN_METHOD

namespace mmsnn {

enum Leak { kNoLeak, kDecayInput, kKeepInput };
enum Reset { kHard, kSoft };
// In the order of SURROGATES in mmsnn/ops/surrogates.py; the last one is their number.
enum Surrogate { kTriangle, kAtan, kSigmoid, kRectangle, kSurrogates };
// What a neuron emits: 0 or 1; integers 0..levels; or the surrogate's integral, whose derivative tests can check.
enum Fire { kBinary, kLevels, kSmooth };

// Settings of a neuron. F is the type of the membrane: float, or double for double inputs.
template <typename F>
struct Neuron {
  F rate;         // 1 / tau
  F v_threshold;
  F v_rest;       // v_reset, 0 for the soft reset
  F alpha;
  int levels;
  int leak, reset, surrogate, fire;
  int detach_reset;
};

template <int leak, typename F>
MMSNN_FN F charge(F v, F x, const Neuron<F>& n) {
  if (leak == kNoLeak) return v + x;
  const F above_rest = v - n.v_rest;
  return leak == kDecayInput ? v + (x - above_rest) * n.rate : v - above_rest * n.rate + x;
}

// d charge / d rate
template <int leak, typename F>
MMSNN_FN F charge_slope(F v, F x, const Neuron<F>& n) {
  if (leak == kNoLeak) return F(0);
  return leak == kDecayInput ? x - (v - n.v_rest) : n.v_rest - v;
}

template <int reset, typename F>
MMSNN_FN F after_reset(F h, F s, const Neuron<F>& n) {
  return reset == kSoft ? h - s * n.v_threshold : (F(1) - s) * h + s * n.v_rest;
}

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
MMSNN_FN float round_even(float u) { return rintf(u); }
MMSNN_FN double round_even(double u) { return rint(u); }
MMSNN_FN float exponential(float u) { return expf(u); }
MMSNN_FN double exponential(double u) { return exp(u); }
MMSNN_FN double arctan(double u) { return atan(u); }
MMSNN_FN float arctan(float u) { return atanf(u); }
// Within 2 units in the last place, and without the branches of an exact quotient; divisors above 2^126 give 0.
MMSNN_FN float quotient(float a, float b) { return __fdividef(a, b); }
MMSNN_FN double quotient(double a, double b) { return a / b; }
#else
template <typename F>
MMSNN_FN F quotient(F a, F b) { return a / b; }
MMSNN_FN float round_even(float u) { return __builtin_rintf(u); }
MMSNN_FN double round_even(double u) { return __builtin_rint(u); }
MMSNN_FN double exponential(double u) { return __builtin_exp(u); }
MMSNN_FN double arctan(double u) { return __builtin_atan(u); }
MMSNN_FN float arctan(float u) { return __builtin_atanf(u); }
// Within 2 units in the last place; unlike the library's it becomes vector instructions.
MMSNN_FN float exponential(float u) {
  u = u < -87.3f ? -87.3f : (u > 88.3f ? 88.3f : u);
  const float n = __builtin_rintf(u * 1.44269504f);
  float r = u - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  union { int i; float f; } power;
  power.i = (static_cast<int>(n) + 127) << 23;
  return p * power.f;
}
#endif

template <typename F>
MMSNN_FN F magnitude(F u) { return u < F(0) ? -u : u; }

// The derivative that stands in for that of a step at u = 0.
template <int surrogate, typename F>
MMSNN_FN F surrogate_slope(F u, F alpha) {
  if (surrogate == kAtan) {
    const F w = F(1.5707963267948966) * alpha * u;
    return quotient(alpha / F(2), w * w + F(1));
  }
  if (surrogate == kSigmoid) {
    const F s = quotient(F(1), F(1) + exponential(-alpha * u));
    return alpha * s * (F(1) - s);
  }
  if (surrogate == kTriangle) {
    const F slope = alpha - alpha * alpha * magnitude(u);
    return slope < F(0) ? F(0) : slope;
  }
  return magnitude(u) < F(0.5) / alpha ? alpha : F(0);
}

// Its integral, from 0 to 1.
template <typename F>
MMSNN_FN F surrogate_step(F u, int surrogate, F alpha) {
  if (surrogate == kAtan) return arctan(F(1.5707963267948966) * alpha * u) / F(3.141592653589793) + F(0.5);
  if (surrogate == kSigmoid) return F(1) / (F(1) + exponential(-alpha * u));
  const F w = alpha * u;
  if (surrogate == kTriangle) {
    if (w <= F(-1)) return F(0);
    if (w >= F(1)) return F(1);
    return w < F(0) ? F(0.5) * (w + F(1)) * (w + F(1)) : F(1) - F(0.5) * (F(1) - w) * (F(1) - w);
  }
  return w <= F(-0.5) ? F(0) : (w >= F(0.5) ? F(1) : w + F(0.5));
}

template <int fire, typename F>
MMSNN_FN F spike(F h, const Neuron<F>& n) {
  if (fire == kBinary) return h >= n.v_threshold ? F(1) : F(0);
  if (fire == kSmooth) return surrogate_step(h - n.v_threshold, n.surrogate, n.alpha);
  F u = h / n.v_threshold;
  u = u < F(0) ? F(0) : (u > F(n.levels) ? F(n.levels) : u);
  return round_even(u);
}

// d spike / d h, or what stands in for it
template <int fire, int surrogate, typename F>
MMSNN_FN F spike_slope(F h, const Neuron<F>& n) {
  if (fire != kLevels) return surrogate_slope<surrogate>(h - n.v_threshold, n.alpha);
  const F u = h / n.v_threshold;
  if (surrogate == kRectangle && n.alpha == F(1))
    return (u >= F(0) && u <= F(n.levels) ? F(1) : F(0)) / n.v_threshold;
  F sum = F(0);
  for (int k = 0; k < n.levels; ++k) sum += surrogate_slope<surrogate>(u - (F(k) + F(0.5)), n.alpha);
  return sum / n.v_threshold;
}

// d loss / d h from the gradients of this step's spike and of the potential after its reset
template <int reset, bool detach_reset, typename F>
MMSNN_FN F charge_gradient(F grad_s, F grad_v, F h, F s, F slope, const Neuron<F>& n) {
  F g = grad_s;
  if (!detach_reset) g += reset == kSoft ? -(grad_v * n.v_threshold) : grad_v * n.v_rest - grad_v * h;
  return g * slope + (reset == kSoft ? grad_v : grad_v * (F(1) - s));
}

template <int leak, typename F>
MMSNN_FN F input_gradient(F grad_h, const Neuron<F>& n) {
  return leak == kDecayInput ? grad_h * n.rate : grad_h;
}

template <int leak, typename F>
MMSNN_FN F potential_gradient(F grad_h, const Neuron<F>& n) {
  return leak == kNoLeak ? grad_h : grad_h - grad_h * n.rate;
}

}  // namespace mmsnn
