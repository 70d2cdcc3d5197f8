"""Schemas, fake kernels and fallbacks of ``torch.ops.mmsnn``, and the loading of the compiled kernels.

The ops work on tensors whose memory is ``[T, N]``. A neuron is described by ``kind`` (leak, reset, surrogate, fire,
levels, detach_reset, as csrc/lif.h numbers them), ``values`` (1 / tau, v_threshold, v_rest, alpha) and, where it is
learned, ``tau``. Users call `mmsnn.ops.lif` and `mmsnn.ops.bn_lif`.
"""

import ctypes
import functools
import hashlib
import logging
import os
from pathlib import Path

import torch
from mmengine.logging import print_log
from torch import Tensor

from . import reference
from .neuron import NeuronSettings, decode
from .sealing import fault

CSRC = Path(__file__).with_name('csrc')
_NEURON = 'int T, int[] kind, float[] values, Tensor? tau, Tensor? v_init'
_library = torch.library.Library('mmsnn', 'DEF')
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
    _library.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))


def _decoded(kind: list[int], values: list[float], tau: Tensor | None) -> tuple[NeuronSettings, Tensor | None, bool]:
    """Settings, learned time constant (of a neuron that leaks), and whether the spikes are smooth."""
    settings, smooth = decode(kind, values)
    return settings, None if settings.tau is None else tau, smooth


# Shapes and strides ---------------------------------------------------------------------------------------------------


def is_dense(x: Tensor) -> bool:
    """Whether the elements of ``x`` fill its memory without gaps or overlaps, in any order of dimensions."""
    expected = 1
    dims = [(s, n) for s, n in zip(x.stride(), x.shape) if not _holds(n == 1)]
    for stride, size in sorted(dims, key=lambda dim: (_number(dim[0]), _number(dim[1]))):
        if not _holds(stride == expected):
            return False
        expected *= size
    return True


def _number(n: int | torch.SymInt) -> int:
    """``n``; of a symbol, which a compiler has for a size, the size that it stands for while it is traced."""
    return n if isinstance(n, int) else n.node.hint


def _holds(condition: bool | torch.SymBool) -> bool:
    """``condition``; of one about symbols, what holds for the sizes of the trace, which the graph is not held to."""
    if isinstance(condition, bool):
        return condition
    hint = condition.node.hint
    return always_holds(condition) if hint is None else bool(hint)


def always_holds(condition: bool | torch.SymBool) -> bool:
    """Whether ``condition`` about the sizes of a trace holds for all sizes that its graph is meant for."""
    # takes seconds, and only a compiler has use for it
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return statically_known_true(condition)


def _dense(x: Tensor) -> Tensor:
    """``x`` where its memory is ``[T, N]`` with nothing in between, else a copy."""
    outermost = _holds(x.shape[0] == 1) or _holds(x.stride(0) * x.shape[0] == x.numel())
    return x if outermost and is_dense(x) else x.contiguous()


def _membrane_type(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _potential(x: Tensor, T: int, wanted: bool) -> Tensor:
    if not wanted:
        return x.new_empty(0, dtype=_membrane_type(x))
    step = x[0] if _holds(x.shape[0] == T) else x[: x.shape[0] // T]
    return torch.empty_like(step, dtype=_membrane_type(x))


def _like_potential(v: Tensor, x: Tensor, T: int) -> Tensor:
    out = _potential(x, T, True)
    return out.copy_(v.reshape(out.shape))


@torch.library.register_fake('mmsnn::lif', lib=_library)
def _(x, T, kind, values, tau, v_init, return_v):
    x = _dense(x)
    return torch.empty_like(x), _potential(x, T, return_v)


@torch.library.register_fake('mmsnn::lif_backward', lib=_library)
def _(grad, grad_v, x, T, kind, values, tau, v_init):
    x = _dense(x)
    grad_tau = x.new_empty(0, dtype=_membrane_type(x)) if tau is None else torch.empty_like(tau)
    return torch.empty_like(x), grad_tau, _potential(x, T, v_init is not None)


@torch.library.register_fake('mmsnn::bn_moments', lib=_library)
def _(x):
    return x.new_empty(x.shape[1], dtype=_membrane_type(x)), x.new_empty(x.shape[1], dtype=_membrane_type(x))


@torch.library.register_fake('mmsnn::bn_lif', lib=_library)
def _(x, scale, shift, T, kind, values, tau, v_init, return_v):
    x = _dense(x)
    return torch.empty_like(x), _potential(x, T, return_v)


@torch.library.register_fake('mmsnn::bn_lif_reduce', lib=_library)
def _(grad, grad_v, x, scale, shift, mean, T, kind, values, tau, v_init):
    return x.new_empty(x.shape[1], dtype=_membrane_type(x)), x.new_empty(x.shape[1], dtype=_membrane_type(x))


@torch.library.register_fake('mmsnn::bn_lif_backward', lib=_library)
def _(grad, grad_v, x, scale, shift, mean, offset, slope, T, kind, values, tau, v_init):
    x = _dense(x)
    grad_tau = x.new_empty(0, dtype=_membrane_type(x)) if tau is None else torch.empty_like(tau)
    return torch.empty_like(x), grad_tau, _potential(x, T, v_init is not None)


@torch.library.register_fake('mmsnn::pack', lib=_library)
def _(x, bits):
    return x.new_empty((x.numel() + 7) // 8 if bits == 1 else x.numel(), dtype=torch.uint8)


@torch.library.register_fake('mmsnn::unpack', lib=_library)
def _(packed, size, stride, dtype, bits):
    return torch.empty_strided(size, stride, dtype=dtype, device=packed.device)


# In plain PyTorch, for devices and machines without compiled kernels --------------------------------------------------


def _fallback(name: str):
    def register(f):
        _library.impl(name, f, 'CompositeExplicitAutograd')
        return f

    return register


def _check_gradient(grad: Tensor, x: Tensor) -> None:
    if grad.shape != x.shape:
        raise ValueError(f'the gradient of spikes {tuple(x.shape)} has the shape {tuple(grad.shape)}')


def _channels(values: Tensor, x: Tensor) -> Tensor:
    if x.dim() < 2 or values.numel() != x.shape[1]:
        raise ValueError(f'batch norm of x {tuple(x.shape)} needs one number a channel, got {values.numel()}')
    return values.to(_membrane_type(x)).view(1, -1, *[1] * (x.dim() - 2))


@_fallback('lif')
def _lif(x, T, kind, values, tau, v_init, return_v):
    x = _dense(x)
    settings, tau, smooth = _decoded(kind, values, tau)
    out, v = reference.lif_forward(x, T, settings, tau, v_init, True, smooth)
    return torch.empty_like(x).copy_(out), _like_potential(v, x, T) if return_v else _potential(x, T, False)


@_fallback('lif_backward')
def _lif_backward(grad, grad_v, x, T, kind, values, tau, v_init):
    _check_gradient(grad, x)
    x = _dense(x)
    settings, tau, smooth = _decoded(kind, values, tau)
    grad_x, grad_tau, grad_first = reference.lif_backward(grad, grad_v, x, T, settings, tau, v_init, smooth)
    if grad_tau is None:
        grad_tau = x.new_empty(0, dtype=_membrane_type(x))
    grad_first = _potential(x, T, False) if v_init is None else _like_potential(grad_first, x, T)
    return torch.empty_like(x).copy_(grad_x), grad_tau, grad_first


@_fallback('bn_moments')
def _bn_moments(x):
    dims = [d for d in range(x.dim()) if d != 1]
    var, mean = torch.var_mean(x.to(_membrane_type(x)), dims, correction=0)
    return mean, var


@_fallback('bn_lif')
def _bn_lif(x, scale, shift, T, kind, values, tau, v_init, return_v):
    y = x.to(_membrane_type(x)) * _channels(scale, x) + _channels(shift, x)
    out, v = _lif(y, T, kind, values, tau, v_init, return_v)
    x = _dense(x)
    return torch.empty_like(x).copy_(out), _like_potential(v, x, T) if return_v else v


@_fallback('bn_lif_reduce')
def _bn_lif_reduce(grad, grad_v, x, scale, shift, mean, T, kind, values, tau, v_init):
    wide = x.to(_membrane_type(x))
    y = wide * _channels(scale, x) + _channels(shift, x)
    g = _lif_backward(grad.to(y.dtype), grad_v, y, T, kind, values, tau, v_init)[0]
    dims = [d for d in range(x.dim()) if d != 1]
    return g.sum(dims), (g * (wide - _channels(mean, x))).sum(dims)


@_fallback('bn_lif_backward')
def _bn_lif_backward(grad, grad_v, x, scale, shift, mean, offset, slope, T, kind, values, tau, v_init):
    wide = x.to(_membrane_type(x))
    y = wide * _channels(scale, x) + _channels(shift, x)
    g, grad_tau, grad_first = _lif_backward(grad.to(y.dtype), grad_v, y, T, kind, values, tau, v_init)
    g = g * _channels(scale, x) - _channels(offset, x) - _channels(slope, x) * (wide - _channels(mean, x))
    x = _dense(x)
    return torch.empty_like(x).copy_(g), grad_tau, grad_first if v_init is None else _like_potential(grad_first, x, T)


def _memory(x: Tensor) -> Tensor:
    """The elements of dense ``x`` in the order of its memory."""
    return x.as_strided((x.numel(),), (1,))


@_fallback('pack')
def _pack(x, bits):
    flat = _memory(x if is_dense(x) else x.contiguous())
    whole = flat.clamp(0, 1 if bits == 1 else 255).to(torch.uint8)
    if not bool((whole == flat).all()):
        held = 'values other than 0 and 1' if bits == 1 else 'values other than the integers 0 to 255'
        raise ValueError(
            f'the input of a convolution that packs spikes holds {held}: set packed_spikes=False, or give it spikes'
        )
    if bits == 8:
        return whole
    whole = torch.nn.functional.pad(whole, (0, -len(whole) % 8)).view(-1, 8)
    return (whole << torch.arange(8, dtype=torch.uint8, device=x.device)).sum(1, dtype=torch.uint8)


@_fallback('unpack')
def _unpack(packed, size, stride, dtype, bits):
    out = torch.empty_strided(size, stride, dtype=dtype, device=packed.device)
    held = packed.numel() * (8 if bits == 1 else 1)
    if not is_dense(out) or packed.dtype != torch.uint8 or not 0 <= held - out.numel() < 8 // bits:
        raise ValueError(f'{packed.dtype} {tuple(packed.shape)} does not hold size {size} with strides {stride}')
    if bits == 1:
        packed = (packed.reshape(-1, 1) >> torch.arange(8, dtype=torch.uint8, device=packed.device)) & 1
    _memory(out).copy_(packed.flatten()[: out.numel()])
    return out


# Compiled kernels -----------------------------------------------------------------------------------------------------


def sources_digest() -> str:
    """Digest of the C++ and CUDA sources; the extension carries that of the sources it was built from."""
    files = sorted(p for p in CSRC.iterdir() if p.suffix in ('.h', '.cpp', '.cu', '.cuh'))
    return hashlib.sha256(b''.join(p.read_bytes() for p in files)).hexdigest()[:16]


REMEDY = 'build them with: pip install --no-build-isolation --no-deps -e . (or the wheel\'s sources instead of ".")'


def _load() -> tuple[ctypes.CDLL | None, str]:
    """The extension, or None, and a line about which kernels serve."""
    if os.environ.get('MMSNN_EXTENSION', '1') == '0':
        return None, 'plain PyTorch (MMSNN_EXTENSION=0)'
    found = sorted(Path(__file__).parent.glob('_C*.so')) + sorted(Path(__file__).parent.glob('_C*.pyd'))
    if not found:
        return None, f'plain PyTorch: the compiled kernels were not built; {REMEDY}'
    reasons = []
    for path in found:
        reason = fault(path)
        if reason:
            reasons.append(f'{path.name} is not loaded, {reason}')
            continue
        try:
            torch.ops.load_library(path)
            extension = ctypes.CDLL(str(path))
            extension.mmsnn_cpu.restype = extension.mmsnn_sources.restype = ctypes.c_char_p
            break
        # a library of another torch, CPU or system
        except (OSError, AttributeError) as error:
            reason = error.__cause__ or error
            reasons.append(f'{path.name} does not fit this torch {torch.__version__} ({reason})')
    else:
        return None, f'plain PyTorch: {"; ".join(reasons)}; {REMEDY}'
    line = f'compiled ({extension.mmsnn_cpu().decode()})'
    if extension.mmsnn_sources().decode() != sources_digest():
        line += f', from other sources than these; {REMEDY}'
    return extension, line


def _load_cuda() -> str:
    """A line about which kernels serve CUDA tensors; where they are compiled at first use, prepares that."""
    if torch.version.cuda is None:
        return 'none: this torch was built without CUDA'
    if hasattr(extension, 'mmsnn_cuda'):
        extension.mmsnn_cuda.restype = ctypes.c_char_p
        archs = (f'sm_{int(n) // 10}' for n in extension.mmsnn_cuda().decode().split(','))
        return f'compiled ({", ".join(archs)})'
    if os.environ.get('MMSNN_CUDA', '1') == '0':
        return 'plain PyTorch (MMSNN_CUDA=0)'
    # needs what is defined above
    from . import cuda_host

    names = ['lif', 'lif_backward', 'bn_moments', 'bn_lif', 'bn_lif_reduce', 'bn_lif_backward', 'pack', 'unpack']
    cuda_host.register(_library, {name: globals()[f'_{name}'] for name in names}, _without_nvrtc)
    return 'compiled at first use (NVRTC)'


def _without_nvrtc(reason: str) -> None:
    global cuda_path
    cuda_path = f'plain PyTorch: the kernels cannot be compiled at first use ({reason}); {REMEDY}'
    print_log(f'mmsnn ops on CUDA: {cuda_path}', logger='current', level=logging.WARNING)


extension, cpu_path = _load()
cuda_path = _load_cuda()


@functools.cache
def announce(device: str) -> None:
    """Warn, once for each type of device, of kernels that are not compiled: at first use, when a log file is there."""
    path = dict(cpu=cpu_path, cuda=cuda_path).get(device, 'plain PyTorch')
    if not path.startswith('compiled') or 'other sources' in path:
        name = dict(cpu='the CPU', cuda='CUDA').get(device, device)
        print_log(f'mmsnn ops on {name}: {path}', logger='current', level=logging.WARNING)


def _keep(ctx, inputs, output) -> None:
    x, ctx.T, ctx.kind, ctx.values, tau, v_init, ctx.return_v = inputs
    ctx.save_for_backward(x, tau, v_init)
    ctx.set_materialize_grads(False)
    if not ctx.return_v:
        ctx.mark_non_differentiable(output[1])


def _differentiate(ctx, grad, grad_v):
    x, tau, v_init = ctx.saved_tensors
    if grad is None and grad_v is None:
        return (None,) * 7
    grad = torch.zeros_like(x) if grad is None else grad
    grad_x, grad_tau, grad_first = torch.ops.mmsnn.lif_backward(
        grad, grad_v if ctx.return_v else None, x, ctx.T, ctx.kind, ctx.values, tau, v_init
    )
    grad_first = None if v_init is None else grad_first.reshape(v_init.shape).to(v_init.dtype)
    return grad_x, None, None, None, None if tau is None else grad_tau, grad_first, None


def _no_second_derivative(ctx, *grads):
    raise NotImplementedError('the spikes of mmsnn.ops have no second derivative')


if extension is None:
    torch.library.register_autograd('mmsnn::lif', _differentiate, setup_context=_keep, lib=_library)
    for _name in ('lif_backward', 'bn_lif', 'bn_lif_reduce', 'bn_lif_backward', 'bn_moments'):
        torch.library.register_autograd(f'mmsnn::{_name}', _no_second_derivative, lib=_library)

__all__ = ['announce', 'cpu_path', 'cuda_path', 'extension', 'sources_digest']
