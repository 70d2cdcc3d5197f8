"""The files that come with mmsnn (configs, tools and demos), and their commit."""

import importlib.util
import shutil
import subprocess
from pathlib import Path


def find_config(name: str) -> Path | None:
    """The file of the config ``PACKAGE::PATH``; None if there is none, or if ``name`` has another form."""
    package, there, path = name.partition('::')
    spec = importlib.util.find_spec(package) if there and package.isidentifier() else None
    # A path that leaves the folder of the package is refused.
    if spec is None or spec.origin is None or Path(path).is_absolute() or '..' in Path(path).parts:
        return None
    folder = home() if package == 'mmsnn' else Path(spec.origin).parent / '.mim'
    file = folder / 'configs' / path
    return file if file.is_file() else None


def home() -> Path:
    """The folder with ``configs``, ``tools`` and ``demo``: ``.mim`` in an installed mmsnn, or else the clone."""
    mim = Path(__file__).parent / '.mim'
    return mim if mim.is_dir() else mim.parents[1]


def commit() -> str | None:
    """The commit of the clone, with a plus if files are changed; None without a clone or without git."""
    root = Path(__file__).parents[1]
    if not (root / '.git').exists() or not shutil.which('git'):
        return None
    git = dict(cwd=root, capture_output=True, text=True)
    short = subprocess.run(['git', 'rev-parse', '--short', 'HEAD'], **git).stdout.strip()
    changed = subprocess.run(['git', 'status', '--porcelain', '-uno'], **git).stdout.strip()
    return short + '+' * bool(changed) or None
