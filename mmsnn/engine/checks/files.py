"""Reading every file of a config's datasets, which takes as long as an epoch's loading and finds damage before it."""

import io
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout

from mmengine.registry import DATASETS
from rich.console import Console
from rich.progress import track
from torch.utils.data import DataLoader, Dataset

from ..images import UnreadableImage, name_images, noticed
from ..unreadable import MOST
from .data import Data, check_formats, check_paths, gather
from .findings import ERROR, UNCHECKED, Finding, error, note, number, unchecked, warning
from .labels import is_segmentation

# Number of files that a finding names.
SHOWN = 5


class Loads(Dataset):
    """Loads samples of a dataset, and gives what is wrong with their files instead.

    Args:
        dataset: one of OpenMMLab's; the steps of its pipeline that read files are those whose names begin with Load.
        labels: whether to run those that read annotations as well.
    """

    def __init__(self, dataset, labels: bool):
        name_images(dataset, notice=True)
        self.dataset = dataset
        steps = getattr(getattr(dataset, 'pipeline', None), 'transforms', [])
        left = () if labels else ('LoadAnnotations',)
        self.steps = [step for step in steps if _kind(step).startswith('Load') and not _kind(step).startswith(left)]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> list[tuple[bool, str, str]]:
        """Faults, each with whether the file is useless, its path and the reason."""
        info = self.dataset.get_data_info(index)
        path = next((v for k, v in info.items() if k.endswith('path') and isinstance(v, str)), f'sample {index}')
        try:
            for step in self.steps:
                info = step.transform(info)
        except UnreadableImage as fault:
            return [(True, fault.path, fault.reason)]
        # Readers of users raise errors of many kinds.
        except Exception as fault:
            return [(True, path, f'{type(fault).__name__}: {fault}')]
        return [(False, *one) for one in noticed(self.dataset)]


def check_files(cfg: Mapping, known: list[str]) -> Iterator[Finding]:
    """Findings about all files that the datasets of a config read.

    Args:
        cfg: a whole config.
        known: config keys with errors; their datasets are left out.
    """
    done: list[Mapping] = []
    for data in gather(cfg, ('train', 'val', 'test')):
        files = {k: v for k, v in data.cfg.items() if k not in ('pipeline', 'test_mode', 'filter_cfg')}
        if files in done or any(key.startswith(data.key) for key in known):
            continue
        done.append(files)
        unread = [f for check in (check_paths, check_formats) for f in check(data) if f.level in (ERROR, UNCHECKED)]
        if not unread:
            workers = cfg[f'{data.part}_dataloader'].get('num_workers') or 0
            yield from _read(data, workers)


def _read(data: Data, workers: int) -> Iterator[Finding]:
    try:
        # COCO's reader prints
        with DATASETS.switch_scope_and_registry(data.scope) as registry, redirect_stdout(io.StringIO()):
            dataset = registry.build(data.cfg)
    except Exception as problem:
        yield unchecked(data.key, f'its files: {type(problem).__name__}: {" ".join(str(problem).split())}')
        return
    if not hasattr(dataset, 'get_data_info'):
        yield unchecked(data.key, f'its files: a {type(dataset).__name__} does not tell what its samples are')
        return
    # label images have a check of their own
    loads = Loads(dataset, labels=not is_segmentation(data))
    if not loads.steps:
        yield unchecked(data.key, 'its files: no step of its pipeline reads any')
        return
    faults: dict[str, tuple[bool, str]] = {}
    loader = DataLoader(loads, batch_size=None, num_workers=workers, collate_fn=list)
    console = Console(stderr=True)
    shown = dict(console=console, transient=True, disable=not console.is_terminal)
    for found in track(loader, f'Reading {data.key}', len(loads), **shown):
        faults.update({path: (useless, reason) for useless, path, reason in found})
    useless = {path: reason for path, (is_useless, reason) in faults.items() if is_useless}
    rest = {path: reason for path, (is_useless, reason) in faults.items() if not is_useless}
    samples = number(len(loads), 'sample')
    if useless:
        text = f'{len(useless)} of {samples} cannot be read{_listed(useless)}'
        if data.part == 'train' and len(useless) <= MOST * len(loads):
            yield warning(data.key, f'{text}. Training replaces them by other samples')
        else:
            yield error(data.key, f'{text}. Repair the files, or remove them from the annotations')
    if rest:
        yield warning(data.key, f'{number(len(rest), "image")} of {samples}{_listed(rest)}')
    if not faults:
        kinds = ', '.join(sorted(map(_kind, loads.steps)))
        yield note(data.key, f'the files of {samples} can all be read ({kinds})')


def _kind(step) -> str:
    # the images' and labels' steps are wrapped, to name files
    return type(getattr(step, 'load', step)).__name__


def _listed(faults: Mapping[str, str]) -> str:
    lines = [f'{path}: {reason}' for path, reason in list(faults.items())[:SHOWN]]
    if len(faults) > SHOWN:
        lines.append(f'and {len(faults) - SHOWN} more')
    return ':' + ''.join(f'\n      {line}' for line in lines)
