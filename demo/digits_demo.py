"""Distillation from start to end in minutes on a CPU: an ANN detector teaches a spiking one to find handwritten digits.

The demo generates DigitScenes, trains an ANN RetinaNet and two spiking twins for equally many epochs, one without and
one with SAKD, tests all three, and writes ``report.md``, ``results.json`` and ``detections.png`` into the work dir.
Run again, it skips what is finished and resumes interrupted trainings.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from digits_report import draw_picture, write_report
from mmengine.config import Config

from mmsnn.datasets import make_digit_scenes
from mmsnn.engine.options import positive
from mmsnn.refusals import run_main

ROOT = Path(__file__).resolve().parents[1]
# the folder in which the configs look for the data set
DATA = Path('data/digit_scenes')
PROGRESS = re.compile(r'Epoch\(train\)\s+\[(\d+)\]\[\s*(\d+)/(\d+)\]')
WELCOME = """\
Three networks learn to find handwritten digits: an ANN, a spiking network (SNN) by itself, and the same SNN taught by
the ANN (SAKD). Their logs are written to {folder}. You can stop at any time: the same command continues the demo."""
# seconds that an epoch and a test take on two cores, from which the time left is estimated
COSTS = dict(ann=(16, 15), snn=(30, 30), sakd=(40, 30))


@cache
def read_config(path: Path) -> dict:
    """The content of a config file."""
    return Config.fromfile(path).to_dict()


@dataclass
class Model:
    """One network to train and test.

    Attributes:
        kind: ``ann``, ``snn`` or ``sakd``.
        config: path of its config.
        epochs: length of its training.
        seed: seed of its training.
        folder: its work dir.
        teacher: the network that teaches it, or None.
    """

    kind: str
    config: Path
    epochs: int
    seed: int
    folder: Path
    teacher: 'Model | None' = None

    @property
    def name(self) -> str:
        """Its name in progress messages."""
        title = dict(ann='ANN teacher', snn='undistilled SNN', sakd='SNN with SAKD')[self.kind]
        return f'{title}, seed {self.seed}' if self.seed else title

    @property
    def checkpoint(self) -> Path:
        """Its final weights."""
        return self.folder / f'epoch_{self.epochs}.pth'

    def options(self) -> list[str]:
        """Its settings, as arguments of ``--cfg-options``."""
        options = [f'train_cfg.max_epochs={self.epochs}', f'param_scheduler.1.T_max={self.epochs}']
        if self.teacher:
            options += [f'model.teacher={self.teacher.config}', f'model.teacher_checkpoint={self.teacher.checkpoint}']
        return options

    def settings(self) -> dict:
        """Everything except the code that its weights depend on."""
        teacher = self.teacher.settings() if self.teacher else None
        data = json.loads((DATA / 'stamp.json').read_text())
        return dict(config=read_config(self.config), options=self.options(), seed=self.seed, data=data, teacher=teacher)


class Clock:
    """Prints progress and the estimated time left.

    Args:
        costs: estimated cost of each job in seconds.
    """

    def __init__(self, costs: list[float]):
        self.costs = costs
        self.start, self.done = time.monotonic(), 0
        self.last = 0.0

    def show(self, what: str, part: float) -> None:
        """Print that ``part`` (0 to 1) of the current job is done, at most twice a second."""
        now = time.monotonic()
        if now - self.last < 0.5 and part < 1:
            return
        self.last = now
        spent = sum(self.costs[: self.done]) + part * self.costs[self.done]
        left = sum(self.costs) - spent
        # the constant damps the estimate of this machine's speed at the beginning
        speed = (now - self.start + 20) / (spent + 20)
        line = f'{what}: {part:4.0%}, about {left * speed / 60:.1f} minutes left in all'
        if sys.stdout.isatty():
            print(f'\r{line:78}', end='' if part < 1 else '\n', flush=True)
        else:
            print(line, flush=True)

    def finish(self, skipped: bool = False) -> None:
        """Go on to the next job."""
        if skipped:
            self.costs[self.done] = 0.0
        self.done += 1


def run_tool(tool: str, arguments: list, folder: Path, show) -> None:
    """Run ``tools/TOOL.py`` with its output in ``folder/TOOL.log``; SystemExit with its last lines if it fails."""
    log, last = folder / f'{tool}.log', deque(maxlen=15)
    command = [sys.executable, ROOT / 'tools' / f'{tool}.py', *arguments, '--work-dir', folder]
    # this works from a source tree as well as with an installed package
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
    env = {**os.environ, 'PYTHONPATH': paths}
    output = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors='replace')
    with log.open('a') as file, subprocess.Popen([str(c) for c in command], env=env, **output) as process:
        try:
            for line in process.stdout:
                file.write(line)
                last.append(line)
                progress = PROGRESS.search(line)
                if progress:
                    epoch, step, steps = map(int, progress.groups())
                    show(epoch - 1 + step / steps)
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        raise SystemExit(f'\n{"".join(last)}\ntools/{tool}.py failed; all of its output is in {log}')


def train(model: Model, clock: Clock) -> None:
    """Train ``model``, or resume its training, unless its final weights of the same settings exist."""
    model.folder.mkdir(parents=True, exist_ok=True)
    stamp = model.folder / 'settings.json'
    wanted = json.dumps(model.settings(), indent=1, default=str)
    if not stamp.is_file() or stamp.read_text() != wanted:
        shutil.rmtree(model.folder)
        model.folder.mkdir()
        stamp.write_text(wanted)
    finished = model.checkpoint.is_file()
    if not finished:
        arguments = [model.config, '--resume', '--no-validate', '--seed', model.seed, '--cfg-options', *model.options()]
        what = f'training the {model.name}'
        # loading the libraries and building the model takes seconds, in which nothing else is printed
        clock.show(what, 0.0)
        run_tool('train', arguments, model.folder, lambda n: clock.show(what, n / model.epochs))
    clock.finish(skipped=finished)


def test(model: Model, clock: Clock) -> dict:
    """Metrics and costs of a trained model, as ``tools/test.py --benchmark`` writes them."""
    file = model.folder / 'benchmark.json'
    finished = file.is_file() and file.stat().st_mtime > model.checkpoint.stat().st_mtime
    if not finished:
        clock.show(f'testing the {model.name}', 0.0)
        arguments = [model.config, model.checkpoint, '--benchmark']
        run_tool('test', arguments, model.folder, lambda n: None)
    clock.finish(skipped=finished)
    result = json.loads(file.read_text())
    # COCO's metric gives no numbers if a model detects nothing at all
    result['metrics'] = {'coco/bbox_mAP': 0.0, 'coco/bbox_mAP_50': 0.0} | result['metrics']
    return result


def plan(args: argparse.Namespace) -> list[Model]:
    """The networks to train, in order: the teacher, then the two students for each seed."""

    def model(kind, config, epochs, seed=0, teacher=None):
        folder = args.work_dir / (kind if seed == 0 else f'{kind}_seed{seed}')
        return Model(kind, ROOT / 'configs' / config, epochs, seed, folder, teacher)

    models = [model('ann', 'ann/retinanet_r18_digits.py', args.teacher_epochs)]
    for seed in range(args.seeds):
        models.append(model('snn', 'spiking/retinanet_sew18_digits.py', args.epochs, seed))
        models.append(model('sakd', 'sakd/retinanet_sew18_digits.py', args.epochs, seed, models[0]))
    return models


def parse_args(argv=None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/demo'))
    parser.add_argument('--epochs', type=positive, default=4, help='epochs of each student (default: 4)')
    parser.add_argument('--teacher-epochs', type=positive, default=8, help='epochs of the ANN (default: 8)')
    parser.add_argument(
        '--seeds', type=positive, default=1, help='number of seeds for the students; means are reported (default: 1)'
    )
    parser.add_argument('--num-train', type=positive, default=1200, help='training images (default: 1200)')
    parser.add_argument('--fresh', action='store_true', help='train all networks again')
    return parser.parse_args(argv)


def main(argv=None) -> None:
    """Run the command line ``argv`` (default: ``sys.argv``)."""
    args = parse_args(argv)
    # terminating the demo also terminates the tool that it runs
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    start = time.monotonic()
    print(WELCOME.format(folder=args.work_dir))
    print(f'Drawing {args.num_train} training and 240 test images in {DATA}', flush=True)
    make_digit_scenes(DATA, num_train=args.num_train)
    models = plan(args)
    if args.fresh:
        for model in models:
            shutil.rmtree(model.folder, ignore_errors=True)
    share = args.num_train / 1200
    clock = Clock([c for m in models for c in (COSTS[m.kind][0] * m.epochs * share, COSTS[m.kind][1])])
    results = []
    for model in models:
        train(model, clock)
        result = test(model, clock)
        results.append(dict(kind=model.kind, seed=model.seed, epochs=model.epochs, folder=str(model.folder), **result))
        print(f'{model.name}: mAP {result["metrics"]["coco/bbox_mAP"]:.3f}')
    (args.work_dir / 'results.json').write_text(json.dumps(results, indent=1))
    first = {m.kind: (str(m.config), str(m.checkpoint)) for m in models if m.seed == 0}
    draw_picture(first, results, DATA, args.work_dir / 'detections.png')
    write_report(results, args.num_train, args.work_dir / 'report.md')
    minutes = (time.monotonic() - start) / 60
    print((args.work_dir / 'report.md').read_text())
    print(f'{minutes:.1f} minutes; see {args.work_dir / "report.md"} and {args.work_dir / "detections.png"}')


if __name__ == '__main__':
    run_main(main)
