// Derivatives of the ops; x is all that is kept between the passes.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "ops.h"

namespace mmsnn {
namespace {

struct LifFunction : torch::autograd::Function<LifFunction> {
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* ctx, const Tensor& x,
                                                const Maybe& tau, const Maybe& v_init, int64_t T, at::IntArrayRef kind,
                                                at::ArrayRef<double> values, bool return_v) {
    at::AutoDispatchBelowADInplaceOrView guard;
    static auto op = c10::Dispatcher::singleton().findSchemaOrThrow("mmsnn::lif", "").typed<decltype(lif)>();
    auto [spikes, v] = op.call(x, T, kind, values, tau, v_init, return_v);
    ctx->save_for_backward({x, tau.value_or(Tensor()), v_init.value_or(Tensor())});
    ctx->saved_data["T"] = T;
    ctx->saved_data["kind"] = kind.vec();
    ctx->saved_data["values"] = values.vec();
    ctx->saved_data["return_v"] = return_v;
    ctx->set_materialize_grads(false);
    if (!return_v) ctx->mark_non_differentiable({v});
    return {spikes, v};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &tau = saved[1], &v_init = saved[2];
    const bool with_v = ctx->saved_data["return_v"].toBool() && grads[1].defined();
    if (!grads[0].defined() && !with_v) return torch::autograd::variable_list(7);
    const Tensor grad = grads[0].defined() ? grads[0] : at::zeros_like(x);
    static auto op =
        c10::Dispatcher::singleton().findSchemaOrThrow("mmsnn::lif_backward", "").typed<decltype(lif_backward)>();
    const auto kind = ctx->saved_data["kind"].toIntVector();
    const auto values = ctx->saved_data["values"].toDoubleVector();
    const auto maybe = [](const Tensor& t) { return t.defined() ? Maybe(t) : Maybe(); };
    auto [grad_x, grad_tau, grad_first] =
        op.call(grad, with_v ? Maybe(grads[1]) : Maybe(), x, ctx->saved_data["T"].toInt(), kind, values, maybe(tau),
                maybe(v_init));
    // gradients in the shape and type of what was given
    if (v_init.defined()) grad_first = grad_first.reshape_symint(v_init.sym_sizes()).to(v_init.scalar_type());
    return {grad_x, tau.defined() ? grad_tau : Tensor(), v_init.defined() ? grad_first : Tensor(), {}, {}, {}, {}};
  }
};

Two lif_autograd(const Tensor& x, int64_t T, at::IntArrayRef kind, at::ArrayRef<double> values, const Maybe& tau,
                 const Maybe& v_init, bool return_v) {
  auto out = LifFunction::apply(x, tau, v_init, T, kind, values, return_v);
  return {out[0], out[1]};
}

}  // namespace

#define MMSNN_DERIVATIVES(m)                                                                             \
  m.impl("lif", lif_autograd);                                                                           \
  /* a second derivative is an error, not a zero */                                                      \
  for (const char* name : {"lif_backward", "bn_lif", "bn_lif_reduce", "bn_lif_backward", "bn_moments"}) \
    m.impl(name, torch::autograd::autogradNotImplementedFallback());

// The same in C++, in less time, as fallback.py has registered for all devices.
TORCH_LIBRARY_IMPL(mmsnn, AutogradCPU, m) { MMSNN_DERIVATIVES(m) }
TORCH_LIBRARY_IMPL(mmsnn, AutogradCUDA, m) { MMSNN_DERIVATIVES(m) }

}  // namespace mmsnn
