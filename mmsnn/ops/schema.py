"""Schemas and fake kernels of ``torch.ops.mmsnn``; users call `mmsnn.ops.lif` and `mmsnn.ops.bn_lif`.

A neuron is ``kind`` and ``values``, as `mmsnn.NeuronSettings.encode` gives them, and a learned time constant ``tau``.
"""

import torch

from .layout import dense, membrane_type, potential

_NEURON = 'int T, int[] kind, float[] values, Tensor? tau, Tensor? v_init'
# torch unregisters the ops when this object goes.
library = torch.library.Library('mmsnn', 'DEF')
for _schema in (
    f'lif(Tensor x, {_NEURON}, bool return_v) -> (Tensor, Tensor)',
    f'lif_backward(Tensor grad, Tensor? grad_v, Tensor x, {_NEURON}) -> (Tensor, Tensor, Tensor)',
    'bn_moments(Tensor x) -> (Tensor, Tensor)',
    f'bn_lif(Tensor x, Tensor scale, Tensor shift, {_NEURON}, bool return_v) -> (Tensor, Tensor)',
    f'bn_lif_reduce(Tensor grad, Tensor? grad_v, Tensor x, Tensor scale, Tensor shift, Tensor mean, {_NEURON}) '
    '-> (Tensor, Tensor)',
    'bn_lif_backward(Tensor grad, Tensor? grad_v, Tensor x, Tensor scale, Tensor shift, Tensor mean, Tensor offset, '
    f'Tensor slope, {_NEURON}) -> (Tensor, Tensor, Tensor)',
    'pack(Tensor x, int bits) -> Tensor',
    'unpack(Tensor packed, SymInt[] size, SymInt[] stride, ScalarType dtype, int bits) -> Tensor',
):
    library.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))


# Fake kernels give outputs in the shapes, strides and types of the others', without values.


@torch.library.register_fake('mmsnn::lif', lib=library)
def _(x, T, kind, values, tau, v_init, return_v):
    x = dense(x)
    return torch.empty_like(x), potential(x, T, return_v)


@torch.library.register_fake('mmsnn::lif_backward', lib=library)
def _(grad, grad_v, x, T, kind, values, tau, v_init):
    x = dense(x)
    grad_tau = x.new_empty(0, dtype=membrane_type(x)) if tau is None else torch.empty_like(tau)
    return torch.empty_like(x), grad_tau, potential(x, T, v_init is not None)


@torch.library.register_fake('mmsnn::bn_moments', lib=library)
def _(x):
    return x.new_empty(x.shape[1], dtype=membrane_type(x)), x.new_empty(x.shape[1], dtype=membrane_type(x))


@torch.library.register_fake('mmsnn::bn_lif', lib=library)
def _(x, scale, shift, T, kind, values, tau, v_init, return_v):
    x = dense(x)
    return torch.empty_like(x), potential(x, T, return_v)


@torch.library.register_fake('mmsnn::bn_lif_reduce', lib=library)
def _(grad, grad_v, x, scale, shift, mean, T, kind, values, tau, v_init):
    return x.new_empty(x.shape[1], dtype=membrane_type(x)), x.new_empty(x.shape[1], dtype=membrane_type(x))


@torch.library.register_fake('mmsnn::bn_lif_backward', lib=library)
def _(grad, grad_v, x, scale, shift, mean, offset, slope, T, kind, values, tau, v_init):
    x = dense(x)
    grad_tau = x.new_empty(0, dtype=membrane_type(x)) if tau is None else torch.empty_like(tau)
    return torch.empty_like(x), grad_tau, potential(x, T, v_init is not None)


@torch.library.register_fake('mmsnn::pack', lib=library)
def _(x, bits):
    return x.new_empty((x.numel() + 7) // 8 if bits == 1 else x.numel(), dtype=torch.uint8)


@torch.library.register_fake('mmsnn::unpack', lib=library)
def _(packed, size, stride, dtype, bits):
    return torch.empty_strided(size, stride, dtype=dtype, device=packed.device)
