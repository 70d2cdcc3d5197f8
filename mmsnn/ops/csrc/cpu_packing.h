// Spikes as bits, and small integers as bytes, on the CPU. Included by cpu_kernels.h, once for each instruction set, into
// namespace MMSNN_ARCH.
#include "cpu_rows.h"

namespace mmsnn {
namespace MMSNN_ARCH {
namespace {

template <typename S, typename F>
const char* pack_rows(const S* x, i64 total, int bits, unsigned char* out) {
  alignas(64) F space[kBlock];
  const F largest = bits == 1 ? F(1) : F(255);
  for (i64 i0 = 0; i0 < total; i0 += kBlock) {
    const i64 n = total - i0 < kBlock ? total - i0 : kBlock;
    const F* RESTRICT row = view_row(x + i0, space, n);
    unsigned char bytes[kBlock];
    int wrong = 0;
    ROW(i) {
      const F value = row[i] > largest ? largest : (row[i] < F(0) ? F(0) : row[i]);
      const int whole = static_cast<int>(value == value ? value : F(0));
      wrong |= F(whole) != row[i];
      bytes[i] = static_cast<unsigned char>(whole);
    }
    if (wrong) return bits == 1 ? "values other than 0 and 1" : "values other than the integers 0 to 255";
    if (bits == 8) {
      ROW(i) out[i0 + i] = bytes[i];
      continue;
    }
    for (i64 i = 0; i < n; i += 8) {
      unsigned char packed = 0;
      const i64 m = n - i < 8 ? n - i : 8;
      if (m == 8) {
        // the eight lowest bits of eight bytes, gathered by one multiplication
        unsigned long long word;
        __builtin_memcpy(&word, bytes + i, 8);
        packed = static_cast<unsigned char>((word * 0x0102040810204080ull) >> 56);
      } else {
        for (i64 j = 0; j < m; ++j) packed |= static_cast<unsigned char>(bytes[i + j] << j);
      }
      out[(i0 + i) / 8] = packed;
    }
  }
  return nullptr;
}

template <typename S, typename F>
void unpack_rows(const unsigned char* packed, i64 total, int bits, S* out) {
  alignas(64) F space[kBlock];
  for (i64 i0 = 0; i0 < total; i0 += kBlock) {
    const i64 n = total - i0 < kBlock ? total - i0 : kBlock;
    if (bits == 8) ROW(i) space[i] = F(packed[i0 + i]);
    else ROW(i) space[i] = F((packed[(i0 + i) / 8] >> (i % 8)) & 1);
    write_row(space, out + i0, n);
  }
}

}  // namespace
}  // namespace MMSNN_ARCH
}  // namespace mmsnn
