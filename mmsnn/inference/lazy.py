"""Tensors of the event-driven engine: they know what they are made of, and are computed where a neuron asks for them.

A `Lazy` tensor passes through any network as if it held numbers. Convolutions, norms and sums of such tensors are only
noted, as plans; a neuron then runs them together, on events. Spikes stay bytes through all that moves, pools and adds
them. Every other function is given the numbers, so no layer has to know of events.

A plan never changes, and nobody else holds the memory of its numbers. A function is given a copy of them, which PyTorch
makes only when somebody writes to it (``torch._lazy_clone``): in place, or through a view, a NumPy array or any other
alias. A tensor whose copy was made is no longer what its plan tells, and holds numbers from then on.
"""

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from .strides import FLOAT32, lies_last, preserved, strides


def snapshot(x: Tensor) -> Tensor:
    """A copy of ``x``, made when one of both is written to, or now where the memory of ``x`` is not PyTorch's own."""
    try:
        return torch._lazy_clone(x)
    except RuntimeError:
        return x.clone()


class Plan:
    """How to compute the numbers of a tensor. They are computed when they are asked for, and kept."""

    def __init__(self):
        self._dense = None

    def _compute(self) -> Tensor:
        raise NotImplementedError

    def keep(self, dense: Tensor) -> None:
        """Note numbers that somebody has computed."""
        self._dense = dense

    @property
    def computed(self) -> bool:
        """Whether the numbers are there."""
        return self._dense is not None

    def dense(self) -> Tensor:
        """The numbers, float32, to be read only."""
        if self._dense is None:
            self._dense = self._compute()
        return self._dense


class Value(Plan):
    """Numbers that are there already."""

    def __init__(self, value: Tensor):
        self._dense = value


class Spikes(Plan):
    """Spikes as bytes, or sums of them.

    Args:
        values: uint8, in any memory order.
        most: the largest value that may occur.
    """

    def __init__(self, values: Tensor, most: int):
        super().__init__()
        self.values, self.most = values, most

    def _compute(self) -> Tensor:
        return self.values.to(torch.float32)


def versions(values) -> tuple[tuple[Tensor, int], ...]:
    """The tensors among ``values`` that count their changes, with the count."""
    return tuple((t, t._version) for t in values if isinstance(t, Tensor) and not t.is_inference())


class Current(Plan):
    """What a convolution, norms and shortcuts will give, before a neuron.

    Args:
        engine: runs it.
        source: the plan of the convolution's input.
        weight, bias: of the convolution.
        geometry: stride, padding, dilation, groups.
        steps: the norms and factors behind it.
        add: what is added at the end, a plan; or None.
        repeat: time steps that are all the same; ``source`` holds one of them.
    """

    def __init__(self, engine, source, weight, bias, geometry, steps=(), add=None, repeat=1, seen=None):
        super().__init__()
        self.engine, self.source, self.weight, self.bias, self.geometry = engine, source, weight, bias, geometry
        self.steps, self.add, self.repeat = steps, add, repeat
        self._seen = versions((weight, bias)) if seen is None else seen

    def then(self, **changes) -> 'Current':
        """This one with other ``steps``, ``add`` or ``repeat``."""
        changes.setdefault('steps', self.steps)
        changes.setdefault('add', self.add)
        changes.setdefault('repeat', self.repeat)
        new = versions(t for step in changes['steps'][len(self.steps) :] for t in step)
        made = self.engine, self.source, self.weight, self.bias, self.geometry
        return Current(*made, seen=self._seen + new, **changes)

    def check(self) -> None:
        """RuntimeError if weights have changed since the convolution, or a norm behind it, was called."""
        if any(t._version != version for t, version in self._seen):
            raise RuntimeError(
                'the weights of a convolution or norm changed after it was called and before its result was needed, '
                'which on events is later (does a hook exchange them, or was a feature map kept?): read the result '
                'first, or let this part run densely by mmsnn.event_driven(part, enabled=False)'
            )

    def _compute(self) -> Tensor:
        return self.engine.current(self)


class Memory:
    """The memory that a tensor and its views would share if they were computed.

    Args:
        plan: of the tensor that is no view.
        size, stride: of the same.
    """

    def __init__(self, plan: Plan, size, stride):
        self.plan, self.size, self.stride = plan, size, tuple(stride)
        # whether there are views; what was computed; and its copy, which functions are given and may write to
        self.shared, self._kept, self.numbers = False, None, None

    def give(self, kept: Tensor, numbers: Tensor) -> None:
        """Note ``numbers``, which functions are given, and their copy."""
        self._kept, self.numbers = kept, numbers

    @property
    def changed(self) -> bool:
        """Whether somebody has written to the numbers, or could do so unseen."""
        address = torch._C._data_address
        return self.numbers is not None and address(self.numbers) != address(self._kept)

    def dense(self) -> Tensor:
        """The numbers as functions are given them."""
        if self.numbers is None:
            source = self.plan.values if isinstance(self.plan, Spikes) else self.plan.dense()
            if source.stride() == self.stride:
                kept = self.plan.dense()
            else:
                kept = torch.empty_strided(self.size, self.stride, **FLOAT32).copy_(source)
            self.give(kept, snapshot(kept))
        return self.numbers


class Lazy(Tensor):
    """A float32 tensor on the CPU without memory of its own; ``plan`` tells what it holds.

    Its sizes, strides and views are those that it would have in the dense network.
    """

    @staticmethod
    def __new__(cls, plan: Plan, size, stride, engine, memory: Memory | None = None, offset: int = 0):
        out = Tensor._make_wrapper_subclass(cls, size, stride, dtype=torch.float32, device='cpu', requires_grad=False)
        out._plan, out.engine, out.offset, out._numbers = plan, engine, offset, None
        out.memory = Memory(plan, size, stride) if memory is None else memory
        return out

    def __hash__(self) -> int:
        return id(self)

    @property
    def plan(self) -> Plan | None:
        """What this tensor holds; None where its numbers were changed, and they alone count."""
        return None if self._plan is None or self.memory.changed else self._plan

    def become(self, plan: Plan) -> None:
        """Hold something else of the same shape; for a tensor that has neither numbers nor views."""
        self._plan, self.memory = plan, Memory(plan, self.memory.size, self.memory.stride)

    def numbers(self) -> Tensor:
        """The numbers, always the same tensor."""
        if self._numbers is None:
            if torch.is_grad_enabled() or torch.is_autocast_enabled('cpu'):
                # It was planned without, by a frozen part in front of one that learns.
                with torch.no_grad(), torch.autocast('cpu', enabled=False):
                    return self.numbers()
            base = self.memory.dense()
            with torch._C.DisableTorchFunctionSubclass():
                size, stride = self.shape, self.stride()
            if self.memory.shared:
                base = base.as_strided(size, stride, base.storage_offset() + self.offset)
            self._numbers = base
        return self._numbers

    def shown(self) -> Tensor:
        """A tensor of this shape and these strides that holds nothing."""
        with torch._C.DisableTorchFunctionSubclass():
            return torch.empty_strided(self.shape, self.stride(), device='meta')

    @classmethod
    def of_values(cls, x: Tensor, engine) -> 'Lazy':
        """The numbers of ``x``; a change in place reaches ``x``, unless its memory is not PyTorch's own."""
        kept = snapshot(x)
        out = cls(Value(kept), x.shape, x.stride(), engine)
        if torch._C._data_address(kept) == torch._C._data_address(x):
            out.memory.give(kept, x)
        return out

    @classmethod
    def like(cls, x: 'Lazy', plan: Plan, size, last: bool = False) -> 'Lazy':
        """What a convolution, pooling or padding makes of ``x``: in the same memory format, or channels last."""
        with torch._C.DisableTorchFunctionSubclass():
            last = last or lies_last(x.shape, x.stride())
        return cls(plan, size, strides(tuple(size), last), x.engine)

    @classmethod
    def alike(cls, x: 'Lazy', plan: Plan) -> 'Lazy':
        """What a function of single elements makes of ``x``."""
        with torch._C.DisableTorchFunctionSubclass():
            size, stride = x.shape, x.stride()
        return cls(plan, size, preserved(size, stride), x.engine)

    def repeated(self, T: int) -> Tensor:
        """``[B, ...]`` at every of T time steps, ``[T*B, ...]``; for `mmsnn.layers.DirectEncoder`."""
        plan = self.plan
        if isinstance(plan, Current) and plan.repeat == 1 and plan.add is None and not plan.computed:
            return self.like(self, plan.then(repeat=T), (T * self.shape[0], *self.shape[1:]))
        return self.numbers().repeat(T, *[1] * (self.dim() - 1))

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if torch.compiler.is_compiling():
            return untraced(func, args, kwargs)
        handler = HANDLERS.get(func)
        if handler is not None and not torch.is_grad_enabled() and not torch.is_autocast_enabled('cpu'):
            with torch._C.DisableTorchFunctionSubclass():
                out = handler(func, args, kwargs)
            if out is not NotImplemented:
                return out
        if func in ABOUT and args[0]._plan is not None:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        return on_numbers(func, args, kwargs)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        # what reaches the dispatcher past __torch_function__, from C++
        return (untraced if torch.compiler.is_compiling() else on_numbers)(func, args, kwargs or {})


@torch.compiler.disable
def untraced(func, args, kwargs):
    """`on_numbers` outside of the graph that torch.compile traces, in which plans would be lost."""
    return on_numbers(func, args, kwargs)


def on_numbers(func, args, kwargs):
    """``func`` of the numbers; where it returns one of the tensors it was given, that is the lazy one."""
    given = []

    def numbers(x: Lazy) -> Tensor:
        given.append((x, x.numbers(), _place(x.numbers())))
        return x.numbers()

    out = func(*tree_map_only(Lazy, numbers, args), **tree_map_only(Lazy, numbers, kwargs))
    for x, dense, place in given:
        if _place(dense) != place:
            # resized, transposed or put into other memory in place
            x._plan = None
    lazy = {id(dense): x for x, dense, _ in given}
    if isinstance(out, Tensor):
        return lazy.get(id(out), out)
    return tree_map_only(Tensor, lambda x: lazy.get(id(x), x), out) if isinstance(out, (list, tuple)) else out


def _place(x: Tensor) -> tuple:
    return torch._C._storage_address(x), x.storage_offset(), x.shape, x.stride()


# Functions ----------------------------------------------------------------------------------------------------------

# of a tensor's shape and type, not of what it holds
ABOUT = {
    getattr(Tensor, name).__get__
    for name in (
        *('shape', 'dtype', 'device', 'layout', 'requires_grad', 'ndim', 'is_cuda', 'is_sparse', 'is_meta', 'is_leaf'),
        *('grad_fn', 'is_quantized', 'is_mkldnn', 'itemsize', 'nbytes', 'is_nested', 'is_cpu', 'is_mps', 'is_xpu'),
        *('is_sparse_csr', 'output_nr', 'retains_grad', 'names'),
    )
} | {
    getattr(Tensor, name)
    for name in (
        *('dim', 'size', 'stride', 'numel', 'nelement', 'ndimension', 'is_contiguous', 'is_floating_point', '__len__'),
        *('element_size', 'is_complex', 'get_device', 'is_inference', 'is_signed'),
    )
}
# what `mmsnn.inference.handlers` knows better than to ask for numbers: handler(func, args, kwargs)
HANDLERS = {}
