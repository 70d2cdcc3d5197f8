"""Refusing files that claim to hold more data than they do, before memory is allocated."""

import io
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

# Largest ratio of a checkpoint's content to its file; torch does not compress, and weights hardly compress.
INFLATION = 10
# Largest number of bytes by which tensors may exceed their storage, as expanded tensors do.
UNHELD = 1 << 28


def stand_in(path: str | Path) -> str:
    """What a failed download left in place of a checkpoint, with the remedy; empty if nothing is recognised."""
    with open(path, 'rb') as file:
        start = file.read(64).lstrip()
    marks = {
        b'<': 'a web page: download it again',
        b'version https://git-lfs': 'a pointer of Git LFS: run git lfs pull',
        b'\x1f\x8b': 'compressed with gzip: unpack it first',
    }
    return next((what for mark, what in marks.items() if start.startswith(mark)), '')


def check_archive(source: Path | io.BytesIO) -> int:
    """Refuse a zip archive (as torch writes) whose records are much larger than the file; accept other files.

    Returns:
        The size of the file in bytes.

    Raises:
        ValueError: the records are too large; the message has both sizes.
    """
    size = source.getbuffer().nbytes if isinstance(source, io.BytesIO) else Path(source).stat().st_size
    if not zipfile.is_zipfile(source):
        return size
    try:
        with zipfile.ZipFile(source) as archive:
            claimed = sum(record.file_size for record in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError):
        # Reading the file will raise the right error.
        return size
    if claimed > INFLATION * size:
        raise ValueError(f'it has {size} bytes and claims to hold {claimed}')
    return size


def check_tensors(content, size: int) -> None:
    """Refuse tensors whose shapes claim far more numbers than a file of ``size`` bytes can hold.

    Raises:
        ValueError: there are such tensors; the message has the name and the shape of one.
    """
    unheld, total, seen = 0, 0, set()
    for name, tensor in _tensors(content):
        try:
            storage = tensor.untyped_storage()
            held, key = storage.nbytes(), storage.data_ptr()
        # Sparse tensors have no storage of their own.
        except (RuntimeError, NotImplementedError):
            continue
        unheld += max(0, tensor.numel() * tensor.element_size() - held)
        total += 0 if key in seen else held
        seen.add(key)
        # A file may allocate memory and leave it empty.
        if unheld + max(0, total - INFLATION * size) > UNHELD:
            raise ValueError(
                f'{name} claims the shape {tuple(tensor.shape)}, and the file holds {min(held, size)} bytes of it'
            )


def _tensors(value, name: str = '', seen: set[int] | None = None) -> Iterator[tuple[str, Tensor]]:
    """The tensors in ``value``, with their names; each container is visited once, since containers may be nested
    recursively or exponentially.
    """
    seen = set() if seen is None else seen
    if isinstance(value, Tensor):
        yield name, value
        return
    if not isinstance(value, Mapping | list | tuple) or id(value) in seen:
        return
    seen.add(id(value))
    for key, child in value.items() if isinstance(value, Mapping) else enumerate(value):
        yield from _tensors(child, f'{name}.{key}' if name else str(key), seen)
