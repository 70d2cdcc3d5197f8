// mmsnn's ops: the job that an op's arguments become (call.h) is run by a device. The schemas are defined in Python.
#include <ATen/ATen.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include <algorithm>
#include <cstddef>
#include <tuple>

#include "call.h"
#include "pool.h"

namespace mmsnn {
namespace {

template <typename F>
const Device<F>* cuda_device = nullptr;
const Packing* cuda_packing = nullptr;

template <typename F>
const Device<F>& device_of(const Tensor& x) {
  return x.is_cuda() ? *cuda_device<F> : cpu_device<F>();
}

const Packing& packing_of(const Tensor& x) {
  return x.is_cuda() ? *cuda_packing : cpu_packing();
}

template <typename Body>
void with_membrane(const Tensor& x, Body body) {
  type_of(x);  // refuses what is no floating-point number
  if (x.numel() == 0) return;
  const c10::DeviceGuard guard(x.device());
  if (x.scalar_type() == at::kDouble) body(double{}); else body(float{});
}

Two forward(const Call& call, bool return_v) {
  Tensor out = fresh(call.x), v_last = potential(call.x, call.T, return_v);
  with_membrane(call.x, [&](auto zero) {
    using F = decltype(zero);
    Job<F> job = call.job<F>();
    job.out = out.data_ptr();
    job.v_last = return_v ? v_last.data_ptr<F>() : nullptr;
    device_of<F>(call.x).forward(job);
  });
  return {out, v_last};
}

Three backward(const Call& call, const Tensor& grad, const Maybe& grad_v) {
  const Tensor& x = call.x;
  const Tensor grad_s = match(grad, x);
  const Maybe last = fit(grad_v, x, call.T);
  const bool learns = call.neuron.learns();
  Tensor grad_x = fresh(x), grad_first = potential(x, call.T, call.v_init.has_value());
  Tensor grad_tau = call.neuron.has_tau() ? at::zeros_like(*call.neuron.tau) : at::empty({0}, grad_first.options());
  with_membrane(x, [&](auto zero) {
    using F = decltype(zero);
    const Device<F>& device = device_of<F>(x);
    Job<F> job = call.job<F>();
    job.out = grad_x.data_ptr();
    job.grad_s = grad_s.data_ptr();
    job.grad_v = pointer<F>(last);
    job.grad_v_init = call.v_init ? grad_first.data_ptr<F>() : nullptr;
    Tensor rates;
    if (learns) {
      rates = at::zeros({device.parts(job)}, x.options().dtype(at::kDouble));
      job.grad_rate = rates.data_ptr<double>();
    }
    device.backward(job);
    // d (1 / tau) / d tau
    if (learns) {
      const Tensor slope = rates.sum() / call.tau->to(at::kDouble).square().neg();
      grad_tau = slope.to(grad_tau.options()).view_as(grad_tau);
    }
  });
  return {grad_x, grad_tau, grad_first};
}

}  // namespace

// Ops ----------------------------------------------------------------------------------------------------------------

Two lif(const Tensor& x, int64_t T, at::IntArrayRef kind, at::ArrayRef<double> values, const Maybe& tau,
        const Maybe& v_init, bool return_v) {
  return forward(Call(x, T, {kind, values, tau}, v_init), return_v);
}

Three lif_backward(const Tensor& grad, const Maybe& grad_v, const Tensor& x, int64_t T, at::IntArrayRef kind,
                   at::ArrayRef<double> values, const Maybe& tau, const Maybe& v_init) {
  return backward(Call(x, T, {kind, values, tau}, v_init), grad, grad_v);
}

Two bn_lif(const Tensor& x, const Tensor& scale, const Tensor& shift, int64_t T, at::IntArrayRef kind,
           at::ArrayRef<double> values, const Maybe& tau, const Maybe& v_init, bool return_v) {
  return forward(Call(x, T, {kind, values, tau}, v_init, {scale, shift}), return_v);
}

Two bn_lif_reduce(const Tensor& grad, const Maybe& grad_v, const Tensor& x, const Tensor& scale, const Tensor& shift,
                  const Tensor& mean, int64_t T, at::IntArrayRef kind, at::ArrayRef<double> values, const Maybe& tau,
                  const Maybe& v_init) {
  const Call call(x, T, {kind, values, tau}, v_init, {scale, shift, mean});
  const Tensor grad_s = match(grad, call.x);
  const Maybe last = fit(grad_v, call.x, T);
  Tensor sums = at::zeros({2, x.size(1)}, x.options().dtype(membrane_type(x)));
  with_membrane(call.x, [&](auto zero) {
    using F = decltype(zero);
    Job<F> job = call.job<F>();
    job.grad_s = grad_s.data_ptr();
    job.grad_v = pointer<F>(last);
    sums = device_of<F>(call.x).reduce(job).to(sums.scalar_type());
  });
  return {sums[0].clone(), sums[1].clone()};
}

Three bn_lif_backward(const Tensor& grad, const Maybe& grad_v, const Tensor& x, const Tensor& scale,
                      const Tensor& shift, const Tensor& mean, const Tensor& offset, const Tensor& slope, int64_t T,
                      at::IntArrayRef kind, at::ArrayRef<double> values, const Maybe& tau, const Maybe& v_init) {
  return backward(Call(x, T, {kind, values, tau}, v_init, {scale, shift, mean, offset, slope}), grad, grad_v);
}

Two bn_moments(const Tensor& input) {
  TORCH_CHECK_VALUE(input.dim() >= 2 && input.numel() > 0, "batch statistics need values, got shape ", input.sizes());
  const Tensor x = dense(input);
  Two out;
  with_membrane(x, [&](auto zero) { out = device_of<decltype(zero)>(x).moments(x); });
  return out;
}

Tensor pack(const Tensor& input, int64_t bits) {
  TORCH_CHECK_VALUE(bits == 1 || bits == 8, "bits must be 1 (spikes) or 8 (integers up to 255), got ", bits);
  const Tensor x = input.is_non_overlapping_and_dense() ? input : input.contiguous();
  const int64_t n = x.numel();
  Tensor out = at::empty({bits == 1 ? (n + 7) / 8 : n}, x.options().dtype(at::kByte));
  const int type = type_of(x);
  const c10::DeviceGuard guard(x.device());
  if (n) packing_of(x).pack(x, type, static_cast<int>(bits), out);
  return out;
}

Tensor unpack(const Tensor& bytes, at::IntArrayRef size, at::IntArrayRef stride, at::ScalarType dtype, int64_t bits) {
  TORCH_CHECK_VALUE(bits == 1 || bits == 8, "bits must be 1 (spikes) or 8 (integers up to 255), got ", bits);
  const Tensor packed = bytes.contiguous();
  Tensor out = at::empty_strided(size, stride, packed.options().dtype(dtype));
  const int64_t n = out.numel();
  TORCH_CHECK_TYPE(packed.scalar_type() == at::kByte, "expected packed spikes, got ", packed.scalar_type());
  TORCH_CHECK_VALUE(out.is_non_overlapping_and_dense() && packed.numel() == (bits == 1 ? (n + 7) / 8 : n),
                    packed.numel(), " bytes do not hold size ", size, " with strides ", stride);
  const int type = type_of(out);
  const c10::DeviceGuard guard(out.device());
  if (n) packing_of(packed).unpack(packed, static_cast<int>(bits), out, type);
  return out;
}

#define MMSNN_KERNELS(m)                     \
  m.impl("lif", lif);                        \
  m.impl("lif_backward", lif_backward);      \
  m.impl("bn_lif", bn_lif);                  \
  m.impl("bn_lif_reduce", bn_lif_reduce);    \
  m.impl("bn_lif_backward", bn_lif_backward); \
  m.impl("bn_moments", bn_moments);          \
  m.impl("pack", pack);                      \
  m.impl("unpack", unpack);

void register_cuda(const Device<float>& of_float, const Device<double>& of_double, const Packing& packing) {
  cuda_device<float> = &of_float;
  cuda_device<double> = &of_double;
  cuda_packing = &packing;
  static auto library = torch::Library(torch::Library::IMPL, "mmsnn", c10::DispatchKey::CUDA, __FILE__, __LINE__);
  MMSNN_KERNELS(library)
}

TORCH_LIBRARY_IMPL(mmsnn, CPU, m) { MMSNN_KERNELS(m) }

}  // namespace mmsnn

// Python asks through ctypes: the build needs no Python headers.
extern "C" const char* mmsnn_sources() { return MMSNN_SOURCES; }

// The size of a job and where its members lie, for a test to compare with those in mmsnn/ops/cuda_kernels.py.
extern "C" int mmsnn_job(int wide, int64_t* offsets) {
  const auto fill = [&](auto zero) {
    using F = decltype(zero);
    using J = mmsnn::Job<F>;
    const std::size_t found[] = {
        offsetof(J, T), offsetof(J, N), offsetof(J, x), offsetof(J, out), offsetof(J, tau), offsetof(J, v_init),
        offsetof(J, v_last), offsetof(J, grad_s), offsetof(J, grad_v), offsetof(J, grad_v_init),
        offsetof(J, grad_rate), offsetof(J, starts), offsetof(J, channels), offsetof(J, inner), offsetof(J, scale),
        offsetof(J, shift), offsetof(J, mean), offsetof(J, offset), offsetof(J, slope), offsetof(J, sums),
        offsetof(J, neuron), offsetof(J, neuron) + offsetof(mmsnn::Neuron<F>, levels),
        offsetof(J, neuron) + offsetof(mmsnn::Neuron<F>, detach_reset), offsetof(J, type), sizeof(J)};
    std::copy(std::begin(found), std::end(found), offsets);
    return static_cast<int>(std::size(found));
  };
  return wide ? fill(double{}) : fill(float{});
}
