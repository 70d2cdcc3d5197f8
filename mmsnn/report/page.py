"""The page: sections of one or several runs in one self-contained HTML file."""

import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path

from mmsnn import __version__

from .runs import Run, read_run

FILE = 'report.html'


def write_report(folders: Sequence[str | Path], out: str | Path | None = None) -> Path:
    """Write the report of one or several work dirs, side by side.

    Args:
        folders: work dirs of trainings or tests.
        out: the file; default: ``report.html`` in the first folder.

    Returns:
        The path of the file.

    Raises:
        FileNotFoundError: a folder is missing, or holds nothing that a run writes.
        ImportError: jinja2 or matplotlib is not installed.
        OSError: the file cannot be written.
        ValueError: ``folders`` is empty.
    """
    if not folders:
        raise ValueError('write_report needs a work dir')
    runs = label([read_run(folder) for folder in folders])
    out = Path(out) if out is not None else Path(folders[0]).expanduser() / FILE
    text = render(runs)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding='utf-8')
    return out


def label(runs: list[Run]) -> dict[str, Run]:
    """The runs by the shortest ends of their paths that tell them apart."""
    parts = [run.folder.resolve().parts for run in runs]
    for length in range(1, max(map(len, parts)) + 1):
        names = ['/'.join(one[-length:]) for one in parts]
        if len(set(names)) == len(names):
            return dict(zip(names, runs))
    # the same folder twice
    return {run.name: run for run in runs}


def render(runs: dict[str, Run]) -> str:
    """The HTML of a report."""
    try:
        import jinja2
    except ImportError as error:
        raise ImportError("a report needs jinja2: pip install 'mmsnn[report]'") from error
    from .panel import Panel
    from .results import overview
    from .sections import SECTIONS

    def panel(make, of, name: str = '') -> Panel:
        try:
            made = make(of)
        # files of other versions, or changed by hand: the other parts are there all the same
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            made = Panel(missing=[f'This part cannot be made of the files: {type(error).__name__}: {error}'])
        made.name = name
        return made

    found = [dict(title='Overview', panels=[panel(overview, runs)])]
    for title, make in SECTIONS.items():
        found.append(dict(title=title, panels=[panel(make, run, name) for name, run in runs.items()]))
    # what a log says is text, whatever it holds
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters['short'] = short
    template = environment.from_string(Path(__file__).with_name('page.html').read_text(encoding='utf-8'))
    subtitle = f'mmsnn {__version__}, written {time.strftime("%Y-%m-%d %H:%M")}'
    return template.render(title=' / '.join(runs), subtitle=subtitle, sections=found, several=len(runs) > 1)


def short(value: float) -> str:
    """A number as it is read: whole, or with four digits that count."""
    if isinstance(value, int):
        return f'{value:,}'.replace(',', ' ')
    if math.isfinite(value) and value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f'{value:.4g}'


def write_or_warn(folder: str | Path, logger: logging.Logger) -> Path | None:
    """Write the report of a work dir and say where; what goes wrong is one warning."""
    try:
        path = write_report([folder])
    # a report is no reason to end a training
    except Exception as error:
        logger.warning(f'no report.html was written: {type(error).__name__}: {error}')
        return None
    logger.info(f'Report written to {path}')
    return path
