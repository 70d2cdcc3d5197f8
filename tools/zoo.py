"""Try mmsnn on one config of every folder of the installed mmdet, mmseg and mmpretrain, and report what fails."""

import argparse
import importlib
import importlib.metadata
import json
import logging
import multiprocessing
import os
import resource
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from mmsnn.engine.zoo import KINDS, LIBRARIES, folders, survey, trial
from mmsnn.refusals import run_main
from mmsnn.shipped import commit

# number of configs of a backbone type that are tried until one runs as an ANN
CANDIDATES = 4


def parse_args(argv=None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--only', nargs='+', metavar='FOLDER', help='folders to try, e.g. mmdet/detr mmseg')
    parser.add_argument('--kinds', nargs='+', choices=KINDS, default=KINDS, help='what to try; default: all four')
    parser.add_argument(
        '--out', type=Path, default=Path('work_dirs/zoo.json'), help='file of results, which are continued'
    )
    parser.add_argument('--again', action='store_true', help='repeat failed trials, or with --only all trials')
    parser.add_argument('--table', type=Path, metavar='FILE.md', help='also write the table to FILE.md')
    parser.add_argument('--workers', type=int, default=2, help='number of processes')
    parser.add_argument('--timeout', type=float, default=120, help='CPU seconds for one step and one prediction')
    parser.add_argument('--memory', type=float, default=6, help='gigabytes of memory for a process')
    return parser.parse_args(argv)


def child(pipe, function, arguments: tuple, timeout: float, memory: float) -> None:
    """Send ``function(*arguments)`` through ``pipe``, within ``timeout`` CPU seconds and ``memory`` gigabytes."""
    for kind, limit in ((resource.RLIMIT_CPU, int(timeout)), (resource.RLIMIT_DATA, int(memory * 2**30))):
        resource.setrlimit(kind, (limit, limit + 1))
    logging.disable(logging.WARNING)
    with open(os.devnull, 'w') as null:
        os.dup2(null.fileno(), 1)
        os.dup2(null.fileno(), 2)
    pipe.send(function(*arguments))


def isolated(function, *arguments, timeout: float, memory: float):
    """``function(*arguments)`` in its own process, or None if that died, and the exit code."""
    context = multiprocessing.get_context('fork')
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(theirs, function, arguments, timeout, memory))
    process.start()
    theirs.close()
    try:
        answer = ours.recv()
    except EOFError:
        answer = None
    process.join()
    return answer, process.exitcode


class Walk:
    """The results so far, which a file keeps, and the trials that are still to be made."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.revision = args, commit() or version('mmsnn')
        self.results: dict[str, dict] = {}
        self.plan: dict[str, dict] = {}
        if args.out.exists():
            saved = json.loads(args.out.read_text())
            self.results, self.plan = saved['results'], saved['plan']
        self.lock = threading.Lock()

    def wanted(self, folder: str) -> bool:
        """Whether ``--only`` selects ``folder``."""
        only = self.args.only
        return not only or any(folder == name or folder.startswith(f'{name.rstrip("/")}/') for name in only)

    def save(self) -> None:
        """Write the results."""
        self.args.out.parent.mkdir(parents=True, exist_ok=True)
        saved = dict(**circumstances(), plan=self.plan, results=self.results)
        part = self.args.out.with_suffix('.part')
        part.write_text(json.dumps(saved, indent=1) + '\n')
        part.replace(self.args.out)

    def look(self, folder: str) -> None:
        """Survey a folder, unless that has been done."""
        with self.lock:
            known = folder in self.plan
        if not known:
            surveyed, _ = isolated(survey, folder, timeout=600, memory=self.args.memory)
            with self.lock:
                self.plan[folder] = surveyed or dict(first=None, resnet=None, types={})
                self.save()

    def result(self, config: str, kind: str) -> dict:
        """The result of one trial, from the file if it is there."""
        known = self.results.get(config, {}).get(kind)
        again = self.args.again and (self.args.only or not (known or {}).get('ok'))
        if known and (not again or (config, kind) in self.fresh):
            return known
        if kind not in self.args.kinds and kind != 'ann':
            return {}
        size = self.results[config]['ann'].get('size') if kind != 'ann' else None
        result, code = isolated(trial, config, kind, size, timeout=self.args.timeout, memory=self.args.memory)
        if result is None:
            late = code in (-signal.SIGXCPU, -signal.SIGKILL)
            reason = f'more than {self.args.timeout:.0f} seconds' if late else f'died with {code}'
            result = dict(ok=False, reason=reason)
        with self.lock:
            self.results.setdefault(config, {})[kind] = dict(result, revision=self.revision)
            self.fresh.add((config, kind))
            self.save()
            words = 'ok' if result['ok'] else result['reason'][:150]
            print(f'{kind:8}{config:70}{result.get("seconds", ""):>6} {words}', flush=True)
        return result

    def family(self, folder: str) -> None:
        """Try one config of a folder: as an ANN, with SEWResNet if it has a ResNet, and distilled."""
        config = self.config_of(folder)
        if config and self.result(config, 'ann')['ok']:
            if self.plan[folder]['resnet']:
                self.result(config, 'sew')
            self.result(config, 'distill')

    def config_of(self, folder: str) -> str | None:
        """The config that stands for a folder."""
        return self.plan[folder]['resnet'] or self.plan[folder]['first']

    def types(self) -> dict[str, list[str]]:
        """Configs of each type of backbone."""
        by_type: dict[str, list[str]] = {}
        for folder in self.folders():
            for kind, config in self.plan[folder]['types'].items():
                by_type.setdefault(kind, []).append(config)

        def order(kind: str):
            # configs in subfolders, such as the benchmarks of a self-supervised model, and of other libraries come last
            return lambda config: (config.count('/'), config.partition('/')[0] != kind.partition('.')[0])

        return {kind: sorted(configs, key=order(kind)) for kind, configs in by_type.items()}

    def folders(self) -> list[str]:
        """The selected folders that were surveyed."""
        return [folder for folder in self.plan if self.wanted(folder)]

    def steps(self) -> list[str]:
        """Folders whose ANN makes a training step and a prediction."""
        configs = {folder: self.config_of(folder) for folder in self.folders()}
        return [f for f, config in configs.items() if self.results.get(config, {}).get('ann', {}).get('ok')]

    def spikified(self) -> Iterator[tuple[str, str, dict]]:
        """Type, config and result of every type of backbone whose ANN runs."""
        for kind, configs in sorted(self.types().items()):
            for config in configs[:CANDIDATES]:
                trials = self.results.get(config, {})
                if trials.get('ann', {}).get('ok') and 'spikify' in trials:
                    yield kind, config, trials['spikify']
                    break

    def outcomes(self, kind: str) -> list[bool]:
        """Whether a trial succeeded, for each folder or backbone type that was tried and whose ANN runs."""
        if kind == 'spikify':
            return [result['ok'] for _, _, result in self.spikified()]
        results = [self.results[self.config_of(folder)].get(kind) for folder in self.steps()]
        return [result['ok'] for result in results if result]

    def share(self, kind: str) -> float:
        """Share of successful `outcomes`."""
        outcomes = self.outcomes(kind)
        return sum(outcomes) / len(outcomes) if outcomes else 0.0

    def untried(self, kind: str) -> int:
        """Number of folders, or types of backbone, that are still to be tried."""
        if kind == 'ann':
            return sum(self.config_of(f) is not None and self.config_of(f) not in self.results for f in self.folders())
        if kind == 'spikify':

            def waits(configs):
                known = [self.results.get(config, {}) for config in configs[:CANDIDATES]]
                done = any('spikify' in trials for trials in known)
                return not done and any('ann' not in trials or trials['ann']['ok'] for trials in known)

            return sum(map(waits, self.types().values()))
        folders = [f for f in self.steps() if kind != 'sew' or self.plan[f]['resnet']]
        return sum(kind not in self.results[self.config_of(f)] for f in folders)

    def spikify(self, configs: list[str]) -> None:
        """Try Spikify in the first config whose ANN runs."""
        for config in configs[:CANDIDATES]:
            if self.result(config, 'ann')['ok']:
                self.result(config, 'spikify')
                return

    def go(self) -> None:
        """Make all selected trials."""
        self.fresh: set[tuple[str, str]] = set()
        names = [folder for folder in folders() if self.wanted(folder)]
        with ThreadPoolExecutor(self.args.workers) as pool:
            list(pool.map(self.look, names))
            self.plan = {name: self.plan[name] for name in sorted(self.plan)}
            # folders with a ResNet come first; sorting keeps the order otherwise
            list(pool.map(self.family, sorted(names, key=lambda name: not self.plan[name]['resnet'])))
            if 'spikify' in self.args.kinds:
                list(pool.map(self.spikify, self.types().values()))


def circumstances() -> dict:
    """The date, and the versions of the libraries."""
    names = ('mmsnn', 'torch', 'onedl-mmengine', 'onedl-mmdetection', 'onedl-mmsegmentation', 'onedl-mmpretrain')
    return dict(date=time.strftime('%Y-%m-%d'), versions={name: version(name) for name in names})


def version(name: str) -> str:
    """The version of a distribution, or ``none``."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return 'none'


def summary(walk: Walk) -> list[str]:
    """A line for each kind of trial: how many succeeded of how many."""
    tried = [folder for folder in walk.folders() if walk.results.get(walk.config_of(folder))]
    lines = [f'ANN: {len(walk.steps())} of {len(tried)} folders take a step and make a prediction here']
    kinds = dict(
        sew=('SEWResNet', 'of these that have a ResNet'),
        spikify=('Spikify', 'types of backbone whose ANN runs'),
        distill=('distilled', 'of these'),
    )
    for kind, (name, of) in kinds.items():
        good = walk.outcomes(kind)
        lines.append(f'{name}: {sum(good)} of {len(good)} {of}')
    waiting = [walk.untried(kind) for kind in ('ann', *kinds)]
    return [f'{line}; {count} not tried yet' if count else line for line, count in zip(lines, waiting)]


INTRODUCTION = """# The zoo: mmsnn in the configs of mmdet, mmseg and mmpretrain

Of each folder of configs that the three libraries install, one config takes one training step and makes one prediction,
on noise, at the smallest image size that works. It is tried in four forms: unchanged (ANN); with
`type='mmsnn.SEWResNet', T=2` merged over its ResNet; with `mmsnn.Spikify` around its own backbone, once per type of
backbone; and distilled from its own ANN, where the student has a SEWResNet, or Spikify if the config has no ResNet.
Checkpoints are not loaded, and ResNets deeper than 50 layers have 50. The spiking forms are tried only if the ANN runs.
A spiking network in which one image of a batch changes the features of another counts as failed. What is not tried yet
has an empty cell or no row.

Made by `python tools/zoo.py --table docs/zoo.md` on {date} with {versions}.
The command continues an interrupted run, so that results may stem from several commits: {revisions}.
"""


def cell(result: dict) -> str:
    """The text of a cell: yes, no, or for distillation the terms that work; empty if not tried."""
    if not result.get('ok'):
        return '**no**' if result else ''
    tap = result.get('tap', 'backbone')
    feature = 'feature' if tap == 'backbone' else f'feature of {tap}'
    names = dict(transfer='level 1', feature=feature, response='response')
    return ', '.join(names[term] for term in result['terms']) if 'terms' in result else 'yes'


def table(walk: Walk) -> str:
    """The results as Markdown."""
    now = circumstances()
    versions = ', '.join(f'{name} {number}' for name, number in now['versions'].items())
    counts = Counter(one.get('revision', 'unknown') for kinds in walk.results.values() for one in kinds.values())
    revisions = ', '.join(f'{count} from {name}' for name, count in counts.most_common())
    lines = [
        INTRODUCTION.format(date=now['date'], versions=versions, revisions=revisions),
        *(f'- {line}' for line in summary(walk)),
        '',
    ]
    lines += ['| folder | config | ANN | SEWResNet | distilled |', '|---|---|---|---|---|']
    reasons = dict(ann=[], sew=[], spikify=[], distill=[])
    for folder in walk.folders():
        config = walk.config_of(folder)
        trials = walk.results.get(config, {})
        cells = [cell(trials.get(kind, {})) for kind in ('ann', 'sew', 'distill')]
        lines.append(f'| {folder} | {Path(config or "none").name} | {" | ".join(cells)} |')
        for kind in ('ann', 'sew', 'distill'):
            reasons[kind].append((config, trials.get(kind, {})))
    lines += ['', '| backbone | config | Spikify | layers silent at the start |', '|---|---|---|---|']
    for kind, config, result in walk.spikified():
        silent = f'{result["silent"]} of {result["neurons"]}' if result['ok'] else ''
        lines.append(f'| {kind} | {config} | {cell(result)} | {silent} |')
        reasons['spikify'].append((config, result))
    for kind, title in dict(sew='SEWResNet', spikify='Spikify', distill='Distilled', ann='ANN').items():
        failed = [f'- {config}: {result["reason"]}' for config, result in reasons[kind] if not result.get('ok', True)]
        lines += ['', f'## {title}: why not', '', *(failed or ['Nothing failed.'])]
    return '\n'.join(lines) + '\n'


def main(argv=None) -> None:
    """Run the command line ``argv`` (default: ``sys.argv``)."""
    args = parse_args(argv)
    # downloads fail at once
    os.environ.update(HF_HUB_OFFLINE='1', TRANSFORMERS_OFFLINE='1')
    socket.setdefaulttimeout(5)
    torch.set_num_threads(1)
    for library in LIBRARIES:
        importlib.import_module(f'{library}.models')
    walk = Walk(args)
    walk.go()
    print('\n'.join(summary(walk)))
    if args.table:
        args.table.write_text(table(walk))


if __name__ == '__main__':
    run_main(main)
