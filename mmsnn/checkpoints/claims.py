"""Refusing files that claim to hold more data than they do, before memory is allocated."""

import io
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from mmsnn.listing import some
from mmsnn.shipped import local

# Largest ratio of a checkpoint's content to its file; torch does not compress, and weights hardly compress.
INFLATION = 10
# Largest number of bytes by which tensors may exceed their storage, as expanded tensors do.
UNHELD = 1 << 28


def stand_in(path: str | Path) -> str:
    """What a failed download or another tool left in place of a checkpoint file, with the remedy; else empty."""
    if Path(path).is_dir():
        return _folder(Path(path))
    with open(path, 'rb') as file:
        start = file.read(64)
    if start and not any(start):
        return 'zeros, as a full disk or a machine that lost its power leaves them: take an earlier one'
    start = start.lstrip()
    marks = {
        b'<': 'a web page: download it again',
        b'version https://git-lfs': 'a pointer of Git LFS: run git lfs pull',
        b'\x1f\x8b': 'compressed with gzip: unpack it first',
    }
    return next((what for mark, what in marks.items() if start.startswith(mark)), '')


def _folder(path: Path) -> str:
    """Which tool wrote a folder, with the command that makes one file of it."""
    if any(path.rglob('*.distcp')):
        how = 'python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE.pth'
        return f'a folder of shards, as torch.distributed.checkpoint and FSDP write: make one file of them with {how}'
    if any(path.rglob('*_model_states.pt')):
        how = 'python -m deepspeed.utils.zero_to_fp32 FOLDER OUT'
        return f'a folder of shards, as DeepSpeed writes: make one file of them with {how}'
    files = sorted(p.name for p in path.glob('*.pth'))
    return 'a folder' + (f': give one of the files in it, {some(files)}' if files else ' without checkpoints')


def require_file(source: str | Path, key: str = '') -> None:
    """Raise FileNotFoundError if ``source`` is not a file; the message says what a folder is, or what lies beside it.

    Args:
        source: a path, which may begin with ``~``, or ``mmsnn://NAME``.
        key: the config key or option that names the file, for the message.
    """
    path, lead = Path(local(source)).expanduser(), f'{key}: ' if key else ''
    if path.is_dir():
        raise FileNotFoundError(f'{lead}{str(source)!r} is no checkpoint but {stand_in(path)}')
    if not path.is_file():
        beside = sorted(p.name for p in path.parent.glob('*.pth')) if path.parent.is_dir() else []
        raise FileNotFoundError(
            f'{lead}there is no checkpoint at {str(source)!r}; in {str(path.parent)!r} there is '
            f'{some(beside) or "none"}'
        )


def check_archive(source: Path | io.BytesIO) -> int:
    """Refuse a zip archive (as torch writes) that is damaged, or much larger inside than it is; accept other files.

    Returns:
        The size of the file in bytes.

    Raises:
        ValueError: a record is damaged, or the records are too large; the message has both sizes.
    """
    size = source.getbuffer().nbytes if isinstance(source, io.BytesIO) else Path(source).stat().st_size
    if not zipfile.is_zipfile(source):
        return size
    try:
        archive = zipfile.ZipFile(source)
    except (zipfile.BadZipFile, OSError, ValueError):
        # Reading the file will raise the right error.
        return size
    with archive:
        claimed = sum(record.file_size for record in archive.infolist())
        if claimed > INFLATION * size:
            raise ValueError(f'it has {size} bytes and claims to hold {claimed}')
        # torch does not look at the checksums
        try:
            bad = archive.testzip()
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
            raise ValueError(f'a part of it cannot be read ({error})') from error
    if bad is not None:
        raise ValueError(f'the checksum of {bad} in it is wrong')
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
