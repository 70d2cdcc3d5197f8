"""Tensors of the event-driven engine: they know what they are made of, and are computed where a neuron asks for them.

A `Lazy` tensor passes through any network as if it held numbers. Convolutions, norms and sums of such tensors are only
noted; a neuron then runs them together, on events. Spikes stay bytes through all that moves, pools and adds them.
Every other function is given the numbers, so no layer has to know of events.

A change in place reaches the tensor, its views and nothing else: what was noted before keeps the numbers of then.
"""

import weakref

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only


def _version(x: Tensor) -> int | None:
    """Counts the changes of ``x`` in place; None where PyTorch does not count them (``torch.inference_mode``)."""
    return None if x.is_inference() else x._version


class Value:
    """Numbers: images, and what was changed in place."""

    def __init__(self, value: Tensor):
        self.value, self._known = value, _version(value)

    @property
    def changed(self) -> bool:
        """Whether somebody has changed the numbers since."""
        return _version(self.value) != self._known

    def dense(self) -> Tensor:
        """The numbers.

        Raises:
            RuntimeError: they were changed in place after a convolution or sum of them was noted.
        """
        if self.changed:
            raise RuntimeError(
                f'mmsnn.event_driven: a tensor {tuple(self.value.shape)} was changed in place after a convolution or '
                'sum had taken it and before a neuron ran them. Change a clone of it, or call '
                'event_driven(model, enabled=False)'
            )
        return self.value

    def set_apart(self) -> Tensor:
        """The numbers, to be changed in place; this plan keeps a copy."""
        given = self.dense()
        self.value = given.clone()
        self._known = _version(self.value)
        return given


class _Computed:
    """A plan whose numbers are computed when they are asked for, and kept."""

    def __init__(self):
        self._dense = self._known = None

    def _compute(self) -> Tensor:
        raise NotImplementedError

    def keep(self, dense: Tensor) -> None:
        """Note numbers that somebody has computed."""
        self._dense, self._known = dense, _version(dense)

    @property
    def computed(self) -> bool:
        """Whether there are numbers, of which there may be views."""
        return self._dense is not None

    @property
    def changed(self) -> bool:
        """Whether somebody has changed the numbers, through a view of them."""
        return self._dense is not None and _version(self._dense) != self._known

    @property
    def value(self) -> Tensor | None:
        """The numbers with all changes."""
        return self._dense

    def dense(self) -> Tensor:
        """The numbers, float32, without the changes that were made to them afterwards."""
        if self.changed:
            return self._compute()
        if self._dense is None:
            self.keep(self._compute())
        return self._dense

    def set_apart(self) -> Tensor:
        """The numbers, to be changed in place; this plan will compute them again."""
        given = self.dense()
        self._dense = None
        return given


class Spikes(_Computed):
    """Spikes as bytes, or sums of them.

    Args:
        values: uint8.
        most: the largest value that may occur.
    """

    def __init__(self, values: Tensor, most: int):
        super().__init__()
        self.values, self.most = values, most

    def _compute(self) -> Tensor:
        return self.values.to(torch.float32)


class Current(_Computed):
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
        super().__init__()
        self.engine, self.source, self.weight, self.bias, self.geometry = engine, source, weight, bias, geometry
        self.steps, self.add, self.repeat = steps, add, repeat

    def then(self, **changes) -> 'Current':
        """This one with other ``steps``, ``add`` or ``repeat``."""
        rest = dict(steps=self.steps, add=self.add, repeat=self.repeat)
        return Current(self.engine, self.source, self.weight, self.bias, self.geometry, **{**rest, **changes})

    def _compute(self) -> Tensor:
        return self.engine.current(self)


Plan = Value | Spikes | Current


class Lazy(Tensor):
    """A float32 tensor on the CPU without memory of its own; ``plan`` tells what it holds."""

    @staticmethod
    def __new__(cls, plan: Plan, size, stride, engine):
        out = Tensor._make_wrapper_subclass(cls, size, stride, dtype=torch.float32, device='cpu', requires_grad=False)
        out._plan, out.engine = plan, engine
        # weak references to all tensors that show the same spikes
        out._views = None
        return out

    @property
    def plan(self) -> Plan:
        """What this tensor holds, with the changes that were made through views of its numbers."""
        if self._plan.changed:
            self._plan = Value(self._plan.value)
        return self._plan

    @plan.setter
    def plan(self, plan: Plan) -> None:
        self._plan = plan

    def shows(self, base: 'Lazy') -> 'Lazy':
        """Note that this tensor is a view of the spikes of ``base``; returns this tensor."""
        if base._views is None:
            base._views = [weakref.ref(base)]
        base._views[:] = [view for view in base._views if view() is not None] + [weakref.ref(self)]
        self._views = base._views
        return self

    def views(self) -> list['Lazy']:
        """The tensors that a change of this one in place changes: itself, and those that show the same spikes."""
        return [self] if self._views is None else [x for x in (view() for view in self._views) if x is not None]

    def before_change(self) -> None:
        """Give this tensor and its views numbers of their own, to be changed in place."""
        views, base = self.views(), None
        for x in views:
            if len(views) > 1 and isinstance(x.plan, Spikes):
                values = x.plan.values
                if base is None:
                    flat = torch.empty(0, dtype=torch.uint8).set_(values.untyped_storage())
                    base = flat.to(torch.float32)
                x.plan = Value(base.as_strided(values.shape, values.stride(), values.storage_offset()))
            else:
                x.plan = Value(x.plan.set_apart())

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
        if isinstance(plan, Current) and plan.repeat == 1 and plan.add is None and not plan.computed:
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
        inplace = name in INPLACE or (name.endswith('_') and not name.endswith('__')) or kwargs.get('inplace', False)
        changed = args[0] if inplace and args else kwargs.get('out')
        for x in tree_leaves(changed):
            if isinstance(x, Lazy):
                x.before_change()
        out = func(*densified(args), **densified(kwargs))
        return changed if isinstance(changed, Lazy) and isinstance(out, Tensor) else out

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        # what reaches the dispatcher past __torch_function__, from C++
        kwargs = kwargs or {}
        if func._schema.is_mutable:
            for about, given in zip(func._schema.arguments, args):
                if isinstance(given, Lazy) and about.alias_info is not None and about.alias_info.is_write:
                    given.before_change()
        return func(*densified(args), **densified(kwargs))


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
# further functions that change their first argument
INPLACE = {
    '__setitem__',
    '__set__',
    '__isub__',
    '__imul__',
    '__itruediv__',
    '__ifloordiv__',
    '__imod__',
    '__ipow__',
    '__iadd__',
}
# what `mmsnn.inference.handlers` knows better than to ask for numbers: handler(func, args, kwargs)
HANDLERS = {}
