"""Where the files are that come with mmsnn: configs, tools and demos."""

import importlib.util
from pathlib import Path


def find_config(name: str) -> Path | None:
    """The file of the config ``PACKAGE::PATH``; None where there is none, or ``name`` is no such name."""
    package, there, path = name.partition('::')
    spec = importlib.util.find_spec(package) if there and package.isidentifier() else None
    if spec is None or spec.origin is None:
        return None
    folder = home() if package == 'mmsnn' else Path(spec.origin).parent / '.mim'
    file = folder / 'configs' / path
    return file if file.is_file() else None


def home() -> Path:
    """The folder that holds ``configs``, ``tools`` and ``demo``: ``.mim`` where mmsnn is installed, else the clone."""
    mim = Path(__file__).parent / '.mim'
    return mim if mim.is_dir() else mim.parents[1]
