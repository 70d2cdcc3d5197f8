"""Files that claim to hold more than they do, refused before memory is asked for."""

import io
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

# how much larger than its file the content of a checkpoint may be; torch does not compress, and weights hardly shrink
INFLATION = 10
# bytes of tensors that may be views of less, as expanded ones are
UNHELD = 1 << 28


def stand_in(path: str | Path) -> str:
    """What a file that cannot be read is instead, as downloads leave it; empty where it is nothing of that kind."""
    with open(path, 'rb') as file:
        start = file.read(64).lstrip()
    marks = {
        b'<': 'a web page: download it again',
        b'version https://git-lfs': 'a pointer of Git LFS: run git lfs pull',
        b'\x1f\x8b': 'compressed with gzip: unpack it first',
    }
    return next((what for mark, what in marks.items() if start.startswith(mark)), '')


def check_archive(source: Path | io.BytesIO) -> int:
    """Refuse a zip archive, as torch writes, whose records are much larger than itself; other files pass.

    Returns:
        The size of the file in bytes.

    Raises:
        ValueError: with both sizes.
    """
    size = source.getbuffer().nbytes if isinstance(source, io.BytesIO) else Path(source).stat().st_size
    if not zipfile.is_zipfile(source):
        return size
    try:
        with zipfile.ZipFile(source) as archive:
            claimed = sum(record.file_size for record in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError):
        # who reads it says what is wrong
        return size
    if claimed > INFLATION * size:
        raise ValueError(f'it has {size} bytes and claims to hold {claimed}')
    return size


def check_tensors(content, size: int) -> None:
    """Refuse tensors that claim far more numbers than a file of ``size`` bytes holds for them.

    Raises:
        ValueError: with the name and the shape of the first.
    """
    unheld, total, seen = 0, 0, set()
    for name, tensor in _tensors(content):
        try:
            storage = tensor.untyped_storage()
            held, key = storage.nbytes(), storage.data_ptr()
        # sparse ones hold their indices and values
        except (RuntimeError, NotImplementedError):
            continue
        unheld += max(0, tensor.numel() * tensor.element_size() - held)
        total += 0 if key in seen else held
        seen.add(key)
        # a file may make room and leave it empty
        if unheld + max(0, total - INFLATION * size) > UNHELD:
            raise ValueError(
                f'{name} claims the shape {tuple(tensor.shape)}, and the file holds {min(held, size)} bytes of it'
            )


def _tensors(value, name: str = '', seen: set[int] | None = None) -> Iterator[tuple[str, Tensor]]:
    """The tensors in ``value``, each container once: lists that hold each other twice would have no end."""
    seen = set() if seen is None else seen
    if isinstance(value, Tensor):
        yield name, value
        return
    if not isinstance(value, Mapping | list | tuple) or id(value) in seen:
        return
    seen.add(id(value))
    for key, child in value.items() if isinstance(value, Mapping) else enumerate(value):
        yield from _tensors(child, f'{name}.{key}' if name else str(key), seen)
