// Vectors of MMSNN_WIDE floats, and the lists of events, for event_kernels.h. Included once for each instruction set.
#include <stdint.h>
#include <string.h>

#include "event.h"

namespace mmsnn {
namespace MMSNN_ARCH {
namespace {

#define EVENT_INLINE inline __attribute__((always_inline))

constexpr int kWide = MMSNN_WIDE;
typedef float Wide __attribute__((vector_size(4 * MMSNN_WIDE)));
typedef float WideAnywhere __attribute__((vector_size(4 * MMSNN_WIDE), aligned(4), may_alias));
typedef int Bits32 __attribute__((vector_size(4 * MMSNN_WIDE)));

EVENT_INLINE Wide load(const float* p) { return *reinterpret_cast<const WideAnywhere*>(p); }
EVENT_INLINE void store(float* p, Wide v) { *reinterpret_cast<WideAnywhere*>(p) = v; }
EVENT_INLINE Wide spread(float x) { return x - Wide{}; }

// sum + value * row; rounded once where the CPU can
EVENT_INLINE Wide multiply_add(Wide value, Wide row, Wide sum) {
#if defined(MMSNN_X86) && MMSNN_WIDE == 16
  return (Wide)_mm512_fmadd_ps((__m512)value, (__m512)row, (__m512)sum);
#elif defined(MMSNN_X86)
  return (Wide)_mm256_fmadd_ps((__m256)value, (__m256)row, (__m256)sum);
#else
  return value * row + sum;
#endif
}

// Events ---------------------------------------------------------------------------------------------------------------

struct Bytes {
  using Value = unsigned char;
  static constexpr i64 kStep = 64;
  static EVENT_INLINE uint64_t mask(const Value* x) {
#if defined(MMSNN_X86) && MMSNN_WIDE == 16
    const __m512i v = _mm512_loadu_si512(x);
    return _mm512_test_epi8_mask(v, v);
#elif defined(MMSNN_X86)
    const __m256i zero = _mm256_setzero_si256();
    const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
    const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + 32));
    const uint32_t low = ~static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(a, zero)));
    const uint32_t high = ~static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(b, zero)));
    return low | static_cast<uint64_t>(high) << 32;
#else
    uint64_t out = 0;
    for (int word = 0; word < 8; ++word) {
      uint64_t bytes;
      memcpy(&bytes, x + 8 * word, 8);
      if (bytes == 0) continue;
      for (int i = 0; i < 8; ++i) out |= static_cast<uint64_t>(x[8 * word + i] != 0) << (8 * word + i);
    }
    return out;
#endif
  }
};

struct Floats {
  using Value = float;
  static constexpr i64 kStep = 32;
  static EVENT_INLINE uint64_t mask(const Value* x) {
#if defined(MMSNN_X86)
    uint64_t out = 0;
    for (int i = 0; i < 4; ++i) {
      const __m256 v = _mm256_loadu_ps(x + 8 * i);
      out |= static_cast<uint64_t>(_mm256_movemask_ps(_mm256_cmp_ps(v, _mm256_setzero_ps(), _CMP_NEQ_UQ))) << (8 * i);
    }
    return out;
#else
    uint64_t out = 0;
    for (int i = 0; i < 32; ++i) out |= static_cast<uint64_t>(x[i] != 0) << i;
    return out;
#endif
  }
};

template <typename Kind>
i64 scan(const typename Kind::Value* x, i64 W, i64 stride, i64 channels, i64 begin, i64 end, int* starts, int* where,
         float* values, i64 count, bool& graded) {
  using Value = typename Kind::Value;
  int* to = where + count;
  float* value = values + count;
  bool other = false;
  const auto put = [&](int event, Value v) {
    *to++ = event;
    *value++ = static_cast<float>(v);
    other |= v != Value(1);
  };
  for (i64 row = begin; row < end; ++row) {
    for (i64 column = 0; column < W; ++column) {
      *starts++ = static_cast<int>(to - where);
      const Value* pixel = x + (row * W + column) * stride;
      const int first = static_cast<int>(column * channels);
      i64 c = 0;
      for (; c + Kind::kStep <= channels; c += Kind::kStep) {
        uint64_t mask = Kind::mask(pixel + c);
        while (mask) {
          const int i = __builtin_ctzll(mask);
          put(first + static_cast<int>(c) + i, pixel[c + i]);
          mask &= mask - 1;
        }
      }
      for (; c < channels; ++c)
        if (pixel[c] != Value(0)) put(first + static_cast<int>(c), pixel[c]);
    }
    *starts++ = static_cast<int>(to - where);
  }
  graded |= other;
  return to - where;
}

i64 count(const unsigned char* x, i64 n) {
  i64 events = 0, i = 0;
  for (; i + Bytes::kStep <= n; i += Bytes::kStep) events += __builtin_popcountll(Bytes::mask(x + i));
  for (; i < n; ++i) events += x[i] != 0;
  return events;
}

}  // namespace
}  // namespace MMSNN_ARCH
}  // namespace mmsnn
