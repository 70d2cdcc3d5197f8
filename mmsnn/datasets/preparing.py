"""Data sets put where the configs look for them: fetched, unpacked, linked, and counted."""

import os
import shutil
import tarfile
import urllib.request
from dataclasses import dataclass
from fnmatch import fnmatch
from http.client import HTTPException
from itertools import takewhile
from pathlib import Path
from urllib.error import HTTPError

from mmengine.logging import print_log
from torchvision.datasets.utils import check_integrity

from .catalogue import File, Part, Source
from .making import DAMAGED, find, holds, unpack

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
        OSError: it does not arrive; the message names the address.
    """
    path, part = folder / file.name, folder / f'{file.name}.part'
    if path.is_file() and check_integrity(path, file.md5):
        return path
    if not file.fetched:
        raise ValueError(f'{file.name} cannot be fetched by a program: take it from {file.url}, and give --from FOLDER')
    folder.mkdir(parents=True, exist_ok=True)
    begun = part.stat().st_size if part.is_file() else 0
    try:
        whole = _receive(file.url, part, begun)
    except (OSError, HTTPException) as error:
        raise OSError(f'{file.url}: {error}; what has arrived is kept, call again') from error
    size = part.stat().st_size
    if size < whole:
        raise OSError(f'{file.url} broke off after {size} bytes: call again, which goes on from there')
    if size > whole or not check_integrity(part, file.md5):
        part.unlink()
        why = f'{size} bytes came of {whole}' if size > whole else f'the checksum is not {file.md5}'
        raise ValueError(f'{file.url}: {why}; what was fetched is removed, call again')
    os.replace(part, path)
    return path


def _receive(url: str, part: Path, begun: int) -> int:
    """Add to ``part``, of which ``begun`` bytes are there, what the server sends; the bytes that the file has."""
    headers = {'User-Agent': 'mmsnn'} | ({'Range': f'bytes={begun}-'} if begun else {})
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60)
    except HTTPError as error:
        if error.code != 416:
            raise
        # there is nothing behind the bytes that are here: 'bytes */TOTAL'
        total = (error.headers.get('Content-Range') or '').rpartition('/')[2]
        return int(total) if total.isdigit() else begun
    with answer, part.open('ab' if answer.status == 206 else 'wb') as out:
        begun = begun if answer.status == 206 else 0
        shutil.copyfileobj(answer, out, CHUNK)
    length = answer.headers.get('Content-Length')
    return part.stat().st_size if length is None else begun + int(length)


def prepare(source: Source, given: Path, root: Path) -> None:
    """Build the layout in ``root`` from a folder or an archive; what is there already stays as it is.

    Args:
        source: the data set.
        given: what was downloaded: an archive, a folder with archives, or one with what was in them.
        root: the folder that the configs read.

    Raises:
        FileNotFoundError: nothing of the data set is in what is given.
        ImportError: a library that lists, reads or sorts the files is not installed.
        ValueError: an archive or a file in it is damaged, or not what is published.
    """
    given = given.expanduser()
    if not given.exists():
        raise FileNotFoundError(f'there is no {given}')
    before = set((root / 'unpacked').glob('*'))
    places = _places(source, given, root) if source.parts else [given]
    root.mkdir(parents=True, exist_ok=True)
    found = False
    for target, names, inside in _targets(source):
        # an earlier link to a folder of another data set, into which labels would be written
        if (root / target).is_symlink() and not holds(root / target, inside):
            (root / target).unlink()
        for path in filter(None, [find(place, name, inside) for place in places for name in names]):
            _link(path, root / target)
            found = True
    for place in places:
        if source.make is not None and all(find(place, name) for name in source.needs):
            print_log('writing what links cannot be: this takes a while', logger='current')
            try:
                source.make(place, root)
            # torchvision's, of archives and files with other checksums
            except RuntimeError as error:
                raise ValueError(f'{place}: {error}') from error
            found = True
    if not found:
        # of another data set
        for folder in set((root / 'unpacked').glob('*')) - before:
            shutil.rmtree(folder)
        wanted = [name for _, names, _ in _targets(source) for name in names] + [file.name for file in source.files]
        raise FileNotFoundError(f'{given} holds nothing of {source.title}: looked for {", ".join(wanted)}')


def _targets(source: Source) -> list[tuple[str, tuple[str, ...], str]]:
    """What is linked, below the root, with the names that it has where it is published, and the files that it holds."""
    if not source.parts:
        return [(f'download/{file.name}', (file.name,), '') for file in source.files]
    found = []
    for part in source.parts:
        archive, inside, _ = part.path.partition(':')
        if inside:
            found.append((archive, (archive,), ''))
        elif part.source:
            names = part.path.split('/')
            fixed = list(takewhile(lambda name: not set(name) & set('*['), names))
            found.append(('/'.join(fixed), part.source, '/'.join(names[len(fixed) :])))
    return list(dict.fromkeys(found))


def _places(source: Source, given: Path, root: Path) -> list[Path]:
    """Folders in which to look: what is given, and what its archives hold."""
    known = {file.name: file for file in source.files}
    archives = [given] if given.is_file() else [given / name for name in known if (given / name).is_file()]
    for path in archives:
        if path.name in known and not check_integrity(path, known[path.name].md5):
            raise ValueError(f'{path}: the checksum is not {known[path.name].md5}; fetch it again')
    # what is read as it is
    as_it_is = {target for target, _, _ in _targets(source)} | {name for name in source.needs if name.endswith('.tar')}
    folders = []
    for path in archives:
        # with its suffix, so that `find` does not take it for the folder in it: COCO's train2017.zip holds train2017
        folder = root / 'unpacked' / path.name
        if path.name in as_it_is or as_it_is & known.keys():
            continue
        if not folder.exists():
            print_log(f'unpacking {path}', logger='current')
            unpack(path, folder)
        folders.append(folder)
    return [*folders, given.parent if given.is_file() and not folders else given]


def _link(path: Path, target: Path) -> None:
    """Link to what was found; a link to what is no longer there is replaced."""
    if target.exists():
        return
    target.unlink(missing_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.symlink_to(path.resolve(), target_is_directory=path.is_dir())
    except OSError:
        # Windows, or a disk without links
        (shutil.copytree if path.is_dir() else shutil.copy2)(path, target)


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
    archives = {part.path.partition(':')[0] for part in source.parts if ':' in part.path}
    members = {name: _members(root / name) for name in archives}
    return [_count(part, root, members) for part in source.parts]


def _count(part: Part, root: Path, members: dict[str, list[str] | None]) -> Check:
    archive, inside, pattern = part.path.partition(':')
    if inside and members[archive] is None:
        return Check(part.path, 'damaged', False)
    found = (name for name in members[archive] if fnmatch(name, pattern)) if inside else root.glob(part.path)
    count = sum(1 for _ in found)
    return Check(part.path, f'{count:,} of {part.count:,}', count == part.count)


def _members(archive: Path) -> list[str] | None:
    """Names of the files in an archive; None where it is damaged."""
    if not archive.is_file():
        return []
    try:
        with tarfile.open(archive) as tar:
            return [member.name for member in tar if member.isfile()]
    except DAMAGED:
        return None
