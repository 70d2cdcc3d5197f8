// Memory for large outputs on the CPU.
#pragma once

#include <ATen/ATen.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <cstddef>
#include <cstdlib>
#include <list>
#include <mutex>
#include <utility>

namespace mmsnn {

// Large outputs on the CPU come from memory that earlier ones left, at most MMSNN_CPU_CACHE megabytes of it (512; 0: none):
// the system takes longer to hand out new pages than the neurons take to fill them. New ones are asked for as huge pages.
#if defined(__linux__)
class Pool {
 public:
  static constexpr size_t kHuge = size_t(1) << 21, kSmallest = 2 * kHuge;

  static Pool& instance() {
    static Pool* pool = new Pool;  // outlives the tensors that give back at exit
    return *pool;
  }

  bool serves(size_t bytes) const { return bytes >= kSmallest && bytes <= most_; }

  at::Tensor tensor_like(const at::Tensor& x) {
    const size_t bytes = (x.nbytes() + kHuge - 1) / kHuge * kHuge;
    void* memory = take(bytes);
    if (!memory) memory = std::aligned_alloc(kHuge, bytes);
    TORCH_CHECK(memory, "no memory for ", bytes, " bytes");
    madvise(memory, bytes, MADV_HUGEPAGE);
    const auto give = [this, bytes](void* used) { give_back(used, bytes); };
    return at::from_blob(memory, x.sizes(), x.strides(), give, x.options());
  }

 private:
  Pool() {
    const char* wish = std::getenv("MMSNN_CPU_CACHE");
    most_ = (wish ? std::strtoull(wish, nullptr, 10) : 512) << 20;
  }

  void* take(size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto each = free_.begin(); each != free_.end(); ++each) {
      if (each->second != bytes) continue;
      void* found = each->first;
      held_ -= bytes;
      free_.erase(each);
      return found;
    }
    return nullptr;
  }

  void give_back(void* memory, size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    free_.emplace_front(memory, bytes);
    held_ += bytes;
    while (held_ > most_) {
      held_ -= free_.back().second;
      std::free(free_.back().first);
      free_.pop_back();
    }
  }

  std::mutex mutex_;
  std::list<std::pair<void*, size_t>> free_;  // latest first
  size_t held_ = 0, most_;
};
#endif

// An output in the strides of x.
inline at::Tensor fresh(const at::Tensor& x) {
#if defined(__linux__)
  if (x.is_cpu() && Pool::instance().serves(x.nbytes())) return Pool::instance().tensor_like(x);
#endif
  return at::empty_like(x);
}

}  // namespace mmsnn
