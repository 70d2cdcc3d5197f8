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


def _array(kind: type, shape: tuple, code: bytes) -> np.ndarray:
    """How arrays begin: empty, whatever they will hold; a file that says otherwise asks for memory."""
    if kind is not np.ndarray or tuple(shape) != (0,):
        raise pickle.UnpicklingError(f'it asks for an array of the shape {shape}')
    return np.ndarray.__new__(np.ndarray, (0,), 'b')


def _frombuffer(content, dtype, shape, order):
    """How protocol 5 writes arrays; a copy, since what is read may be changed."""
    return np.frombuffer(content, dtype=dtype).reshape(shape, order=order).copy()


def _scalar(dtype: np.dtype, content: bytes):
    if dtype.hasobject or len(content) != dtype.itemsize:
        raise pickle.UnpicklingError('it asks for a scalar of another size than its bytes')
    return np.frombuffer(content, dtype)[0]


def _storage(content: bytes):
    return torch.load(io.BytesIO(content), map_location='cpu', weights_only=True)


def _tensor(storage, offset, size, stride, *_):
    """A tensor no larger than what the file holds of it."""
    if torch.Size(size).numel() > storage._size():
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
    ('numpy', 'ndarray'): np.ndarray,
    ('numpy', 'dtype'): np.dtype,
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
