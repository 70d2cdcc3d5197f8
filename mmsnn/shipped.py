"""The files that come with mmsnn (configs, weights, tools and demos), and their commit."""

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path


def configs_of(package: str) -> Path | None:
    """The folder of the configs of an installed package; None where there is no such package."""
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or spec.origin is None:
        return None
    return (home() if package == 'mmsnn' else Path(spec.origin).parent / '.mim') / 'configs'


def find_config(name: str) -> Path | None:
    """The file of the config ``PACKAGE::PATH``; None if there is none, or if ``name`` has another form."""
    package, there, path = name.partition('::')
    folder = configs_of(package) if there else None
    # A path that leaves the folder of the package is refused.
    if folder is None or Path(path).is_absolute() or '..' in Path(path).parts:
        return None
    file = folder / path
    return file if file.is_file() else None


def weights() -> dict[str, dict]:
    """What weights come with mmsnn, by their names: ``file``, ``sha256``, ``config``, ``commands``, ``metrics``."""
    index = home() / 'weights' / 'index.json'
    if not index.is_file():
        return {}
    return {name: dict(of, file=index.parent / f'{name}.pth') for name, of in json.loads(index.read_text()).items()}


def local(source: str | Path) -> str:
    """``source``, where that is ``mmsnn://NAME`` the path of the weights that come with mmsnn under that name.

    Raises:
        FileNotFoundError: no weights of that name come with mmsnn; the message lists those that do.
    """
    scheme, there, name = str(source).partition('://')
    if scheme != 'mmsnn' or not there:
        return str(source)
    known = weights()
    if name not in known:
        raise FileNotFoundError(f'{source}: no such weights come with mmsnn, but {", ".join(sorted(known)) or "none"}')
    return str(known[name]['file'])


def is_remote(source: str | Path) -> bool:
    """Whether ``source`` is an address, and no file of this machine or weights that come with mmsnn."""
    return '://' in str(source) and not str(source).startswith('mmsnn://')


def home() -> Path:
    """The folder with configs, weights, tools and demo: ``.mim`` in an installed mmsnn, or else the clone."""
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
