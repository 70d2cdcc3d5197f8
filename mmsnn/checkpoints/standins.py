"""What files may call in place of numpy, torch and mmengine, which believe what they are told of sizes and types.

A pickle is a list of calls. Those below make arrays, scalars and log buffers out of the bytes that the file holds, and
nothing else: no memory by a number, no bytes taken for pointers to objects.
"""

import codecs
import math
from functools import partial
from pickle import UnpicklingError

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch._tensor import _rebuild_from_type_v2


class Dtype:
    """Stands for a dtype while a file is read, since numpy believes what it is told of one: objects where bytes are."""

    def __init__(self, kind: str, *_):
        if not isinstance(kind, str):
            raise UnpicklingError('it asks for a dtype without a name')
        self.kind = np.dtype(kind)
        if self.kind.fields or self.kind.subdtype:
            raise UnpicklingError('it asks for a dtype with fields')

    def __setstate__(self, state: tuple):
        if len(state) > 8 or any(part is not None for part in state[2:5]):
            raise UnpicklingError('it asks for a dtype with fields or units')
        if state[1] in ('<', '>'):
            self.kind = self.kind.newbyteorder(state[1])


class Array(np.ndarray):
    """An array as it is read; copies that are pickled are plain ones. A file may name its class and not call it."""

    def __new__(cls, *_):
        raise UnpicklingError('it calls numpy.ndarray')

    def __setstate__(self, state: tuple):
        version, shape, dtype, fortran, content = state
        if not isinstance(dtype, Dtype):
            raise UnpicklingError(f'it asks for an array of {type(dtype).__name__}')
        # numpy looks at the length of bytes, and not at that of a list
        if dtype.kind.hasobject and len(content) != math.prod(shape):
            raise UnpicklingError(f'it claims {math.prod(shape)} objects, and holds {len(content)}')
        super().__setstate__((version, shape, dtype.kind, fortran, content))

    def __reduce_ex__(self, protocol):
        return self.view(np.ndarray).__reduce_ex__(protocol)


def reconstruct(kind, shape: tuple, code: bytes) -> np.ndarray:
    """How arrays begin: empty, whatever they will hold; a file that says otherwise asks for memory."""
    if kind is not Array or tuple(shape) != (0,):
        raise UnpicklingError(f'it asks for an array of the shape {shape}')
    return np.ndarray.__new__(Array, (0,), 'b')


def frombuffer(content, dtype: Dtype, shape, order) -> np.ndarray:
    """How protocol 5 writes arrays; a copy, since what is read may be changed."""
    return np.frombuffer(content, dtype=dtype.kind).reshape(shape, order=order).copy()


def scalar(dtype: Dtype, content: bytes):
    """A number of numpy's."""
    if dtype.kind.hasobject or len(content) != dtype.kind.itemsize:
        raise UnpicklingError('it asks for a scalar of another size than its bytes')
    return np.frombuffer(content, dtype.kind)[0]


def encode(text: str, encoding: str) -> bytes:
    """How protocol 2 writes bytes; other encodings make them longer, and longer again."""
    if encoding != 'latin1':
        raise UnpicklingError(f'it asks for the encoding {encoding!r}')
    return codecs.encode(text, 'latin1')


def nothing() -> bytes:
    """How protocol 2 writes what is empty; of a number it would be so many zeros."""
    return b''


def room(content: bytes = b'') -> bytearray:
    """A bytearray of bytes; of a number it would be so many zeros."""
    if not isinstance(content, bytes):
        raise UnpicklingError(f'it asks for a bytearray of {content!r}')
    return bytearray(content)


def of_a_device(*_):
    """Copies of tensors, which may be far larger than what they are copies of."""
    raise UnpicklingError('it holds tensors in the form of another device: save its state dict from the CPU')


class Plain(torch.Tensor):
    """Names ``torch.Tensor``, as files with tensors that carry attributes do; it is not called.

    A call makes a tensor of a list, and a short file can hold a list that holds another twice, and so on.
    """

    def __new__(cls, *_):
        raise UnpicklingError('it calls torch.Tensor')


class Storage:
    """Names the class of untyped storages, which a call would make of any size."""

    dtype = torch.uint8

    def __new__(cls, *_):
        raise UnpicklingError('it calls a class of storages')


def retyped(function, kind: type, args: tuple, state) -> torch.Tensor:
    """How torch reads tensors that carry attributes."""
    return _rebuild_from_type_v2(function, torch.Tensor if kind is Plain else kind, args, state)


def of_values(*_):
    """What ``torch.FloatTensor`` and the like make, as torch.Tensor does."""
    raise UnpicklingError('it calls a class of tensors')


class Buffer(HistoryBuffer):
    """mmengine's log buffer; its numbers are read, and not the functions that it keeps beside them."""

    def __init__(self, *_, **__):
        raise UnpicklingError('it calls HistoryBuffer')

    def __setstate__(self, state: dict):
        logs = {name: state[name] for name in ('_log_history', '_count_history')}
        if not all(isinstance(log, np.ndarray) and log.ndim == 1 for log in logs.values()):
            raise UnpicklingError('it holds a HistoryBuffer without numbers')
        self.__class__ = HistoryBuffer
        self.__setstate__(dict(max_length=int(state['max_length']), **logs))


def statistic(owner: type, name: str):
    """What mmengine's log buffers ask of ``getattr``, their methods; `getattr` itself leads a file to any code."""
    if owner is Buffer and name in ('min', 'max', 'mean', 'current'):
        return getattr(HistoryBuffer, name)
    raise UnpicklingError(f'it asks for {name!r} of {owner!r}')


# by the names that files know them by; before numpy 2 its core was called so
_CORE = dict(multiarray=dict(_reconstruct=reconstruct, scalar=scalar), numeric=dict(_frombuffer=frombuffer))
STANDINS = {
    ('numpy', 'ndarray'): Array,
    ('numpy', 'dtype'): Dtype,
    **{
        (f'numpy.{core}.{module}', name): function
        for core in ('_core', 'core')
        for module, functions in _CORE.items()
        for name, function in functions.items()
    },
    ('builtins', 'getattr'): statistic,
    ('builtins', 'bytes'): nothing,
    ('mmengine.logging.history_buffer', 'HistoryBuffer'): Buffer,
}
# what torch's reader lets a file call by itself, and what it may call instead
INSTEAD = {
    'torch.Tensor': Plain,
    'torch._tensor._rebuild_from_type_v2': retyped,
    'torch.storage.TypedStorage': Storage,
    'torch.storage.UntypedStorage': Storage,
    '_codecs.encode': encode,
    'builtins.bytearray': room,
    'torch._utils._rebuild_device_tensor_from_numpy': of_a_device,
    'torch._utils._rebuild_device_tensor_from_cpu_tensor': of_a_device,
}


def instead(own: dict) -> dict:
    """What takes the place of ``own``, what torch's reader lets a file call: `INSTEAD`, and no class of tensors."""
    return {**{name: of_values for name in own if name.endswith('Tensor')}, **INSTEAD}


def safe_globals() -> list:
    """`STANDINS` as ``torch.serialization.safe_globals`` wants them: named by themselves."""
    return [_named(standin, *name) for name, standin in STANDINS.items()]


def _named(standin, module: str, name: str):
    if isinstance(standin, type):
        # pickle never sees one of these: arrays are written as plain ones, and the others are gone once they are read
        standin.__module__, standin.__qualname__ = module, name
        return standin
    called = partial(standin)
    called.__module__, called.__qualname__ = module, name
    return called
