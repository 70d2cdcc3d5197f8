"""Tensors of the event-driven engine: they know what they are made of, and are computed where a neuron asks for them.

A `Lazy` tensor passes through any network as if it held numbers. Convolutions, norms and sums of such tensors are only
noted; a neuron then runs them together, on events. Spikes stay bytes through all that moves, pools and adds them.
Every other function is given the numbers, so no layer has to know of events.
"""

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only


class Value:
    """Numbers: images, and what was changed in place."""

    def __init__(self, value: Tensor):
        self.value = value

    def dense(self) -> Tensor:
        """The numbers."""
        return self.value


class Spikes:
    """Spikes as bytes, or sums of them.

    Args:
        values: uint8.
        most: the largest value that may occur.
    """

    def __init__(self, values: Tensor, most: int):
        self.values, self.most = values, most
        self._dense = None

    def dense(self) -> Tensor:
        """The numbers, float32."""
        if self._dense is None:
            self._dense = self.values.to(torch.float32)
        return self._dense


class Current:
    """What a convolution, norms and shortcuts will give, before a neuron.

    Args:
        engine: runs it.
        source: a `Spikes` or `Value`, the convolution's input.
        weight, bias: of the convolution.
        geometry: stride, padding, dilation, groups.
        steps: the norms and factors behind it.
        add: what is added at the end, a plan as this one; or None.
        repeat: time steps that are all the same; ``source`` holds one of them.
    """

    def __init__(self, engine, source, weight, bias, geometry, steps=(), add=None, repeat=1):
        self.engine, self.source, self.weight, self.bias, self.geometry = engine, source, weight, bias, geometry
        self.steps, self.add, self.repeat = steps, add, repeat
        self._dense = None

    def then(self, **changes) -> 'Current':
        """This one with other ``steps``, ``add`` or ``repeat``."""
        rest = dict(steps=self.steps, add=self.add, repeat=self.repeat)
        return Current(self.engine, self.source, self.weight, self.bias, self.geometry, **{**rest, **changes})

    def dense(self) -> Tensor:
        """The numbers, float32."""
        if self._dense is None:
            self._dense = self.engine.current(self)
        return self._dense


Plan = Value | Spikes | Current


class Lazy(Tensor):
    """A float32 tensor on the CPU without memory of its own; ``plan`` tells what it holds."""

    @staticmethod
    def __new__(cls, plan: Plan, size, stride, engine):
        out = Tensor._make_wrapper_subclass(cls, size, stride, dtype=torch.float32, device='cpu', requires_grad=False)
        out.plan, out.engine = plan, engine
        return out

    @classmethod
    def of_spikes(cls, values: Tensor, most: int, engine) -> 'Lazy':
        """Spikes in the shape of the uint8 ``values``."""
        return cls(Spikes(values, most), values.shape, values.stride(), engine)

    @classmethod
    def of_values(cls, value: Tensor, engine) -> 'Lazy':
        """Numbers."""
        return cls(Value(value), value.shape, value.stride(), engine)

    @classmethod
    def of_current(cls, plan: Current, size, engine) -> 'Lazy':
        """A map that is not computed yet, channels last."""
        n, c, h, w = size
        return cls(plan, size, (h * w * c, 1, w * c, c), engine)

    def repeated(self, T: int) -> Tensor:
        """``[B, ...]`` at every of T time steps, ``[T*B, ...]``; for `mmsnn.layers.DirectEncoder`."""
        plan = self.plan
        if isinstance(plan, Current) and plan.repeat == 1 and plan.add is None and plan._dense is None:
            return self.of_current(plan.then(repeat=T), (T * self.shape[0], *self.shape[1:]), self.engine)
        return plan.dense().repeat(T, *[1] * (self.dim() - 1))

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        handler = HANDLERS.get(func)
        if handler is not None:
            out = handler(func, args, kwargs)
            if out is not NotImplemented:
                return out
        if func in ABOUT:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        name = getattr(func, '__name__', '')
        inplace = name in INPLACE or (name.endswith('_') and not name.endswith('__'))
        out = func(*densified(args), **densified(kwargs))
        if inplace and isinstance(args[0], Lazy):
            args[0].plan = Value(args[0].plan.dense())
            return args[0] if isinstance(out, Tensor) else out
        return out

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        # what reaches the dispatcher past __torch_function__, from C++
        return func(*densified(args), **densified(kwargs or {}))


def densified(tree):
    """``tree`` with plain tensors in the place of lazy ones."""
    return tree_map_only(Lazy, lambda x: x.plan.dense(), tree)


# Functions ----------------------------------------------------------------------------------------------------------

# of a tensor's shape and type, not of what it holds
ABOUT = {
    getattr(Tensor, name).__get__
    for name in (
        *('shape', 'dtype', 'device', 'layout', 'requires_grad', 'ndim', 'is_cuda', 'is_sparse', 'is_meta', 'is_leaf'),
        *('grad_fn', 'is_quantized', 'is_mkldnn', 'itemsize', 'nbytes', 'is_nested', '_version', 'is_cpu', 'is_mps'),
        *('is_xpu', 'is_sparse_csr', 'output_nr', 'retains_grad', 'names'),
    )
} | {
    getattr(Tensor, name)
    for name in (
        *('dim', 'size', 'stride', 'numel', 'nelement', 'ndimension', 'is_contiguous', 'is_floating_point', '__len__'),
        *('element_size', 'storage_offset', 'is_complex', 'get_device', 'is_inference', '__hash__', 'is_signed'),
    )
}
INPLACE = {'__setitem__', '__isub__', '__imul__', '__itruediv__', '__ifloordiv__', '__imod__', '__ipow__', '__iadd__'}
# what `mmsnn.inference.handlers` knows better than to ask for numbers: handler(func, args, kwargs)
HANDLERS = {}
