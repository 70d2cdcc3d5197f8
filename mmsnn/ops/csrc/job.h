// What a kernel is given, on any device. Includes nothing but the recurrence, so that NVRTC can compile it.
#pragma once

#include "lif.h"

namespace mmsnn {

using i64 = long long;

enum Type { kFloat, kDouble, kHalf, kBFloat16 };

// All tensors lie in memory as [T, N]. F is double for double inputs, else float. What is not needed is null.
template <typename F>
struct Job {
  i64 T, N;
  const void* x;
  void* out;              // spikes, or the gradient of x
  const F* tau;           // a learned time constant; null: neuron.rate holds
  const F* v_init;        // [N]
  F* v_last;              // [N]
  const void* grad_s;     // backwards: gradients of the spikes ...
  const F* grad_v;        // ... and of the last potential
  F* grad_v_init;         // [N]
  double* grad_rate;      // sums over parts of the neurons: one a block
  F* starts;              // CUDA backwards, T > 16: room for [(T - 1) / 16, N] potentials
  // Batch norm in front: the neuron sees scale * x + shift. Element i belongs to channel (i / inner) % channels.
  i64 channels, inner;
  const F *scale, *shift, *mean;
  // its backward: out = scale * g - offset - slope * (x - mean), with g the gradient of what the neuron sees
  const F *offset, *slope;
  // or, instead of out, sums [2, channels]: of g and g * (x - mean); forwards of x - mean and its square
  double* sums;
  Neuron<F> neuron;
  int type;
};

}  // namespace mmsnn
