// CUDA as a device: which kernel serves a job, and its launch. mmsnn/ops/cuda_host.py chooses and launches alike.
#include <ATen/ops/batch_norm_stats.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/where.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <tuple>
#include <type_traits>

#include "kernels.cuh"
#include "ops.h"

namespace mmsnn {
namespace {

using at::Tensor;

template <typename S, int kT, int V, int fire, bool norm, typename F>
__global__ void __launch_bounds__(kThreads) forward_kernel(const Job<F> job) {
  forward<S, kT, V, fire, norm>(job);
}

template <typename S, int kT, int V, int fire, bool norm, typename F>
__global__ void __launch_bounds__(kThreads) backward_kernel(const Job<F> job) {
  backward<S, kT, V, fire, norm>(job);
}

template <typename S, int kT, int V, int fire, typename F>
__global__ void __launch_bounds__(kThreads) reduce_kernel(const Job<F> job, const Walk walk) {
  reduce<S, kT, V, fire>(job, walk);
}

template <typename S, int bits, bool aligned>
__global__ void __launch_bounds__(kThreads) pack_kernel(const void* x, i64 n, unsigned char* out) {
  pack<S, bits, aligned>(x, n, out);
}

template <typename S, int bits, bool aligned>
__global__ void __launch_bounds__(kThreads) unpack_kernel(const unsigned char* packed, i64 n, void* out) {
  unpack<S, bits, aligned>(packed, n, out);
}

i64 ceil_div(i64 a, i64 b) { return (a + b - 1) / b; }

unsigned blocks(i64 threads) { return static_cast<unsigned>(ceil_div(threads, kThreads)); }

bool aligned(std::initializer_list<const void*> pointers) {
  for (const void* p : pointers)
    if (reinterpret_cast<std::uintptr_t>(p) % 16) return false;
  return true;
}

// Which kernel ---------------------------------------------------------------------------------------------------------

template <typename S, int T, int V, int fires>
struct Choice {
  using Storage = S;
  static constexpr int kT = T, width = V, fire = fires;
};

// Neurons of a thread: 4, as long as the registers hold all steps. Of 16-bit numbers, too: with 8 it needs so many
// registers that the backward pass takes a fifth longer.
constexpr int width_of(int T) {
  int width = 4;
  while (width * T > 32) width /= 2;
  return width;
}

// Calls body(Choice) for neurons in memory runs of `length`.
template <typename S, typename F, typename Body>
void with_kernel_of(const Job<F>& job, i64 length, Body body) {
  const int fire = job.neuron.fire;
  if constexpr (sizeof(S) < 8) {
    constexpr int longest = width_of(kSteps);
    const bool rows = aligned({job.x, job.out, job.grad_s, job.v_init, job.v_last, job.grad_v, job.grad_v_init});
    const auto fits = [&](int width) { return rows && length % width == 0; };
#define MMSNN_CASE(steps)                                           \
  if (fire == kBinary && job.T == steps && fits(width_of(steps)))   \
    return body(Choice<S, steps, width_of(steps), kBinary>{});
    MMSNN_CASE(1)
    MMSNN_CASE(2)
    MMSNN_CASE(4)
    MMSNN_CASE(8)
    MMSNN_CASE(16)
#undef MMSNN_CASE
    if (fire == kBinary && fits(longest)) return body(Choice<S, 0, longest, kBinary>{});
    if (fire == kBinary) return body(Choice<S, 0, 1, kBinary>{});
    if (fire == kLevels && fits(longest)) return body(Choice<S, 0, longest, kLevels>{});
  }
  body(Choice<S, 0, 1, kAnyFire>{});
}

template <typename F, typename Body>
void with_kernel(const Job<F>& job, i64 length, Body body) {
  if constexpr (sizeof(F) == 8) with_kernel_of<double>(job, length, body);
  else if (job.type == kFloat) with_kernel_of<float>(job, length, body);
  else if (job.type == kHalf) with_kernel_of<Half>(job, length, body);
  else with_kernel_of<BFloat16>(job, length, body);
}

// The device -----------------------------------------------------------------------------------------------------------

template <typename F>
Tensor room(std::initializer_list<int64_t> size) {
  return at::empty(size, at::TensorOptions(at::kCUDA).dtype(c10::CppTypeToScalarType<F>::value));
}

template <typename F>
struct Cuda {
  template <typename Body>
  static void choose(const Job<F>& job, Body body) {
    if (job.scale) with_kernel(job, job.N, [&](auto choice) { body(choice, std::true_type{}); });
    else with_kernel(job, job.N, [&](auto choice) { body(choice, std::false_type{}); });
  }

  static void forward(const Job<F>& job) {
    choose(job, [&](auto choice, auto norm) {
      using C = decltype(choice);
      forward_kernel<typename C::Storage, C::kT, C::width, C::fire, norm.value>
          <<<blocks(job.N / C::width), kThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(job);
      C10_CUDA_KERNEL_LAUNCH_CHECK();
    });
  }

  static i64 parts(const Job<F>& job) {
    i64 count = 0;
    choose(job, [&](auto choice, auto) { count = blocks(job.N / decltype(choice)::width); });
    return count;
  }

  static Tensor starts(Job<F>& job) {
    Tensor out = room<F>({(job.T - 1) / kSteps, job.N});
    job.starts = out.template data_ptr<F>();
    return out;
  }

  static void backward(const Job<F>& given) {
    Job<F> job = given;
    const Tensor keep = starts(job);
    choose(job, [&](auto choice, auto norm) {
      using C = decltype(choice);
      backward_kernel<typename C::Storage, C::kT, C::width, C::fire, norm.value>
          <<<blocks(job.N / C::width), kThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(job);
      C10_CUDA_KERNEL_LAUNCH_CHECK();
    });
  }

  static Tensor reduce(Job<F> job) {
    // a single channel's stride may be anything
    if (job.channels == 1) job.inner = job.N;
    const Tensor keep = starts(job);
    const bool together = job.inner > 1;
    Tensor sums;
    with_kernel(job, together ? job.inner : job.channels, [&](auto choice) {
      using C = decltype(choice);
      Walk walk;
      walk.columns = together ? job.channels : job.channels / C::width;
      walk.runs = together ? job.inner / C::width : 1;
      walk.rows = job.N / C::width / walk.columns;
      walk.width = 1;
      while (!together && walk.width < kThreads && walk.width < walk.columns) walk.width *= 2;
      // some blocks for each multiprocessor, some rows for each thread; the same on all devices, as are then the sums
      const i64 across = ceil_div(walk.columns, walk.width), height = kThreads / walk.width;
      const i64 down = std::max<i64>(1, std::min<i64>(1024 / across, ceil_div(walk.rows, 4 * height)));
      sums = room<double>({down, 2, job.channels});
      job.sums = sums.data_ptr<double>();
      const dim3 grid(static_cast<unsigned>(across), static_cast<unsigned>(down));
      reduce_kernel<typename C::Storage, C::kT, C::width, C::fire>
          <<<grid, kThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(job, walk);
      C10_CUDA_KERNEL_LAUNCH_CHECK();
    });
    return sums.sum(0);
  }

  static std::tuple<Tensor, Tensor> moments(const Tensor& x) {
    const auto [mean, invstd] = at::batch_norm_stats(x, 0.0);
    // 0 stands for a variance of 0
    return {mean, at::where(invstd.gt(0), invstd.square().reciprocal(), 0.0).to(invstd.scalar_type())};
  }

  static const Device<F>& device() {
    static const Device<F> cuda{forward, backward, parts, reduce, moments};
    return cuda;
  }
};

template <typename Body>
void with_storage(int type, Body body) {
  if (type == kFloat) body(float{});
  else if (type == kDouble) body(double{});
  else if (type == kHalf) body(Half{});
  else body(BFloat16{});
}

template <typename Body>
void with_packing(int bits, std::initializer_list<const void*> pointers, Body body) {
  const auto with_bits = [&](auto n) {
    if (aligned(pointers)) body(n, std::true_type{});
    else body(n, std::false_type{});
  };
  if (bits == 1) with_bits(std::integral_constant<int, 1>{});
  else with_bits(std::integral_constant<int, 8>{});
}

void cuda_pack(const Tensor& x, int type, int bits, Tensor& out) {
  with_storage(type, [&](auto zero) {
    with_packing(bits, {x.data_ptr(), out.data_ptr()}, [&](auto n, auto rows) {
      pack_kernel<decltype(zero), n.value, rows.value>
          <<<blocks(ceil_div(x.numel(), 8)), kThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(
              x.data_ptr(), x.numel(), out.data_ptr<unsigned char>());
      C10_CUDA_KERNEL_LAUNCH_CHECK();
    });
  });
}

void cuda_unpack(const Tensor& packed, int bits, Tensor& out, int type) {
  with_storage(type, [&](auto zero) {
    with_packing(bits, {packed.data_ptr(), out.data_ptr()}, [&](auto n, auto rows) {
      unpack_kernel<decltype(zero), n.value, rows.value>
          <<<blocks(ceil_div(out.numel(), 8)), kThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(
              packed.data_ptr<unsigned char>(), out.numel(), out.data_ptr());
      C10_CUDA_KERNEL_LAUNCH_CHECK();
    });
  });
}

const Packing packing{cuda_pack, cuda_unpack};
const bool registered = (register_cuda(Cuda<float>::device(), Cuda<double>::device(), packing), true);

}  // namespace
}  // namespace mmsnn

// What mmsnn/ops/extension.py asks: the architectures that the kernels were compiled for.
#define MMSNN_TEXT(...) #__VA_ARGS__
#define MMSNN_TEXT_OF(...) MMSNN_TEXT(__VA_ARGS__)
extern "C" const char* mmsnn_cuda() { return MMSNN_TEXT_OF(__CUDA_ARCH_LIST__); }
