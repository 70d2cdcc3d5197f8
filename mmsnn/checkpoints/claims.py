"""Files that claim to hold more than they do, refused before memory is asked for."""

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

# how much larger than its file the content of a checkpoint may be; torch does not compress, and weights hardly shrink
INFLATION = 10
# bytes of tensors that may be views of less, as expanded ones are
UNHELD = 1 << 28


def check_archive(path: str | Path) -> None:
    """Refuse a zip archive, as torch writes, whose records are much larger than itself; other files pass.

    Raises:
        ValueError: with both sizes.
    """
    path = Path(path).expanduser()
    if not path.is_file() or not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            claimed = sum(record.file_size for record in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError):
        # who reads it says what is wrong
        return
    size = path.stat().st_size
    if claimed > INFLATION * size:
        raise ValueError(f'it has {size} bytes and claims to hold {claimed}')


def check_tensors(content) -> None:
    """Refuse tensors that claim far more numbers than the file holds for them.

    Raises:
        ValueError: with the name and the shape of the first.
    """
    unheld = 0
    for name, tensor in _tensors(content):
        try:
            held = tensor.untyped_storage().nbytes()
        # sparse ones hold their indices and values
        except (RuntimeError, NotImplementedError):
            continue
        unheld += max(0, tensor.numel() * tensor.element_size() - held)
        if unheld > UNHELD:
            raise ValueError(f'{name} claims the shape {tuple(tensor.shape)}, and the file holds {held} bytes of it')


def _tensors(value, name: str = '') -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, child in value.items():
            yield from _tensors(child, f'{name}.{key}' if name else str(key))
    elif isinstance(value, list | tuple):
        for i, child in enumerate(value):
            yield from _tensors(child, f'{name}.{i}')
