"""Annotation and proposal files of others, which mmengine reads by pickle and YAML: as data, never as code."""

import codecs
import collections
import copyreg
import io
import pickle

import numpy as np
import torch
import yaml
from mmengine.fileio import PickleHandler, YamlHandler, register_handler
from mmengine.structures import BaseDataElement, InstanceData, LabelData, PixelData

TUPLE = 'tag:yaml.org,2002:python/tuple'


class DataUnpickler(pickle.Unpickler):
    """Reads containers, numbers, texts, arrays, tensors and mmengine's data elements, as these files are made of.

    No other name is looked up, so that nothing in the file can call anything.

    Raises:
        pickle.UnpicklingError: the file asks for anything else.
    """

    def find_class(self, module: str, name: str):
        found = _ALLOWED.get((_HOMES.get(module, module), name))
        if found is None:
            raise pickle.UnpicklingError(
                f'it asks for {module}.{name}, which could run code: only containers, numbers, texts, arrays and '
                'tensors are read'
            )
        return found

    def persistent_load(self, pid):
        raise pickle.UnpicklingError('it refers to something outside of the file')


def _encode(text: str, encoding: str) -> bytes:
    """How protocol 2 writes bytes."""
    if encoding != 'latin1':
        raise pickle.UnpicklingError(f'it asks for the encoding {encoding!r}')
    return codecs.encode(text, 'latin1')


class _Dtype:
    """Stands for a dtype while a file is read, since numpy believes what it is told of one: objects where bytes are."""

    def __init__(self, kind: str, *_):
        if not isinstance(kind, str):
            raise pickle.UnpicklingError('it asks for a dtype without a name')
        self.kind = np.dtype(kind)

    def __setstate__(self, state: tuple):
        if len(state) > 8 or any(part is not None for part in state[2:5]):
            raise pickle.UnpicklingError('it asks for a dtype with fields or units')
        if state[1] in ('<', '>'):
            self.kind = self.kind.newbyteorder(state[1])


class _Array(np.ndarray):
    """An array as it is read; copies that are pickled are plain ones."""

    def __setstate__(self, state: tuple):
        super().__setstate__((*state[:2], state[2].kind, *state[3:]))

    def __reduce_ex__(self, protocol):
        return self.view(np.ndarray).__reduce_ex__(protocol)


def _ndarray(*_):
    """Stands for the class of arrays, which a file may name and not call: it would ask for memory."""
    raise pickle.UnpicklingError('it calls numpy.ndarray')


def _array(kind, shape: tuple, code: bytes) -> np.ndarray:
    """How arrays begin: empty, whatever they will hold; a file that says otherwise asks for memory."""
    if kind is not _ndarray or tuple(shape) != (0,):
        raise pickle.UnpicklingError(f'it asks for an array of the shape {shape}')
    return _Array.__new__(_Array, (0,), 'b')


def _frombuffer(content, dtype: _Dtype, shape, order):
    """How protocol 5 writes arrays; a copy, since what is read may be changed."""
    return np.frombuffer(content, dtype=dtype.kind).reshape(shape, order=order).copy()


def _scalar(dtype: _Dtype, content: bytes):
    if dtype.kind.hasobject or len(content) != dtype.kind.itemsize:
        raise pickle.UnpicklingError('it asks for a scalar of another size than its bytes')
    return np.frombuffer(content, dtype.kind)[0]


def _storage(content: bytes):
    storage = torch.load(io.BytesIO(content), map_location='cpu', weights_only=True)
    if storage.nbytes() > len(content):
        raise pickle.UnpicklingError(f'it claims {storage.nbytes()} bytes of a tensor, and holds {len(content)}')
    return storage


def _tensor(storage, offset, size, stride, *_):
    """A tensor no larger than what the file holds of it."""
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if torch.Size(size).numel() > storage._size() or (0 not in size and not 0 <= last < storage._size()):
        raise pickle.UnpicklingError(
            f'it claims a tensor of the shape {tuple(size)}, and holds {storage._size()} numbers'
        )
    return torch._utils._rebuild_tensor(storage, offset, tuple(size), tuple(stride))


def _object(kind: type, base: type, state):
    if not issubclass(kind, BaseDataElement) or base is not object:
        raise pickle.UnpicklingError(f'it asks for {kind}')
    return object.__new__(kind)


# as older versions of Python and of the libraries call them
_HOMES = {
    '__builtin__': 'builtins',
    'numpy.core.multiarray': 'numpy._core.multiarray',
    'numpy.core.numeric': 'numpy._core.numeric',
    'copy_reg': 'copyreg',
}
_ALLOWED = {('builtins', kind.__name__): kind for kind in (set, frozenset, list, dict, tuple, complex, slice, object)}
_ALLOWED |= {(kind.__module__, kind.__name__): kind for kind in (BaseDataElement, InstanceData, LabelData, PixelData)}
_ALLOWED |= {
    ('collections', 'OrderedDict'): collections.OrderedDict,
    ('_codecs', 'encode'): _encode,
    (copyreg.__name__, '_reconstructor'): _object,
    ('numpy', 'ndarray'): _ndarray,
    ('numpy', 'dtype'): _Dtype,
    ('numpy._core.multiarray', '_reconstruct'): _array,
    ('numpy._core.multiarray', 'scalar'): _scalar,
    ('numpy._core.numeric', '_frombuffer'): _frombuffer,
    ('torch', 'Size'): torch.Size,
    ('torch._utils', '_rebuild_tensor_v2'): _tensor,
    ('torch.storage', '_load_from_bytes'): _storage,
}


class SafePickleHandler(PickleHandler):
    """mmengine's handler of pickles, with `DataUnpickler`; writing is as it was."""

    def load_from_fileobj(self, file, **kwargs):
        """What lies in ``file``.

        Raises:
            ValueError: it could run code, or is damaged.
        """
        try:
            return DataUnpickler(file, **kwargs).load()
        # whatever a damaged or hostile stream makes of the few functions that it may use
        except Exception as error:
            raise ValueError(
                f'a file of annotations or proposals in pickle format was not read ({type(error).__name__}: {error}). '
                'Where you trust it, write it as JSON with the code that made it'
            ) from error


class DataLoader(getattr(yaml, 'CSafeLoader', yaml.SafeLoader)):
    """YAML's safe loader, and tuples, as which mmengine dumps configs."""


DataLoader.add_constructor(TUPLE, lambda loader, node: tuple(loader.construct_sequence(node, deep=True)))


class SafeYamlHandler(YamlHandler):
    """mmengine's handler of YAML, without tags that call Python."""

    def load_from_fileobj(self, file, **kwargs):
        """What lies in ``file``.

        Raises:
            ValueError: it could run code, or is no YAML.
        """
        try:
            return super().load_from_fileobj(file, **{**kwargs, 'Loader': DataLoader})
        except yaml.YAMLError as error:
            text = ' '.join(str(error).split())
            raise ValueError(f'a YAML file was not read: {text}. Tags that call Python are refused') from error


def read_annotations_safely() -> None:
    """From here on mmengine reads ``.pkl``, ``.pickle``, ``.yaml`` and ``.yml`` as data. Calling twice does no harm."""
    register_handler(['pkl', 'pickle'])(SafePickleHandler)
    register_handler(['yaml', 'yml'])(SafeYamlHandler)
