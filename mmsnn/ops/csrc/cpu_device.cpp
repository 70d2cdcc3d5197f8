// The CPU as a device: kernels for the best instruction set that it has, on torch's threads.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>

#include "arch.h"
#include "cpu.h"
#include "ops.h"

namespace mmsnn {
namespace {

template <typename F>
struct Cpu {
  static const Kernels<F>& kernels_here() { return MMSNN_FOR_ARCH(kernels<F>()); }

  static i64 parts(const Job<F>& job) { return (job.N + kBlock - 1) / kBlock; }

  // blocks that are worth a thread
  static i64 grain(const Job<F>& job) { return std::max<i64>(1, 64 / job.T); }

  static void forward(const Job<F>& job) {
    at::parallel_for(0, parts(job), grain(job), [&](i64 begin, i64 end) { kernels_here().forward(job, begin, end); });
  }

  static void backward(const Job<F>& job) {
    at::parallel_for(0, parts(job), grain(job), [&](i64 begin, i64 end) { kernels_here().backward(job, begin, end); });
  }

  // Every thread has sums of its own; they are added in order.
  static Tensor sum(Job<F> job, void (*work)(const Job<F>&, i64, i64)) {
    const i64 size = 2 * job.channels;
    Tensor each = at::zeros({at::get_num_threads(), 2, job.channels}, at::kDouble);
    double* sums = each.data_ptr<double>();
    at::parallel_for(0, parts(job), grain(job), [&](i64 begin, i64 end) {
      Job<F> mine = job;
      mine.sums = sums + at::get_thread_num() * size;
      work(mine, begin, end);
    });
    return each.sum(0);
  }

  static Tensor reduce(Job<F> job) { return sum(job, kernels_here().backward); }

  static Two moments(const Tensor& x) {
    Job<F> job{};
    job.type = type_of(x);
    job.T = x.size(0);
    job.N = x.numel() / job.T;
    job.x = x.data_ptr();
    job.channels = x.size(1);
    job.inner = std::max<i64>(1, x.stride(1));
    // Around one value of each channel, so that the square of a large mean does not swallow the variance.
    Tensor around = x.select(0, 0);
    while (around.dim() > 1) around = around.select(1, 0);
    around = around.to(c10::CppTypeToScalarType<F>::value).contiguous();
    job.mean = around.template data_ptr<F>();
    const Tensor sums = sum(job, kernels_here().moments) / (static_cast<double>(x.numel()) / job.channels);
    return {(around + sums[0]).to(around.scalar_type()),
            (sums[1] - sums[0] * sums[0]).clamp_min(0).to(around.scalar_type())};
  }
};

void cpu_pack(const Tensor& x, int type, int bits, Tensor& out) {
  const i64 n = x.numel(), element = x.element_size();
  std::atomic<const char*> wrong{nullptr};
  at::parallel_for(0, (n + kBlock - 1) / kBlock, 64, [&](i64 begin, i64 end) {
    const i64 from = begin * kBlock, to = std::min(n, end * kBlock);
    const char* in = static_cast<const char*>(x.data_ptr()) + from * element;
    uint8_t* target = out.data_ptr<uint8_t>() + from * bits / 8;
    const char* found = MMSNN_FOR_ARCH(pack(in, type, to - from, bits, target));
    if (found) wrong = found;
  });
  const char* found = wrong;
  TORCH_CHECK_VALUE(!found, "the input of a convolution that packs spikes holds ", found,
                    ": set packed_spikes=False, or give it spikes");
}

void cpu_unpack(const Tensor& packed, int bits, Tensor& out, int type) {
  const i64 n = out.numel(), element = out.element_size();
  at::parallel_for(0, (n + kBlock - 1) / kBlock, 64, [&](i64 begin, i64 end) {
    const i64 from = begin * kBlock, to = std::min(n, end * kBlock);
    MMSNN_FOR_ARCH(unpack(packed.data_ptr<uint8_t>() + from * bits / 8, to - from, bits,
                          static_cast<char*>(out.data_ptr()) + from * element, type));
  });
}

}  // namespace

template <typename F>
const Device<F>& cpu_device() {
  static const Device<F> cpu{Cpu<F>::forward, Cpu<F>::backward, Cpu<F>::parts, Cpu<F>::reduce, Cpu<F>::moments};
  return cpu;
}

template const Device<float>& cpu_device();
template const Device<double>& cpu_device();

const Packing& cpu_packing() {
  static const Packing cpu{cpu_pack, cpu_unpack};
  return cpu;
}

}  // namespace mmsnn

// The instruction set in use; Python asks through ctypes.
extern "C" const char* mmsnn_cpu() { return mmsnn::kArchNames[mmsnn::arch()]; }
