// The host side that CPU and CUDA share: a device supplies these functions of a job.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

#include "job.h"

namespace mmsnn {

using at::Tensor;
using Maybe = std::optional<Tensor>;
using Two = std::tuple<Tensor, Tensor>;
using Three = std::tuple<Tensor, Tensor, Tensor>;

template <typename F>
struct Device {
  void (*forward)(const Job<F>&);
  void (*backward)(const Job<F>&);
  i64 (*parts)(const Job<F>&);            // how many sums `grad_rate` takes
  Tensor (*reduce)(Job<F>);           // backward's sums, double [2, channels]
  // mean and biased variance of each channel of dense x [B, C, ...]
  Two (*moments)(const Tensor& x);
};

struct Packing {
  // throws ValueError, or fails on the device, if x holds anything else than what `bits` can
  void (*pack)(const Tensor& x, int type, int bits, Tensor& out);
  void (*unpack)(const Tensor& packed, int bits, Tensor& out, int type);
};

template <typename F>
const Device<F>& cpu_device();
const Packing& cpu_packing();

// The ops that autograd.cpp differentiates; `kind` and `values` say which neuron (NeuronArgs in call.h).
Two lif(const Tensor& x, int64_t T, at::IntArrayRef kind, at::ArrayRef<double> values, const Maybe& tau,
        const Maybe& v_init, bool return_v);
Three lif_backward(const Tensor& grad, const Maybe& grad_v, const Tensor& x, int64_t T, at::IntArrayRef kind,
                   at::ArrayRef<double> values, const Maybe& tau, const Maybe& v_init);

// Called while the library is loaded, if it was built with CUDA.
void register_cuda(const Device<float>&, const Device<double>&, const Packing&);

inline int type_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case at::kFloat: return kFloat;
    case at::kDouble: return kDouble;
    case at::kHalf: return kHalf;
    case at::kBFloat16: return kBFloat16;
    default: TORCH_CHECK_TYPE(false, "expected float16, bfloat16, float32 or float64, got ", x.scalar_type());
  }
}

}  // namespace mmsnn
