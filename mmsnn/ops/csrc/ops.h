// The host side that CPU and CUDA share: a device supplies these functions of a job.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

#include "job.h"

namespace mmsnn {

template <typename F>
struct Device {
  void (*forward)(const Job<F>&);
  void (*backward)(const Job<F>&);
  i64 (*parts)(const Job<F>&);            // how many sums `grad_rate` takes
  at::Tensor (*reduce)(Job<F>);           // backward's sums, double [2, channels]
  // mean and biased variance of each channel of dense x [B, C, ...]
  std::tuple<at::Tensor, at::Tensor> (*moments)(const at::Tensor& x);
};

struct Packing {
  // throws ValueError, or fails on the device, if x holds anything else than what `bits` can
  void (*pack)(const at::Tensor& x, int type, int bits, at::Tensor& out);
  void (*unpack)(const at::Tensor& packed, int bits, at::Tensor& out, int type);
};

// Called while the library is loaded, if it was built with CUDA.
void register_cuda(const Device<float>&, const Device<double>&, const Packing&);

inline int type_of(const at::Tensor& x) {
  switch (x.scalar_type()) {
    case at::kFloat: return kFloat;
    case at::kDouble: return kDouble;
    case at::kHalf: return kHalf;
    case at::kBFloat16: return kBFloat16;
    default: TORCH_CHECK_TYPE(false, "expected float16, bfloat16, float32 or float64, got ", x.scalar_type());
  }
}

}  // namespace mmsnn
