"""Files of event datasets, checked before SpikingJelly reads them: which are there, whole, and in their format."""

import re
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import numpy as np

# bytes that the arrays of one recording may take, unpacked
LARGEST = 1 << 30


def check_claim(path: str | Path) -> None:
    """ValueError where a ``.npz`` file claims to hold more than a recording can, before memory is asked for."""
    with ZipFile(path) as archive:
        claimed = sum(record.file_size for record in archive.infolist())
    if claimed > LARGEST:
        raise ValueError(f'{path} claims to hold {claimed} bytes, more than a recording of events')


def read_npz(path: str | Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Arrays of a ``.npz`` file, by name; ValueError where it is damaged, lacks one, or claims more than it holds."""
    try:
        check_claim(path)
        with np.load(path) as content:
            return {name: content[name] for name in names}
    except (ValueError, KeyError, EOFError, BadZipFile, zlib.error, MemoryError, OverflowError) as error:
        raise ValueError(str(error) or type(error).__name__) from error


def numbered(path: str) -> list:
    """Sorting key that reads the numbers in a file's name: 9 before 10."""
    return [int(part) if part.isdigit() else part for part in re.split(r'(\d+)', Path(path).name)]


def require_files(source, root: Path, download: bool) -> None:
    """FileNotFoundError with SpikingJelly's list of files and addresses unless they lie in ``root/download``."""
    folder = root / 'download'
    lines, missing = [], False
    for name, url, md5 in source.resource_url_md5():
        there = (folder / name).is_file()
        missing |= not there
        lines.append(f'  {"present" if there else "MISSING"}  {name}  {url}  md5 {md5}')
    if not missing:
        return
    if download and source.downloadable():
        root.mkdir(parents=True, exist_ok=True)
        return
    remedy = 'Put these files there'
    if source.downloadable():
        remedy += ', or set dataset.download=True to have SpikingJelly fetch them'
    raise FileNotFoundError(f'dataset.data_root: files are missing in {folder}. {remedy}:\n' + '\n'.join(lines))


def first_unreadable(jelly, folder: Path, T: int, split_by: str, size: tuple[int, int]) -> str | None:
    """The first file of events that does not give frames, and why."""
    for path in sorted(folder.rglob('*.npz')):
        try:
            events = read_npz(path, 'txyp')
            jelly.integrate_events_by_fixed_frames_number(events, split_by, T, *size)
        # whatever a damaged archive or a recording without events makes of it
        except Exception as error:
            return (
                f'{path} gives no {T} frames ({error}). Is it damaged? Remove {folder}, and it is written again. Or '
                "are there times without events? Then dataset.split_by='number' helps"
            )
    return None


def skip_header(file) -> int:
    """Length in bytes of the lines at the beginning that start with #; the file stands behind them."""
    length = 0
    while file.read(1) == b'#':
        length += 1 + len(file.readline())
    file.seek(length)
    return length


def check_records(path: Path, file, header: int, size: int) -> None:
    """ValueError unless whole records, and at least one, follow the header."""
    length = file.seek(0, 2) - header
    if length <= 0 or length % size:
        raise ValueError(f'{path} is truncated: {length} bytes behind the header are no whole events of {size} bytes')


def read_packets(path: Path) -> tuple[bool, int | None]:
    """Whether an AEDAT 3.1 file ends with a packet, and the last event's time in microseconds; reads headers only.

    Raises:
        ValueError: it ends in the middle of an event or of a packet's header.
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
            # type 1 is polarity events: address, time
            if kind == 1 and kept:
                file.seek(start + (kept - 1) * size + 4)
                last = struct.unpack('<I', file.read(4))[0] | overflow << 31
            file.seek(start + kept * size)
    return whole, last
