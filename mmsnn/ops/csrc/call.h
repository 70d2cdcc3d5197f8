// The arguments of an op become a job.
#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "ops.h"

namespace mmsnn {

inline at::ScalarType membrane_type(const Tensor& x) { return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

// x as it is where its memory is [T, N] with nothing in between, else a copy; layout.py does the same for the fake kernels.
inline Tensor dense(const Tensor& x) {
  const bool outermost = x.size(0) == 1 || x.stride(0) * x.size(0) == x.numel();
  return x.is_non_overlapping_and_dense() && outermost ? x : x.contiguous();
}

inline bool lies_as(const Tensor& t, const Tensor& x) {
  return t.scalar_type() == x.scalar_type() && t.strides() == x.strides() && t.device() == x.device();
}

// t in the strides of x
inline Tensor match(const Tensor& t, const Tensor& x) {
  TORCH_CHECK_VALUE(t.sizes() == x.sizes(), "the gradient of spikes ", x.sizes(), " has the shape ", t.sizes());
  if (lies_as(t, x)) return t;
  return at::empty_like(x).copy_(t);
}

// One time step of x, for its shape and strides.
inline Tensor one_step(const Tensor& x, int64_t T) {
  return x.size(0) == T ? x.select(0, 0) : x.narrow(0, 0, x.size(0) / T);
}

inline Tensor potential(const Tensor& x, int64_t T, bool wanted) {
  const auto options = x.options().dtype(membrane_type(x));
  return wanted ? at::empty_like(one_step(x, T), options) : at::empty({0}, options);
}

// A potential, or its gradient, in the memory order of one time step of x.
inline Maybe fit(const Maybe& v, const Tensor& x, int64_t T) {
  if (!v || !v->defined()) return {};
  TORCH_CHECK_VALUE(v->numel() * T == x.numel(), "a potential must hold one time step of x ", x.sizes(), ", got ",
                    v->sizes());
  Tensor out = potential(x, T, true);
  const Tensor shaped = v->reshape(out.sizes());
  if (lies_as(shaped, out)) return shaped;
  return out.copy_(shaped);
}

template <typename F>
const F* pointer(const Maybe& t) {
  return t && t->defined() ? t->template const_data_ptr<F>() : nullptr;
}

// Which neuron. kind: leak, reset, surrogate, fire, levels, detach_reset (lif.h); values: 1 / tau, v_threshold,
// v_rest, alpha; tau instead of values[0] where it is learned.
struct NeuronArgs {
  at::IntArrayRef kind;
  at::ArrayRef<double> values;
  Maybe tau;

  bool has_tau() const { return tau && tau->defined(); }
  // without a leak there is no time constant
  bool learns() const { return has_tau() && kind[0] != kNoLeak; }

  template <typename F>
  Neuron<F> neuron() const {
    return {F(values[0]), F(values[1]), F(values[2]), F(values[3]), int(kind[4]),
            int(kind[0]), int(kind[1]), int(kind[2]), int(kind[3]), int(kind[5])};
  }

  // as mmsnn/ops/neuron.py decodes and checks them
  void check() const {
    TORCH_CHECK_VALUE(kind.size() == 6 && values.size() == 4, "expected 6 numbers in kind and 4 in values");
    TORCH_CHECK_VALUE(kind[0] >= 0 && kind[0] < 3 && (kind[1] | 1) == 1 && kind[2] >= 0 && kind[2] < kSurrogates &&
                      kind[3] >= 0 && kind[3] < 3 && kind[4] >= 1 && kind[4] <= 255 && (kind[5] | 1) == 1,
                      "unknown kind of neuron ", kind);
    TORCH_CHECK_VALUE(kind[4] == 1 || kind[3] != kBinary, "levels=", kind[4], " of a neuron that fires or not");
    TORCH_CHECK_VALUE(kind[1] == kSoft || (kind[4] == 1 && kind[3] != kLevels), "levels need the soft reset");
    TORCH_CHECK_VALUE(kind[0] == kNoLeak || (values[0] > 0 && values[0] <= 1 && std::isfinite(1 / values[0])),
                      "a neuron that leaks needs 1 / tau above 0 and at most 1, got ", values[0]);
    TORCH_CHECK_VALUE(std::isfinite(values[1]) && values[1] > 0, "v_threshold must be finite and above 0, got ", values[1]);
    TORCH_CHECK_VALUE(kind[1] == kSoft ? values[2] == 0 : std::isfinite(values[2]) && values[2] < values[1],
                      "v_rest must lie below v_threshold, and be 0 with the soft reset, got ", values[2]);
    TORCH_CHECK_VALUE(std::isfinite(values[3]) && values[3] > 0, "alpha must be finite and above 0, got ", values[3]);
    if (has_tau()) TORCH_CHECK_VALUE(tau->numel() == 1, "a tensor tau must hold one number, got shape ", tau->sizes());
  }

  void check(const Tensor& x, int64_t T) const {
    check();
    TORCH_CHECK_VALUE(T >= 1 && x.dim() >= 1 && x.size(0) % T == 0, "the first dimension of x must hold T=", T,
                      " time steps, got shape ", x.sizes());
  }
};

// Batch norm in front of the neurons; all but `scale` and `shift` belong to its backward.
struct NormArgs {
  Maybe scale, shift, mean, offset, slope;

  NormArgs on(const Tensor& x) const {
    NormArgs out = *this;
    for (Maybe* each : {&out.scale, &out.shift, &out.mean, &out.offset, &out.slope}) {
      if (!*each) continue;
      TORCH_CHECK_VALUE(x.dim() >= 2 && (*each)->numel() == x.size(1), "batch norm of x ", x.sizes(),
                        " needs one number a channel, got ", (*each)->numel());
      *each = (*each)->to(x.device(), membrane_type(x)).contiguous();
    }
    return out;
  }
};

// Everything a job points to.
struct Call {
  Tensor x;
  int64_t T;
  NeuronArgs neuron;
  NormArgs norm;
  Maybe tau, v_init;

  Call(const Tensor& input, int64_t T, const NeuronArgs& neuron, const Maybe& v, const NormArgs& norm = {})
      : T(T), neuron(neuron) {
    neuron.check(input, T);
    x = dense(input);
    v_init = fit(v, x, T);
    this->norm = norm.on(x);
    if (neuron.learns()) tau = neuron.tau->to(x.device(), membrane_type(x));
  }

  template <typename F>
  Job<F> job() const {
    Job<F> job{};
    job.type = type_of(x);
    job.T = T;
    job.N = x.numel() / T;
    job.x = x.const_data_ptr();
    job.neuron = neuron.neuron<F>();
    job.tau = pointer<F>(tau);
    job.v_init = pointer<F>(v_init);
    if (norm.scale) {
      job.channels = x.size(1);
      job.inner = std::max<i64>(1, x.stride(1));
    }
    job.scale = pointer<F>(norm.scale);
    job.shift = pointer<F>(norm.shift);
    job.mean = pointer<F>(norm.mean);
    job.offset = pointer<F>(norm.offset);
    job.slope = pointer<F>(norm.slope);
    return job;
  }
};

}  // namespace mmsnn
