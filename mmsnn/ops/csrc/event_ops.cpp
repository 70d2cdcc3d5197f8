// The event-driven ops on the CPU: their arguments are checked and become jobs of the kernels in event_kernels.h, on
// torch's threads. The schemas are defined in mmsnn/ops/event.py.
#include <torch/library.h>

#include "call.h"
#include "event_lists.h"

namespace mmsnn {
namespace {

Neuron<float> neuron_of(at::IntArrayRef kind, at::ArrayRef<double> values, const Maybe& tau) {
  const NeuronArgs neuron{kind, values, tau};
  neuron.check();
  TORCH_CHECK_VALUE(kind[3] != kSmooth, "no kind of neuron that emits bytes: ", kind);
  Neuron<float> out = neuron.neuron<float>();
  if (neuron.learns()) out.rate = 1.0f / tau->to(at::kFloat).item<float>();
  return out;
}

void check_steps(i64 rows, i64 T) {
  TORCH_CHECK_VALUE(T >= 1 && rows % T == 0, "the first dimension of x, ", rows, ", must hold T=", T, " time steps");
}

Maybe row_of(const Maybe& values, i64 n, const char* name) {
  if (!values || !values->defined()) return {};
  TORCH_CHECK_VALUE(values->dim() == 1 && values->numel() == n, name, " must hold one number for each of the ", n,
                    " outputs, got shape ", values->sizes());
  TORCH_CHECK_TYPE(values->scalar_type() == at::kFloat, name, " must be float32, got ", values->scalar_type());
  return values->contiguous();
}

void run(const Layer& s) {
  const i64 all = s.groups * s.blocks * s.B * s.window.OH;
  at::parallel_for(0, all, 1, [&](i64 begin, i64 end) { kernels_here().layer(s, begin, end); });
}

// Weights as the kernels read them: [groups, blocks, kernel * channels, width].
Tensor event_rows(const Tensor& weight, int64_t groups, bool half) {
  TORCH_CHECK_VALUE(weight.dim() == 4 && weight.numel() > 0 && groups >= 1 && weight.size(0) % groups == 0,
                    "weights must be [outputs, channels, kernel, kernel], their outputs a multiple of groups=", groups,
                    ", got shape ", weight.sizes());
  TORCH_CHECK_TYPE(weight.is_floating_point(), "weights must be floating point, got ", weight.scalar_type());
  const i64 outputs = weight.size(0) / groups, width = width_of(outputs), blocks = (outputs + width - 1) / width;
  const i64 rows = weight.numel() / weight.size(0);
  Tensor laid = weight.to(at::kFloat).reshape({groups, outputs, weight.size(1), -1}).permute({0, 3, 2, 1});
  laid = at::constant_pad_nd(laid.reshape({groups, rows, outputs}), {0, blocks * width - outputs});
  laid = laid.reshape({groups, rows, blocks, width}).permute({0, 2, 1, 3});
  if (half) {
    const Tensor upper = laid.narrow(3, 0, width / 2), lower = laid.narrow(3, width / 2, width / 2);
    const Tensor tail = lower.to(at::kBFloat16).contiguous().view(at::kShort).to(at::kInt).bitwise_and(0xffff);
    // of the words with this tail and sign, the nearest
    const Tensor bits = upper.contiguous().view(at::kInt), size = bits.bitwise_and(0x7fffffff);
    const Tensor whole = (size - tail + 0x8000).clamp_min(0).bitwise_and(~0xffff);
    const Tensor rounded = bits.bitwise_and(std::numeric_limits<int>::min()).bitwise_or(whole).bitwise_or(tail);
    return large(rounded.sizes(), rounded.options()).copy_(rounded);
  }
  return large(laid.sizes(), laid.options()).copy_(laid);
}

struct Shape {
  Window window;
  i64 outputs, groups;
};

Layer layer_of(const Tensor& x, const Tensor& rows, const Shape& shape, i64 T, const Lists& lists) {
  Layer s{};
  s.window = shape.window;
  s.events = lists.events();
  s.T = T;
  s.B = x.size(0) / T;
  s.groups = shape.groups;
  s.channels = x.size(1) / shape.groups;
  s.outputs = shape.outputs / shape.groups;
  s.width = width_of(s.outputs);
  s.blocks = (s.outputs + s.width - 1) / s.width;
  s.half = rows.scalar_type() == at::kInt;
  TORCH_CHECK_TYPE(s.half || rows.scalar_type() == at::kFloat, "rows must be what event_rows gives, got ", rows.scalar_type());
  const std::vector<i64> expected{s.groups, s.blocks, s.window.kernel_h * s.window.kernel_w * s.channels,
                                  s.half ? s.width / 2 : s.width};
  TORCH_CHECK_VALUE(rows.dim() == 4 && std::equal(expected.begin(), expected.end(), rows.sizes().begin()) && rows.is_contiguous(),
                    "rows must be what event_rows gives for these outputs, channels and kernel: shape ",
                    at::IntArrayRef(std::vector<int64_t>(expected.begin(), expected.end())), ", got ", rows.sizes());
  s.rows = rows.const_data_ptr();
  return s;
}

}  // namespace

Two event_layer(const Tensor& x, const Tensor& rows, const Maybe& shift, const Maybe& add, int64_t outputs,
                at::IntArrayRef kernel, at::IntArrayRef stride, at::IntArrayRef padding, at::IntArrayRef dilation,
                int64_t groups, int64_t T, at::IntArrayRef kind, at::ArrayRef<double> values, const Maybe& tau, bool fire,
                bool current) {
  check_spikes(x);
  check_groups(x, outputs, groups);
  check_steps(x.size(0), T);
  const Shape shape{window_of(x, kernel, stride, padding, dilation), outputs, groups};
  const Window& w = shape.window;
  const Tensor none = at::empty({0}, x.options().dtype(at::kFloat));
  Tensor spikes = fire ? map_like(x, outputs, w.OH, w.OW, at::kByte) : at::empty({0}, x.options().dtype(at::kByte));
  Tensor sums = current ? map_like(x, outputs, w.OH, w.OW, at::kFloat) : none;
  const Lists lists(x, groups);
  Layer s = layer_of(x, rows, shape, T, lists);
  const Maybe offset = row_of(shift, outputs, "shift");
  if (offset) s.shift = offset->const_data_ptr<float>();
  Tensor other;
  if (add && add->defined()) {
    TORCH_CHECK_VALUE(add->dim() == 4 && add->size(0) == x.size(0) && add->size(1) == outputs && add->size(2) == w.OH &&
                      add->size(3) == w.OW, "what is added must have the shape of the output, got ", add->sizes());
    check_spikes(*add);
    other = channels_last(*add);
    if (other.scalar_type() == at::kByte) s.add_bytes = other.const_data_ptr<uint8_t>(); else s.add = other.const_data_ptr<float>();
  }
  if (fire) {
    s.neuron = neuron_of(kind, values, tau);
    s.spikes = spikes.data_ptr<uint8_t>();
  }
  if (current) s.current = sums.data_ptr<float>();
  if (x.size(0)) run(s);
  return {spikes, sums};
}

Tensor event_conv(const Tensor& x, const Tensor& weight, const Maybe& bias, at::IntArrayRef stride,
                  at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups) {
  TORCH_CHECK_VALUE(weight.dim() == 4, "weights must be [outputs, channels, kernel, kernel], got shape ", weight.sizes());
  check_groups(x, weight.size(0), groups);
  TORCH_CHECK_VALUE(weight.size(1) * groups == x.size(1), "weights ", weight.sizes(), " with groups=", groups,
                    " do not fit x ", x.sizes());
  TORCH_CHECK_TYPE(weight.scalar_type() == at::kFloat, "weights must be float32, got ", weight.scalar_type());
  return std::get<1>(event_layer(x, event_rows(weight, groups, false), bias, {}, weight.size(0),
                                 {weight.size(2), weight.size(3)}, stride, padding, dilation, groups, 1, {}, {}, {}, false, true));
}

Tensor event_conv_weight_grad(const Tensor& grad, const Tensor& x, at::IntArrayRef kernel, at::IntArrayRef stride,
                              at::IntArrayRef padding, at::IntArrayRef dilation, int64_t groups) {
  check_spikes(x);
  TORCH_CHECK_VALUE(grad.dim() == 4 && x.dim() == 4, "expected maps [N, C, H, W], got ", grad.sizes(), " and ", x.sizes());
  const i64 outputs = grad.size(1);
  check_groups(x, outputs, groups);
  const Shape shape{window_of(x, kernel, stride, padding, dilation), outputs, groups};
  const Window& w = shape.window;
  TORCH_CHECK_VALUE(grad.size(0) == x.size(0) && grad.size(2) == w.OH && grad.size(3) == w.OW, "the gradient ",
                    grad.sizes(), " is none of a convolution of x ", x.sizes(), " with these arguments");
  TORCH_CHECK_TYPE(grad.scalar_type() == at::kFloat, "the gradient must be float32, got ", grad.scalar_type());
  const Tensor from = channels_last(grad);
  const Lists lists(x, groups);
  Layer s{};
  s.window = w;
  s.events = lists.events();
  s.T = 1;
  s.B = x.size(0);
  s.groups = groups;
  s.channels = x.size(1) / groups;
  s.outputs = outputs / groups;
  s.width = kWidest;
  s.blocks = (s.outputs + s.width - 1) / s.width;
  const i64 rows = w.kernel_h * w.kernel_w * s.channels;
  Tensor sums = at::empty({groups, s.blocks, rows, s.width}, grad.options().memory_format(at::MemoryFormat::Contiguous));
  kernels_here();
  at::parallel_for(0, groups * s.blocks, 1, [&](i64 begin, i64 end) {
    kernels_here().weight_grad(s, from.const_data_ptr<float>(), sums.data_ptr<float>(), begin, end);
  });
  Tensor out = sums.permute({0, 2, 1, 3}).reshape({groups, w.kernel_h * w.kernel_w, s.channels, s.blocks * s.width});
  out = out.narrow(3, 0, s.outputs).permute({0, 3, 2, 1}).reshape({outputs, s.channels, w.kernel_h, w.kernel_w});
  return out.contiguous();
}

Tensor event_lif(const Tensor& input, int64_t T, bool repeat, at::IntArrayRef kind, at::ArrayRef<double> values,
                 const Maybe& tau) {
  TORCH_CHECK_TYPE(input.scalar_type() == at::kFloat, "the input must be float32, got ", input.scalar_type());
  TORCH_CHECK_VALUE(input.dim() >= 1, "the input must have a first dimension of images");
  check_steps(repeat ? T : input.size(0), T);
  const bool outermost = input.size(0) <= 1 || input.stride(0) * input.size(0) == input.numel();
  const Tensor x = input.is_non_overlapping_and_dense() && outermost ? input : input.contiguous();
  std::vector<int64_t> sizes = x.sizes().vec(), strides = x.strides().vec();
  if (repeat) {
    // of a single image, the first stride may be any number
    strides[0] = c10::multiply_integers(sizes.begin() + 1, sizes.end());
    sizes[0] *= T;
  }
  Tensor out = at::empty_strided(sizes, strides, x.options().dtype(at::kByte));
  Firing f{};
  f.T = T;
  f.N = repeat ? x.numel() : x.numel() / T;
  f.repeat = repeat;
  f.neuron = neuron_of(kind, values, tau);
  if (x.numel() == 0) return out;
  f.x = x.const_data_ptr<float>();
  f.spikes = out.data_ptr<uint8_t>();
  const i64 blocks = (f.N + kFireBlock - 1) / kFireBlock;
  at::parallel_for(0, blocks, std::max<i64>(1, 32 / T), [&](i64 begin, i64 end) { kernels_here().fire(f, begin, end); });
  return out;
}

Tensor event_max_pool(const Tensor& input, at::IntArrayRef kernel, at::IntArrayRef stride, at::IntArrayRef padding,
                      at::IntArrayRef dilation) {
  TORCH_CHECK_TYPE(input.scalar_type() == at::kByte, "expected spikes as uint8, got ", input.scalar_type());
  const Window w = window_of(input, kernel, stride, padding, dilation);
  TORCH_CHECK_VALUE(2 * w.pad_h <= w.kernel_h && 2 * w.pad_w <= w.kernel_w, "padding ", padding,
                    " must be at most half the kernel ", kernel);
  const Tensor x = channels_last(input);
  Tensor out = map_like(x, x.size(1), w.OH, w.OW, at::kByte);
  at::parallel_for(0, x.size(0) * w.OH, 8, [&](i64 begin, i64 end) {
    kernels_here().max_pool(x.const_data_ptr<uint8_t>(), out.data_ptr<uint8_t>(), w, x.size(1), begin, end);
  });
  return out;
}

Tensor event_count(const Tensor& input) {
  TORCH_CHECK_TYPE(input.scalar_type() == at::kByte, "expected spikes as uint8, got ", input.scalar_type());
  const Tensor x = input.is_non_overlapping_and_dense() ? input : input.contiguous();
  Tensor out = at::empty({}, x.options().dtype(at::kLong).memory_format(at::MemoryFormat::Contiguous));
  *out.data_ptr<int64_t>() = kernels_here().count(x.const_data_ptr<uint8_t>(), x.numel());
  return out;
}

TORCH_LIBRARY_IMPL(mmsnn, CPU, m) {
  m.impl("event_rows", event_rows);
  m.impl("event_layer", event_layer);
  m.impl("event_conv", event_conv);
  m.impl("event_conv_weight_grad", event_conv_weight_grad);
  m.impl("event_lif", event_lif);
  m.impl("event_max_pool", event_max_pool);
  m.impl("event_count", event_count);
}

}  // namespace mmsnn

// A hash of `samples` words of each block of memory, evenly apart; mmsnn/inference/weights.py asks through ctypes.
extern "C" uint64_t mmsnn_fingerprint(const void** data, const int64_t* bytes, int blocks, int samples) {
  uint64_t hash = 14695981039346656037ull;
  for (int block = 0; block < blocks; ++block) {
    const uint32_t* words = static_cast<const uint32_t*>(data[block]);
    const int64_t n = bytes[block] / 4, step = std::max<int64_t>(1, n / samples);
    for (int64_t i = 0; i < n; i += step) hash = (hash ^ words[i]) * 1099511628211ull;
    if (n) hash = (hash ^ words[n - 1]) * 1099511628211ull;
  }
  return hash;
}
