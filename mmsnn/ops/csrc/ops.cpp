// mmsnn's ops: the arguments of an op become a job, which a device runs. The schemas are defined in Python.
#include "ops.h"

#include <ATen/ATen.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include <algorithm>
#include <cstddef>
#include <tuple>

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

// Arguments to jobs --------------------------------------------------------------------------------------------------

at::ScalarType membrane_type(const Tensor& x) { return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

// x as it is where its memory is [T, N] with nothing in between, else a copy; library.py's fake kernels do the same.
Tensor dense(const Tensor& x) {
  const bool outermost = x.size(0) == 1 || x.stride(0) * x.size(0) == x.numel();
  return x.is_non_overlapping_and_dense() && outermost ? x : x.contiguous();
}

bool lies_as(const Tensor& t, const Tensor& x) {
  return t.scalar_type() == x.scalar_type() && t.strides() == x.strides() && t.device() == x.device();
}

// t in the strides of x
Tensor match(const Tensor& t, const Tensor& x) {
  TORCH_CHECK_VALUE(t.sizes() == x.sizes(), "the gradient of spikes ", x.sizes(), " has the shape ", t.sizes());
  if (lies_as(t, x)) return t;
  return at::empty_like(x).copy_(t);
}

// One time step of x, for its shape and strides.
Tensor one_step(const Tensor& x, int64_t T) { return x.size(0) == T ? x.select(0, 0) : x.narrow(0, 0, x.size(0) / T); }

Tensor potential(const Tensor& x, int64_t T, bool wanted) {
  const auto options = x.options().dtype(membrane_type(x));
  return wanted ? at::empty_like(one_step(x, T), options) : at::empty({0}, options);
}

// A potential, or its gradient, in the memory order of one time step of x.
Maybe fit(const Maybe& v, const Tensor& x, int64_t T) {
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
  return t && t->defined() ? t->template data_ptr<F>() : nullptr;
}

// Which neuron. kind: leak, reset, surrogate, fire, levels, detach_reset (lif.h); values: 1 / tau, v_threshold,
// v_rest, alpha; tau instead of values[0] where it is learned.
struct NeuronArgs {
  at::IntArrayRef kind;
  at::ArrayRef<double> values;
  Maybe tau;

  bool learns() const { return tau && tau->defined(); }

  template <typename F>
  Neuron<F> neuron() const {
    return {F(values[0]), F(values[1]), F(values[2]), F(values[3]), int(kind[4]),
            int(kind[0]), int(kind[1]), int(kind[2]), int(kind[3]), int(kind[5])};
  }

  void check(const Tensor& x, int64_t T) const {
    TORCH_CHECK_VALUE(kind.size() == 6 && values.size() == 4, "expected 6 numbers in kind and 4 in values");
    TORCH_CHECK_VALUE(kind[0] >= 0 && kind[0] < 3 && (kind[1] | 1) == 1 && kind[2] >= 0 && kind[2] < 4 &&
                      kind[3] >= 0 && kind[3] < 3 && kind[4] >= 1, "unknown kind of neuron ", kind);
    TORCH_CHECK_VALUE(T >= 1 && x.dim() >= 1 && x.size(0) % T == 0, "the first dimension of x must hold T=", T,
                      " time steps, got shape ", x.sizes());
    if (learns()) TORCH_CHECK_VALUE(tau->numel() == 1, "a tensor tau must hold one number, got shape ", tau->sizes());
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
    job.x = x.data_ptr();
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
  Tensor grad_tau = learns ? at::zeros_like(*call.neuron.tau) : at::empty({0}, grad_first.options());
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

// The size of a job and where its members lie, for mmsnn/ops/cuda_host.py to compare with its own.
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
