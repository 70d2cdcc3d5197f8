// Arguments of the event-driven ops, checked: geometry, types, and the events of a map.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "arch.h"
#include "event.h"
#include "ops.h"
#include "pool.h"

namespace mmsnn {

inline const EventKernels& kernels_here() { return MMSNN_FOR_ARCH(event_kernels()); }

// channels of a block of weights, which one pixel's registers hold
constexpr i64 kWidest = 64, kNarrowest = 32;

inline i64 width_of(i64 outputs) { return outputs > kNarrowest ? kWidest : kNarrowest; }

inline i64 pair_of(at::IntArrayRef values, size_t i, const char* name) {
  TORCH_CHECK_VALUE(values.size() == 2, name, " must hold two numbers, got ", values);
  return values[i];
}

// The geometry of a convolution, or of pooling, of x [N, C, H, W].
inline Window window_of(const Tensor& x, at::IntArrayRef kernel, at::IntArrayRef stride, at::IntArrayRef padding,
                 at::IntArrayRef dilation) {
  TORCH_CHECK_VALUE(x.dim() == 4, "x must be [N, C, H, W], got shape ", x.sizes());
  Window w{};
  w.H = x.size(2);
  w.W = x.size(3);
  w.kernel_h = pair_of(kernel, 0, "kernel"), w.kernel_w = pair_of(kernel, 1, "kernel");
  w.stride_h = pair_of(stride, 0, "stride"), w.stride_w = pair_of(stride, 1, "stride");
  w.pad_h = pair_of(padding, 0, "padding"), w.pad_w = pair_of(padding, 1, "padding");
  w.dilation_h = pair_of(dilation, 0, "dilation"), w.dilation_w = pair_of(dilation, 1, "dilation");
  // so that no sum below leaves an int
  constexpr i64 most = 1 << 24;
  for (i64 n : {w.kernel_h, w.kernel_w, w.stride_h, w.stride_w, w.dilation_h, w.dilation_w})
    TORCH_CHECK_VALUE(n >= 1 && n < most, "kernel, stride and dilation must be at least 1, got ", kernel, ", ", stride,
                      ", ", dilation);
  for (i64 n : {w.pad_h, w.pad_w}) TORCH_CHECK_VALUE(n >= 0 && n < most, "padding must be at least 0, got ", padding);
  const i64 high = w.H + 2 * w.pad_h - w.dilation_h * (w.kernel_h - 1) - 1;
  const i64 wide = w.W + 2 * w.pad_w - w.dilation_w * (w.kernel_w - 1) - 1;
  TORCH_CHECK_VALUE(high >= 0 && wide >= 0, "the kernel ", kernel, " with dilation ", dilation, " is larger than x ",
                    x.sizes(), " with padding ", padding);
  w.OH = high / w.stride_h + 1;
  w.OW = wide / w.stride_w + 1;
  return w;
}

inline Tensor channels_last(const Tensor& x) { return x.contiguous(at::MemoryFormat::ChannelsLast); }

inline Tensor map_like(const Tensor& x, i64 channels, i64 H, i64 W, at::ScalarType type) {
  return at::empty({x.size(0), channels, H, W}, x.options().dtype(type), at::MemoryFormat::ChannelsLast);
}

// Memory in huge pages for what is read in any order; small tensors need none.
inline Tensor large(at::IntArrayRef sizes, const at::TensorOptions& options) {
#if defined(__linux__)
  constexpr size_t huge = size_t(1) << 21;
  const size_t bytes = c10::multiply_integers(sizes) * options.dtype().itemsize(), whole = (bytes + huge - 1) / huge * huge;
  if (bytes >= huge / 4) {
    void* memory = std::aligned_alloc(huge, whole);
    TORCH_CHECK(memory, "no memory for ", whole, " bytes");
    madvise(memory, whole, MADV_HUGEPAGE);
    return at::from_blob(memory, sizes, [](void* used) { std::free(used); }, options);
  }
#endif
  return at::empty(sizes, options);
}

// The events of x [N, C, H, W], and the memory that holds them.
struct Lists {
  Tensor x, starts, where, values;
  bool graded = false;

  Lists(const Tensor& input, i64 groups) : x(channels_last(input)) {
    const i64 N = x.size(0), C = x.size(1), H = x.size(2), W = x.size(3), channels = C / groups, lines = N * H;
    TORCH_CHECK_VALUE(x.numel() < std::numeric_limits<int>::max() - 64 && groups * lines * (W + 1) < (1ll << 40),
                      "a map of ", x.numel(), " elements has more than an event's number can name: give fewer images at once");
    starts = at::empty({groups, lines, W + 1}, at::kInt);
    where = at::empty({x.numel()}, at::kInt);
    values = at::empty({x.numel()}, at::kFloat);
    if (x.numel() == 0) {
      starts.zero_();
      return;
    }
    int* first = starts.data_ptr<int>();
    int* to = where.data_ptr<int>();
    float* value = values.data_ptr<float>();
    // every part has room for all that it may find
    const i64 parts = std::min<i64>(at::get_num_threads(), groups * lines);
    std::vector<char> found(parts);
    at::parallel_for(0, parts, 1, [&](i64 begin, i64 end) {
      for (i64 part = begin; part < end; ++part) {
        bool other = false;
        i64 from = groups * lines * part / parts;
        const i64 until = groups * lines * (part + 1) / parts;
        i64 count = from * W * channels;
        while (from < until) {
          const i64 group = from / lines, stop = std::min(until, (group + 1) * lines);
          const i64 a = from - group * lines, b = stop - group * lines, skip = group * channels;
          int* into = first + from * (W + 1);
          count = x.scalar_type() == at::kByte
                      ? kernels_here().scan_bytes(x.const_data_ptr<uint8_t>() + skip, W, C, channels, a, b, into, to, value, count, other)
                      : kernels_here().scan_floats(x.const_data_ptr<float>() + skip, W, C, channels, a, b, into, to, value, count, other);
          from = stop;
        }
        found[part] = other;
      }
    });
    graded = std::any_of(found.begin(), found.end(), [](char f) { return f; });
  }

  Events events() const {
    return {starts.data_ptr<int>(), where.data_ptr<int>(), graded ? values.data_ptr<float>() : nullptr};
  }
};

inline void check_spikes(const Tensor& x) {
  TORCH_CHECK_TYPE(x.scalar_type() == at::kByte || x.scalar_type() == at::kFloat,
                   "events are read from uint8 or float32, got ", x.scalar_type());
}

inline void check_groups(const Tensor& x, i64 outputs, i64 groups) {
  TORCH_CHECK_VALUE(x.dim() == 4, "x must be [N, C, H, W], got shape ", x.sizes());
  TORCH_CHECK_VALUE(groups >= 1 && x.size(1) % groups == 0 && outputs % groups == 0 && outputs >= 1 && x.size(1) >= 1,
                    "groups=", groups, " must divide the ", x.size(1), " channels of x and the ", outputs, " outputs");
}

}  // namespace mmsnn
