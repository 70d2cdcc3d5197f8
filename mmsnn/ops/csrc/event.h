// Event-driven convolution on the CPU: what its kernels are given, and their builds, one for each instruction set.
#pragma once

#include "lif.h"

namespace mmsnn {

using i64 = long long;

// Where the pixels under a kernel lie. A kernel's taps that are neighbours in a row of pixels read one run of events.
struct Window {
  i64 H, W, OH, OW;
  i64 kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
};

// What is not zero in a map [N, H, W, C] in channels-last memory, row by row of pixels, one list for each group of
// channels. An event is column * channels + channel, with channels those of a group: with a kernel of dilation 1, the
// events under one row of it are one run, and each names its row of the weights up to a constant.
struct Events {
  const int* starts;    // [groups, N, H, W + 1]
  const int* where;     // events
  const float* values;  // their values; null: all are 1
};

// One convolution, or convolution, norm and neuron of all time steps. Maps are channels last.
struct Layer {
  Window window;
  Events events;
  i64 T, B;           // samples are [T, B]; without a neuron any split does
  i64 groups, channels, outputs;  // channels and outputs of a group
  const void* rows;   // weights [groups, blocks, kernel_h * kernel_w * channels, width]
  int half;           // whether rows hold pairs of bfloat16 (event_kernels.h), width counting single ones
  i64 blocks, width;
  const float* shift;             // [groups * outputs], or null
  const float* add;               // [T * B, OH, OW, groups * outputs], or null
  const unsigned char* add_bytes;
  float* current;                 // what the neuron is given, or null
  unsigned char* spikes;          // or null
  Neuron<float> neuron;
};

// Neurons of a float map that is there once (repeat) or for each time step, in any memory order.
struct Firing {
  i64 T, N;
  int repeat;
  const float* x;
  unsigned char* spikes;
  Neuron<float> neuron;
};

struct EventKernels {
  // Appends the events of pixel rows [begin, end) of N * H to `where` and `values` from `count` on, where there is room
  // for all that could be; returns the new count. Sets `graded` where a value is none of 0 and 1.
  i64 (*scan_bytes)(const unsigned char* x, i64 W, i64 stride, i64 channels, i64 begin, i64 end, int* starts,
                    int* where, float* values, i64 count, bool& graded);
  i64 (*scan_floats)(const float* x, i64 W, i64 stride, i64 channels, i64 begin, i64 end, int* starts, int* where,
                     float* values, i64 count, bool& graded);
  // rows [begin, end) of the groups * blocks * B * OH rows of output pixels
  void (*layer)(const Layer&, i64 begin, i64 end);
  // grad_rows [rows, width] of block [begin, end) of groups * blocks from grad [N, OH, OW, groups * outputs]
  void (*weight_grad)(const Layer&, const float* grad, float* grad_rows, i64 begin, i64 end);
  void (*fire)(const Firing&, i64 begin, i64 end);  // blocks of kFireBlock neurons
  void (*max_pool)(const unsigned char* x, unsigned char* out, const Window&, i64 channels, i64 begin, i64 end);
  i64 (*count)(const unsigned char* x, i64 n);  // of bytes that are not zero
};

constexpr i64 kFireBlock = 256;

#define MMSNN_DECLARE_EVENTS(arch) \
  namespace arch {                 \
  const EventKernels& event_kernels(); \
  }
MMSNN_DECLARE_EVENTS(baseline)
MMSNN_DECLARE_EVENTS(avx2)
MMSNN_DECLARE_EVENTS(avx512)
#undef MMSNN_DECLARE_EVENTS

}  // namespace mmsnn
