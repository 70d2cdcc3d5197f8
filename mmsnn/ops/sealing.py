"""Whether a compiled library is whole, found out without mapping it: reading a cut one kills the process (SIGBUS).

The build appends a digest to the file, which loaders pass over. A library without one, as tools that edit them leave
it, is checked for its length alone. Nothing but the standard library is used, since setup.py seals what it builds.
"""

import hashlib
import struct
from pathlib import Path

MARK = b'mmsnn-sha256:'
SIZE = len(MARK) + hashlib.sha256().digest_size
ELF = b'\x7fELF'


def seal(path: str | Path) -> None:
    """Append the digest of an ELF library to it; other kinds stay as they are, since theirs may be signed."""
    content = Path(path).read_bytes()
    if content.startswith(ELF) and content[-SIZE : -SIZE + len(MARK)] != MARK:
        Path(path).write_bytes(content + MARK + hashlib.sha256(content).digest())


def fault(path: str | Path) -> str:
    """What is wrong with a library's file; empty where nothing is."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        return str(error)
    if not content:
        return 'it is empty'
    if content[-SIZE:].startswith(MARK):
        whole = hashlib.sha256(content[:-SIZE]).digest() == content[-SIZE + len(MARK) :]
        return '' if whole else 'it is damaged: its digest is another'
    # where the table of sections lies and how large it is: a linker writes it last
    if content.startswith(ELF) and content[4:5] == b'\x02':
        if len(content) < 64:
            return 'it is cut off'
        (start,), (size, count) = struct.unpack_from('<Q', content, 0x28), struct.unpack_from('<HH', content, 0x3A)
        return '' if start + size * count <= len(content) else 'it is cut off'
    return 'it is no library' if Path(path).suffix == '.so' and not _is_library(content) else ''


def _is_library(content: bytes) -> bool:
    """ELF of 32 bits, and macOS's."""
    return content.startswith(ELF) and len(content) >= 52 or content[:4] in (
        b'\xcf\xfa\xed\xfe', b'\xce\xfa\xed\xfe', b'\xca\xfe\xba\xbe', b'\xca\xfe\xba\xbf',
    )  # fmt: skip
