"""Checks of event dataset files before SpikingJelly reads them: they exist, are complete and have the right format."""

import re
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import numpy as np

# largest size in bytes that the unpacked arrays of one recording may have
LARGEST = 1 << 30


def check_claim(path: str | Path) -> None:
    """Raise ValueError if a ``.npz`` file claims to be larger than any recording, before memory is allocated."""
    with ZipFile(path) as archive:
        claimed = sum(record.file_size for record in archive.infolist())
    if claimed > LARGEST:
        raise ValueError(f'{path} claims to hold {claimed} bytes, more than a recording of events can have')


def read_npz(path: str | Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """The arrays ``names`` of a ``.npz`` file, by name.

    Raises:
        ValueError: the file is damaged, lacks an array, or claims to be larger than a recording.
    """
    try:
        check_claim(path)
        with np.load(path) as content:
            return {name: content[name] for name in names}
    except (ValueError, KeyError, EOFError, BadZipFile, zlib.error, MemoryError, OverflowError) as error:
        raise ValueError(str(error) or type(error).__name__) from error


def numbered(path: str) -> list:
    """Sorting key that compares numbers in file names by value, so that 9 comes before 10."""
    return [int(part) if part.isdigit() else part for part in re.split(r'(\d+)', Path(path).name)]


def require_files(source, root: Path, download: bool) -> None:
    """Check that all files of SpikingJelly's class ``source`` are in ``root/download``, or may be downloaded.

    Raises:
        FileNotFoundError: a file is missing; the message lists all files with their addresses.
    """
    folder = root / 'download'
    lines, missing = [], False
    for name, url, md5 in source.resource_url_md5():
        present = (folder / name).is_file()
        missing |= not present
        lines.append(f'  {"present" if present else "MISSING"}  {name}  {url}  md5 {md5}')
    if not missing:
        return
    if download and source.downloadable():
        root.mkdir(parents=True, exist_ok=True)
        return
    remedy = 'Put these files there'
    if source.downloadable():
        remedy += ', or set dataset.download=True and SpikingJelly fetches them'
    raise FileNotFoundError(f'dataset.data_root: files are missing in {folder}. {remedy}:\n' + '\n'.join(lines))


def first_unreadable(jelly, folder: Path, T: int, split_by: str, size: tuple[int, int]) -> str | None:
    """A message about the first file of events that cannot be turned into frames; None if all can."""
    for path in sorted(folder.rglob('*.npz')):
        try:
            events = read_npz(path, 'txyp')
            jelly.integrate_events_by_fixed_frames_number(events, split_by, T, *size)
        # a damaged archive or a recording without events may raise any exception
        except Exception as error:
            return (
                f'{path} gives no {T} frames ({error}). If it is damaged, remove {folder}, and it is written again. If '
                "some periods have no events, use dataset.split_by='number'"
            )
    return None


def skip_header(file) -> int:
    """Skip the lines at the beginning that start with #; returns their length in bytes."""
    length = 0
    while file.read(1) == b'#':
        length += 1 + len(file.readline())
    file.seek(length)
    return length


def check_records(path: Path, file, header: int, size: int) -> None:
    """Raise ValueError unless one or more whole records of ``size`` bytes follow the ``header`` bytes."""
    length = file.seek(0, 2) - header
    if length <= 0 or length % size:
        raise ValueError(f'{path} is truncated: {length} bytes after the header are not whole events of {size} bytes')


def read_packets(path: Path) -> tuple[bool, int | None]:
    """Whether the last packet of an AEDAT 3.1 file is complete, and the time of the last event in microseconds.

    Of each packet only the header and the last event are read. The time is None if there are no events.

    Raises:
        ValueError: the file ends in the middle of an event or of a packet's header.
    """
    last, whole = None, True
    with open(path, 'rb') as file:
        end = file.seek(0, 2)
        file.seek(0)
        skip_header(file)
        while whole and (header := file.read(28)):
            if len(header) < 28:
                raise ValueError(f'{path} is truncated: it ends in the header of a packet')
            kind, _, size, _, overflow, count, _, _ = struct.unpack('<HHIIIIII', header)
            start = file.tell()
            whole = start + count * size <= end
            kept = count if whole else (end - start) // max(size, 1)
            if not whole and (end - start) % max(size, 1):
                raise ValueError(f'{path} is truncated: it ends in an event')
            # packets of type 1 hold polarity events of address and time
            if kind == 1 and kept:
                file.seek(start + (kept - 1) * size + 4)
                last = struct.unpack('<I', file.read(4))[0] | overflow << 31
            file.seek(start + kept * size)
    return whole, last
