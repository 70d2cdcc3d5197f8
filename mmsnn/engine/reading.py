"""Annotation and proposal files of others, which mmengine reads by pickle and YAML: as data, never as code."""

import collections
import copyreg
import io
import pickle

import torch
import yaml
from mmengine.fileio import PickleHandler, YamlHandler, register_handler
from mmengine.structures import BaseDataElement, InstanceData, LabelData, PixelData

from mmsnn.checkpoints.reading import safely
from mmsnn.checkpoints.standins import STANDINS, encode

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


def _storage(content: bytes):
    storage = safely(io.BytesIO(content))
    size = storage.untyped().nbytes()
    if size > len(content):
        raise pickle.UnpicklingError(f'it claims {size} bytes of a tensor, and holds {len(content)}')
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


# as older versions of Python call them
_HOMES = {'__builtin__': 'builtins', 'copy_reg': 'copyreg'}
_ALLOWED = {('builtins', kind.__name__): kind for kind in (set, frozenset, list, dict, tuple, complex, slice, object)}
_ALLOWED |= {(kind.__module__, kind.__name__): kind for kind in (BaseDataElement, InstanceData, LabelData, PixelData)}
_ALLOWED |= {name: STANDINS[name] for name in STANDINS if name[0].startswith('numpy') or name[1] == 'bytes'}
_ALLOWED |= {
    ('collections', 'OrderedDict'): collections.OrderedDict,
    ('_codecs', 'encode'): encode,
    (copyreg.__name__, '_reconstructor'): _object,
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
