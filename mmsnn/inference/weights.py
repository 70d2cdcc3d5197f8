"""Weights of the event-driven engine: norms folded in, laid out for the kernels, made again where they have changed."""

import ctypes
import functools
import hashlib
import math
import weakref

import numpy as np
import torch
from torch import Tensor

from mmsnn.ops import extension

# of each tensor, at least, looked at before every use
SAMPLES = 512


@functools.cache
def _fingerprint():
    """The extension's function that looks at tensors; None without compiled kernels."""
    function = getattr(extension.compiled(), 'mmsnn_fingerprint', None)
    if function is not None:
        function.restype = ctypes.c_uint64
        function.argtypes = [
            ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_int64), ctypes.c_int, ctypes.c_int,
        ]  # fmt: skip
    return function


class Folded:
    """A convolution's weights with the norms behind it, as both ways of running it want them.

    Args:
        weight, bias: of the convolution.
        groups: of the convolution.
        steps: ``('norm', running_mean, running_var, weight, bias, eps)`` and ``('factor', number)``, in their order.
        half: whether the events' weights are 16-bit.

    Attributes:
        finite: whether all weights, and what is added to their sums, are finite numbers.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, groups: int, steps: tuple, half: bool):
        self.groups, self.half = groups, half
        wide = weight.double()
        shift = wide.new_zeros(len(wide)) if bias is None else bias.double()
        for kind, *rest in steps:
            if kind == 'norm':
                mean, var, gamma, beta, eps = rest
                scale = (var.double() + eps).rsqrt()
                scale = scale if gamma is None else scale * gamma.double()
                shift = (shift - mean.double()) * scale + (0 if beta is None else beta.double())
            else:
                scale = torch.as_tensor(rest[0], dtype=torch.float64, device=wide.device)
                shift = shift * scale
            wide = wide * scale.view(-1, 1, 1, 1)
        self.weight = wide.float().contiguous(memory_format=torch.channels_last)
        # a product of 0 and infinity is NaN, which a kernel that leaves out zeros does not see
        self.finite = bool(self.weight.isfinite().all() & shift.isfinite().all())
        self.shift = None if bias is None and not steps else shift.float()
        self._rows = None

    @property
    def rows(self) -> Tensor:
        """For `event_layer`."""
        if self._rows is None:
            self._rows = torch.ops.mmsnn.event_rows(self.weight, self.groups, self.half)
        return self._rows


class Watched:
    """Tensors whose changes are noticed.

    Version counters tell of changes through PyTorch, addresses of exchanged memory. An edit through ``.data``, as
    averages of weights make it (mmengine's EMAHook), changes neither: so a sample of the numbers is compared, too, with
    some of each filter and of each input channel, since these are pruned and scaled as a whole.
    The tensors are not kept alive: a network may make new weights in every pass.
    """

    def __init__(self, tensors: list[Tensor]):
        self._tensors = [weakref.ref(t) for t in tensors]
        self._marks = _marks(tensors)
        self._pointers = (ctypes.c_void_p * len(tensors))(*[t.data_ptr() for t in tensors])
        self._bytes = (ctypes.c_int64 * len(tensors))(*[t.numel() * t.element_size() for t in tensors])
        dense = all(t.is_contiguous() or t.is_contiguous(memory_format=torch.channels_last) for t in tensors)
        self._fast = _fingerprint() if dense else None
        self._samples = samples(tuple(map(int, tensors[0].shape)))
        self._sample = self._look(tensors)

    def _look(self, tensors: list[Tensor]) -> int | bytes:
        look = self._fast
        if look is not None:
            return look(self._pointers, self._bytes, len(tensors), self._samples)
        digest = hashlib.sha256()
        for t in tensors:
            flat = t.detach().flatten()
            digest.update(flat[:: max(1, len(flat) // self._samples)].numpy().tobytes())
        return digest.digest()

    def changed(self, tensors: list[Tensor]) -> bool:
        """Whether these are not the same tensors any more, or hold something else."""
        if len(tensors) != len(self._tensors) or any(a is not b() for a, b in zip(tensors, self._tensors)):
            return True
        return _marks(tensors) != self._marks or self._look(tensors) != self._sample


@functools.lru_cache(maxsize=256)
def samples(shape: tuple[int, ...]) -> int:
    """How many numbers of a weight to look at, evenly apart, so that some are in each filter, channel and kernel place.

    Steps that share a factor with the rows of the memory would return to the same channels.
    """
    outputs, channels, *kernel = shape
    numbers, places = math.prod(shape), math.prod(kernel)
    for count in range(max(SAMPLES, 2 * max(outputs, channels) + 1), numbers // 8):
        at = np.arange(0, numbers, numbers // count)
        row = at % (channels * places)
        # in both orders of memory
        seen = (at // (channels * places), outputs), (row // places, channels), (row % places, places), \
            (row % channels, channels), (row // channels, places)  # fmt: skip
        if all(len(np.unique(found)) == number for found, number in seen):
            return count
    return max(1, numbers)


def _marks(tensors: list[Tensor]) -> list[tuple]:
    """Addresses, version counters and strides."""
    return [(t.data_ptr(), 0 if t.is_inference() else t._version, t.stride()) for t in tensors]
