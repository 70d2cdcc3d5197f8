"""Data sets put where the configs look for them: fetched, unpacked, linked, and counted."""

import os
import shutil
import tarfile
import urllib.request
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from mmengine.logging import print_log
from torchvision.datasets.utils import check_integrity

from .catalogue import File, Part, Source
from .making import find, unpack

CHUNK = 2**20


@dataclass(frozen=True)
class Check:
    """What is there of a part of the layout or of a file.

    Attributes:
        path: the part.
        text: what was found.
        whole: whether it is all that is published.
    """

    path: str
    text: str
    whole: bool


def fetch(file: File, folder: Path) -> Path:
    """Fetch a published file, or what is missing of it, and compare its checksum.

    What has arrived lies in ``NAME.part`` until the file is whole, and a later call goes on from there, where the
    server can.

    Raises:
        ValueError: a person has to take the file from its page, or its checksum is another one.
        OSError: it does not arrive.
    """
    path, part = folder / file.name, folder / f'{file.name}.part'
    if path.is_file() and check_integrity(path, file.md5):
        return path
    if not file.fetched:
        raise ValueError(f'{file.name} cannot be fetched by a program: take it from {file.url}, and give --from FOLDER')
    folder.mkdir(parents=True, exist_ok=True)
    begun = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(file.url, headers={'User-Agent': 'mmsnn', 'Range': f'bytes={begun}-'})
    if not begun:
        request.remove_header('Range')
    with (
        urllib.request.urlopen(request, timeout=60) as answer,
        part.open('ab' if answer.status == 206 else 'wb') as out,
    ):
        shutil.copyfileobj(answer, out, CHUNK)
        expected = answer.headers.get('Content-Length')
        begun = begun if answer.status == 206 else 0
    if expected is not None and part.stat().st_size != begun + int(expected):
        raise OSError(f'{file.url} broke off after {part.stat().st_size} bytes: call again, which goes on from there')
    if not check_integrity(part, file.md5):
        part.unlink()
        raise ValueError(f'{file.url}: the checksum is not {file.md5}; what was fetched is removed')
    os.replace(part, path)
    return path


def prepare(source: Source, given: Path, root: Path) -> None:
    """Build the layout in ``root`` from a folder or an archive; what is there already stays as it is.

    Args:
        source: the data set.
        given: what was downloaded: an archive, a folder with archives, or one with what was in them.
        root: the folder that the configs read.

    Raises:
        FileNotFoundError: nothing of the data set is in what is given.
        ValueError: an archive has another checksum than the published one.
    """
    given = given.expanduser()
    if not given.exists():
        raise FileNotFoundError(f'there is no {given}')
    root.mkdir(parents=True, exist_ok=True)
    places = [root / 'download', given] if not source.parts else _places(source, given, root)
    found = False
    for target, names in _targets(source):
        found |= any([_link(find(place, name), root / target) for place in places for name in names if place.exists()])
    for place in places:
        if source.make is not None and all(find(place, name) for name in source.needs):
            print_log('writing what links cannot be: this takes a while', logger='current')
            source.make(place, root)
            found = True
    if not found:
        wanted = [name for _, names in _targets(source) for name in names] + [file.name for file in source.files]
        raise FileNotFoundError(f'{given} holds nothing of {source.title}: looked for {", ".join(wanted)}')


def _targets(source: Source) -> list[tuple[str, tuple[str, ...]]]:
    """What is linked, below the root, with the names that it has where it is published."""
    if not source.parts:
        return [(f'download/{file.name}', (file.name,)) for file in source.files]
    found = []
    for part in source.parts:
        archive, inside, _ = part.path.partition(':')
        # as far as there are no wildcards
        fixed = [name for name in part.path.split('/') if '*' not in name]
        if inside:
            found.append((archive, (archive,)))
        elif part.source:
            depth = next((i for i, name in enumerate(part.path.split('/')) if '*' in name), len(fixed))
            found.append(('/'.join(fixed[:depth]), part.source))
    return list(dict.fromkeys(found))


def _places(source: Source, given: Path, root: Path) -> list[Path]:
    """Folders in which to look: what is given, and what its archives hold."""
    known = {file.name: file for file in source.files}
    archives = [given] if given.is_file() else [given / name for name in known if (given / name).is_file()]
    for path in archives:
        if path.name in known and not check_integrity(path, known[path.name].md5):
            raise ValueError(f'{path}: the checksum is not {known[path.name].md5}; fetch it again')
    # what is read as it is
    as_it_is = {target for target, _ in _targets(source)} | {name for name in source.needs if name.endswith('.tar')}
    folders = []
    for path in archives:
        folder = root / 'unpacked' / path.name.partition('.')[0]
        if path.name in as_it_is or as_it_is & known.keys():
            continue
        if not folder.exists():
            print_log(f'unpacking {path}', logger='current')
            unpack(path, folder)
        folders.append(folder)
    return [*folders, given.parent if given.is_file() and not folders else given]


def _link(path: Path | None, target: Path) -> bool:
    """Link to what was found; whether there is something."""
    if path is None:
        return target.exists()
    if target.exists() or target.is_symlink():
        return True
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.symlink_to(path.resolve(), target_is_directory=path.is_dir())
    except OSError:
        # Windows, or a disk without links
        (shutil.copytree if path.is_dir() else shutil.copy2)(path, target)
    return True


def verify(source: Source, root: Path) -> list[Check]:
    """What is there of each part of the layout; of event sets, whether the files' checksums are right."""
    if not source.parts:
        folder = root / 'download'
        found = []
        for file in source.files:
            there = (folder / file.name).is_file()
            right = there and check_integrity(folder / file.name, file.md5)
            found.append(Check(f'download/{file.name}', 'right' if right else 'damaged' if there else 'missing', right))
        return found
    return [_count(part, root) for part in source.parts]


def _count(part: Part, root: Path) -> Check:
    archive, inside, pattern = part.path.partition(':')
    if not inside:
        count = sum(1 for _ in root.glob(part.path))
    elif not (root / archive).is_file():
        count = 0
    else:
        count = _members(root / archive)[pattern]
    return Check(part.path, f'{count:,} of {part.count:,}', count == part.count)


class _Members(Counter):
    """Numbers of members of an archive by pattern."""

    def __init__(self, names: list[str]):
        super().__init__()
        self.names = names

    def __missing__(self, pattern: str) -> int:
        self[pattern] = sum(fnmatch(name, pattern) for name in self.names)
        return self[pattern]


def _members(archive: Path) -> _Members:
    with tarfile.open(archive) as tar:
        return _Members([member.name for member in tar if member.isfile()])
