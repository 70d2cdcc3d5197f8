"""What lazy tensors make of torch's functions, where they need no numbers; NotImplemented asks for them."""

import functools
import math
import operator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves

from .lazy import HANDLERS, Current, Lazy, Plan, Spikes, Value, snapshot
from .strides import FLOAT32, is_last, lies_last

# what an uint8 map can hold
MOST = 255


def handles(*functions):
    """Register ``handler(func, args, kwargs)`` for functions; names are both torch's and Tensor's."""

    def register(handler):
        for function in functions:
            owners = (torch, Tensor) if isinstance(function, str) else ()
            found = [getattr(o, function) for o in owners if hasattr(o, function)] or [function]
            HANDLERS.update(dict.fromkeys(found, handler))
        return handler

    return register


def plan_of(x) -> Plan | None:
    """The plan of a lazy tensor that has one; of another float map its numbers of now; None for what is neither."""
    if isinstance(x, Lazy):
        return x.plan
    fits = isinstance(x, Tensor) and x.dtype == torch.float32 and x.device.type == 'cpu'
    return Value(snapshot(x)) if fits else None


def spikes_of(x) -> Spikes | None:
    """The spikes of a lazy tensor that holds some."""
    plan = x.plan if isinstance(x, Lazy) else None
    return plan if isinstance(plan, Spikes) else None


@handles(torch.conv2d)
def _conv(func, args, kwargs):
    return _convolve(*args, **kwargs)


def _convolve(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    x = input
    plan = x.plan if isinstance(x, Lazy) else None
    if plan is None or type(weight) not in (Tensor, torch.nn.Parameter) or weight.dtype != torch.float32:
        return NotImplemented
    if isinstance(padding, str) or not weight.is_cpu or not _fits(bias, len(weight)):
        return NotImplemented
    pairs = tuple(map(_pair, (stride, padding, dilation)))
    sizes = _sizes(x.shape, weight.shape, pairs, groups)
    if sizes is None:
        return NotImplemented
    repeat = 1
    if isinstance(plan, Current) and plan.repeat > 1 and plan.add is None:
        # steps that are all alike pass once
        plan, repeat = plan.then(repeat=1), plan.repeat
    made = Current(x.engine, plan, weight, bias, (*pairs, groups), repeat=repeat)
    return Lazy.like(x, made, (x.shape[0], weight.shape[0], *sizes), lies_last(weight.shape, weight.stride()))


def _fits(x, number: int) -> bool:
    """Whether ``x`` is None or holds a number for each of so many channels."""
    return x is None or (not isinstance(x, Lazy) and x.dtype == torch.float32 and x.shape == (number,) and x.is_cpu)


def _pair(n) -> tuple[int, int]:
    """Height and width from one number or a sequence of one or two."""
    numbers = tuple(map(operator.index, n if isinstance(n, (tuple, list)) else (n,)))
    return numbers * 2 if len(numbers) == 1 else numbers


@functools.lru_cache(maxsize=4096)
def _sizes(shape, weight, pairs: tuple, groups: int) -> tuple[int, ...] | None:
    """Height and width of a convolution's output; None where PyTorch has to say what is wrong."""
    strides, paddings, dilations = pairs
    if len(shape) != 4 or 0 in shape or groups < 1 or shape[1] != weight[1] * groups or weight[0] % groups:
        return None
    if min(*strides, *dilations) < 1 or min(paddings) < 0:
        return None
    sizes = tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in zip(shape[2:], weight[2:], *pairs))
    return None if min(sizes) < 1 else sizes


@handles(F.batch_norm)
def _batch_norm(func, args, kwargs):
    return _normalise(*args, **kwargs)


def _normalise(input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    plan = None if training else normed(input, running_mean, running_var, weight, bias, eps)
    return NotImplemented if plan is None else Lazy.alike(input, plan)


def normed(x, mean, var, weight, bias, eps) -> Current | None:
    """The plan of a batch norm of ``x``, in evaluation; None where it is not known without numbers."""
    plan = x.plan if isinstance(x, Lazy) else None
    if not isinstance(plan, Current) or plan.add is not None or mean is None:
        return None
    # PyTorch says what is wrong with other statistics
    if not eps > 0 or not all(_fits(t, x.shape[1]) for t in (mean, var, weight, bias)):
        return None
    tensors = mean, var, weight, bias
    return plan.then(steps=(*plan.steps, ('norm', *tensors, eps)))


@handles('add', '__add__', '__radd__', '__iadd__', 'add_')
def _add(func, args, kwargs):
    if kwargs.get('alpha', 1) != 1 or 'out' in kwargs or len(args) != 2:
        return NotImplemented
    a, b = args
    inplace = func.__name__ in ('__iadd__', 'add_')
    # numbers that somebody has, or views, have to change as well
    if inplace and (not isinstance(a, Lazy) or a.memory.numbers is not None or a.memory.shared):
        return NotImplemented
    if not all(isinstance(x, Tensor) for x in args) or a.shape != b.shape:
        return NotImplemented
    plans = plan_of(a), plan_of(b)
    if None in plans:
        return NotImplemented
    both = [isinstance(p, Spikes) for p in plans]
    if all(both) and plans[0].most + plans[1].most <= MOST:
        plan = Spikes(plans[0].values + plans[1].values, plans[0].most + plans[1].most)
    else:
        first, second = plans if isinstance(plans[0], Current) and plans[0].add is None else plans[::-1]
        if not isinstance(first, Current) or first.add is not None or first.repeat > 1 or first.computed:
            return NotImplemented
        plan = first.then(add=second)
    if inplace:
        a.become(plan)
        return a
    return Lazy.alike(a if isinstance(a, Lazy) else b, plan)


@handles('mul', '__mul__', '__rmul__')
def _mul(func, args, kwargs):
    if kwargs or len(args) != 2:
        return NotImplemented
    a, b = (spikes_of(x) for x in args)
    if a is not None and b is not None and a.most * b.most <= MOST:
        place = func(*(x.shown() for x in args))
        return Lazy(Spikes(a.values * b.values, a.most * b.most), place.shape, place.stride(), args[0].engine)
    x, factor = args if isinstance(args[0], Lazy) else args[::-1]
    number = isinstance(factor, (int, float)) or (isinstance(factor, Tensor) and factor.dim() == 0)
    plan = x.plan
    if not number or isinstance(factor, Lazy) or not isinstance(plan, Current) or plan.add is not None:
        return NotImplemented
    # an infinite factor makes NaN of zeros, and a complex one numbers that no neuron takes
    if isinstance(factor, Tensor) and factor.is_complex() or not math.isfinite(factor):
        return NotImplemented
    return Lazy.alike(x, plan.then(steps=(*plan.steps, ('factor', factor))))


@handles('rsub', '__rsub__')
def _complement(func, args, kwargs):
    """``1 - spikes``, as IAND has it."""
    spikes = spikes_of(args[0]) if len(args) == 2 else None
    if spikes is None or kwargs or spikes.most != 1 or isinstance(args[1], Tensor) or args[1] != 1:
        return NotImplemented
    return Lazy.alike(args[0], Spikes(1 - spikes.values, 1))


@functools.lru_cache(maxsize=4096)
def _misses(size: int, windows: int, kernel: int, stride: int, padding: int, dilation: int) -> bool:
    """Whether one of so many ``windows`` over ``size`` elements has all of its places in the padding."""
    starts = range(-padding, windows * stride - padding, stride)
    return not all(any(0 <= start + dilation * i < size for i in range(kernel)) for start in starts)


@handles(F.max_pool2d, torch.max_pool2d)
def _max_pool(func, args, kwargs):
    names = ('input', 'kernel_size', 'stride', 'padding', 'dilation', 'ceil_mode')
    given = {**dict(stride=None, padding=0, dilation=1, ceil_mode=False), **dict(zip(names, args)), **kwargs}
    x, spikes = given['input'], spikes_of(given['input'])
    if spikes is None or given['ceil_mode'] or given.get('return_indices') or x.dim() != 4:
        return NotImplemented
    stride = given['stride']
    if stride is None or (isinstance(stride, (list, tuple)) and not stride):
        given['stride'] = given['kernel_size']
    kernel, stride, padding, dilation = pairs = tuple(map(_pair, map(given.get, names[1:5])))
    sizes = _sizes(x.shape, (1, x.shape[1], *kernel), (stride, padding, dilation), 1)
    # PyTorch says what is wrong
    if sizes is None or any(2 * p > k for p, k in zip(padding, kernel)):
        return NotImplemented
    # a window that meets the padding alone gives -inf, which no byte holds
    if any(_misses(*each) for each in zip(x.shape[2:], sizes, *pairs)):
        return NotImplemented
    values = torch.ops.mmsnn.event_max_pool(spikes.values, *map(list, pairs))
    return Lazy.like(x, Spikes(values, spikes.most), values.shape)


@handles('mean', 'sum')
def _reduce(func, args, kwargs):
    spikes = spikes_of(args[0]) if args else None
    if spikes is None or 'out' in kwargs:
        return NotImplemented
    if kwargs.get('dtype', torch.float32) is None:
        kwargs = dict(kwargs, dtype=torch.float32)
    x, rest = spikes.values, (*args[1:], *kwargs.values())
    if rest in ((0,), ((0,),)) and x.dim() and len(x) and len(x) * spikes.most <= MOST:
        # Over time, bytes are added, and the sum alone is converted.
        total = x[0]
        for step in x[1:]:
            total = total + step
        size, stride = args[0].shape, args[0].stride()
        out = torch.empty_strided(size[1:], _without_first(size, stride), **FLOAT32).copy_(total)
        return out.div_(len(x)) if func.__name__ == 'mean' else out
    out = func(x, *args[1:], **{'dtype': torch.float32, **kwargs})
    # bytes may lie channels last where the dense network's numbers do not
    return out if is_last(args[0]) else out.contiguous()


@functools.lru_cache(maxsize=4096)
def _without_first(size, stride) -> tuple[int, ...]:
    """Strides of the sum over the first dimension of a tensor with this ``size`` and ``stride``."""
    # PyTorch's own answer is computed in Python and takes half a millisecond
    return torch.empty_strided(size, stride, device='meta').sum(0).stride()


@handles(F.interpolate)
def _interpolate(func, args, kwargs):
    spikes = spikes_of(args[0]) if args else None
    if spikes is None or kwargs.get('mode', 'nearest') != 'nearest' or len(args) > 3 or args[0].dim() != 4:
        return NotImplemented
    values = func(spikes.values, *args[1:], **kwargs)
    return Lazy.like(args[0], Spikes(values, spikes.most), values.shape)


@handles(F.pad)
def _pad(func, args, kwargs):
    spikes = spikes_of(args[0]) if args else None
    rest = dict(zip(('pad', 'mode', 'value'), args[1:])) | kwargs
    if spikes is None or rest.get('mode', 'constant') != 'constant' or rest.get('value'):
        return NotImplemented
    values = func(spikes.values, rest['pad'])
    return Lazy.like(args[0], Spikes(values, spikes.most), values.shape)


@handles(F.dropout, F.dropout2d)
def _dropout(func, args, kwargs):
    training = dict(zip(('input', 'p', 'training'), args)).get('training', kwargs.get('training', True))
    return NotImplemented if training or not args else args[0]


@handles(
    *('view', 'reshape', 'flatten', 'unflatten', 'permute', 'transpose', 'contiguous', 'detach', 'unsqueeze'),
    *('squeeze', 'movedim', 'expand', 'repeat', 'narrow', 'select', 'chunk', 'split', 'unbind', 'flip'),
    *('swapaxes', '__getitem__', 'index_select'),
)
def _move(func, args, kwargs):
    """What only moves elements moves bytes; a clone, which somebody keeps, is numbers."""
    x, spikes = (args[0], spikes_of(args[0])) if args else (None, None)
    if spikes is None or any(isinstance(given, (Tensor, torch.dtype)) for given in tree_leaves((args[1:], kwargs))):
        return NotImplemented
    if func is Tensor.__getitem__ and not _is_plain(args[1]):
        return NotImplemented
    # bytes may lie in another order than the dense network's numbers, whose strides and views count
    shown = x.shown()
    places = func(shown, *args[1:], **kwargs)
    moved = (Tensor.reshape if func is Tensor.view else func)(spikes.values, *args[1:], **kwargs)

    def wrap(values: Tensor, place: Tensor) -> Lazy:
        if place is shown:
            return x
        plan, memory, offset = Spikes(values, spikes.most), None, 0
        if torch._C._storage_address(place) == torch._C._storage_address(shown):
            memory, offset = x.memory, x.offset + place.storage_offset()
            memory.shared = True
        return Lazy(plan, place.shape, place.stride(), x.engine, memory, offset)

    return wrap(moved, places) if isinstance(moved, Tensor) else type(moved)(map(wrap, moved, places))


def _is_plain(index) -> bool:
    """Whether an index has numbers and slices alone, and so gives a view; lists and arrays select."""
    each = index if isinstance(index, tuple) else (index,)
    return all(i is None or i is ... or type(i) is int or isinstance(i, slice) for i in each)


@handles('cat', 'concat', 'stack')
def _join(func, args, kwargs):
    parts = [spikes_of(x) for x in args[0]] if args and 'out' not in kwargs else [None]
    if None in parts:
        return NotImplemented
    values = func([p.values for p in parts], *args[1:], **kwargs)
    place = func([x.shown() for x in args[0]], *args[1:], **kwargs)
    return Lazy(Spikes(values, max(p.most for p in parts)), place.shape, place.stride(), args[0][0].engine)


@handles('float')
def _float(func, args, kwargs):
    return NotImplemented if kwargs or len(args) > 1 else args[0]
