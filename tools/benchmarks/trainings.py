"""The tasks and methods that methods.py and level2.py compare, and their trainings by tools/train.py."""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from mmengine.config import Config
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Task:
    """A data set with its teacher and student.

    Args:
        teacher, student: names of their configs; without a teacher only students are compared.
        metric: key of the validation metric.
        factor: multiplies the metric to give per cent.
        unit: name of the metric in headings.
        weights: published weights of the teacher below ``MMSNN_DATA_ROOT``; it is tested instead of trained.
    """

    teacher: str | None
    student: str
    metric: str
    factor: int
    unit: str
    weights: str | None = None


@dataclass(frozen=True)
class Method:
    """A folder of configs, with changes to them.

    Args:
        folder: folder below ``configs``.
        options: arguments of ``--cfg-options``; ``{data}`` stands for ``MMSNN_DATA_ROOT``.
        taught: whether the method has a teacher network.
        tasks: the tasks in whose comparison it takes part.
        student: name of the student's config, if it is not the task's.
    """

    folder: str
    options: tuple[str, ...] = ()
    taught: bool = True
    tasks: tuple[str, ...] = ('cifar10',)
    student: str | None = None


R56_WEIGHTS = 'cifar_resnets/resnet56-4bfd9763.th'
BY_R56 = 'accuracy/top1', 1, 'CIFAR-10, by ResNet-56, top-1 (%)', R56_WEIGHTS
TASKS = {
    'cifar10': Task('r18_cifar10_small', 'spiking_r18_cifar10_small', 'accuracy/top1', 1, 'CIFAR-10, top-1 (%)'),
    'bccd': Task('retinanet_r18_bccd', 'retinanet_sew18_bccd', 'coco/bbox_mAP', 100, 'BCCD, mAP (%)'),
    'camvid': Task('fcn_r18_camvid', 'fcn_sew18_camvid', 'mIoU', 1, 'CamVid, mIoU (%)'),
    'penn_fudan': Task(
        'retinanet_r18_penn_fudan', 'retinanet_sew18_penn_fudan', 'coco/bbox_mAP', 100, 'Penn-Fudan, mAP (%)'
    ),
    'penn_fudan_masks': Task(
        'mask_rcnn_r18_penn_fudan', 'mask_rcnn_sew18_penn_fudan', 'coco/segm_mAP', 100, 'Penn-Fudan, masks, mAP (%)'
    ),
    'backbones': Task(None, 'spiking_r18_cifar10_small', 'accuracy/top1', 1, 'CIFAR-10, top-1 (%)'),
    'digits': Task('retinanet_r18_digits', 'retinanet_sew18_digits', 'coco/bbox_mAP', 100, 'DigitScenes, mAP (%)'),
    'r20': Task(
        'r20_cifar10',
        'spiking_r20_cifar10',
        'accuracy/top1',
        1,
        'CIFAR-10, ResNet-20, top-1 (%)',
        'cifar_resnets/resnet20-12fca82f.th',
    ),
    'r20_cifar100': Task('r20_cifar100', 'spiking_r20_cifar100', 'accuracy/top1', 1, 'CIFAR-100, ResNet-20, top-1 (%)'),
    'vgg9': Task('r56_cifar10', 'spiking_vgg9_cifar10_small', *BY_R56),
    'spikformer': Task('r56_cifar10', 'spikformer_2-128_cifar10_small', *BY_R56),
}
DENSE = 'bccd', 'camvid'
PENN_FUDAN = 'penn_fudan', 'penn_fudan_masks'
R20 = 'r20', 'r20_cifar100'
CIFAR = 'cifar10', *R20
BETA = 'model.losses.loss_attention.weight={}'
ALL_STEPS = 'model.losses.loss_steps.right_only=False'
# these follow the options of the task's own teacher and replace it
R56 = 'model.teacher=mmsnn::ann/r56_cifar10.py', f'model.teacher_checkpoint={{data}}/{R56_WEIGHTS}'
METHODS = {
    'undistilled': Method('spiking', taught=False, tasks=tuple(TASKS)),
    'TET': Method('tet', taught=False, tasks=CIFAR),
    'SAKD level 1': Method('sakd', ('model.losses=None',), tasks=(*CIFAR, 'bccd', *PENN_FUDAN, 'digits')),
    'SAKD level 2': Method('sakd', ('model.transfer=False',), tasks=(*CIFAR, 'bccd', *PENN_FUDAN, 'digits')),
    # as in the authors' CIFAR script
    'SAKD, features alone': Method('sakd', ('model.transfer=False', 'model.losses.loss_response=None'), tasks=CIFAR),
    'SAKD, no response': Method('sakd', ('model.losses.loss_response=None',), tasks=CIFAR),
    'SAKD': Method('sakd', tasks=(*CIFAR, *DENSE, *PENN_FUDAN, 'digits')),
    'BKD': Method('bkd', tasks=(*CIFAR, *DENSE)),
    'BKD, no blur': Method('bkd', ('model.losses.loss_blur.connector.ratio=0',), tasks=R20),
    'BKD, no blur, no restoration': Method('bkd', ('model.losses.loss_blur.connector=None',), tasks=R20),
    'LaSNN, beta 1000': Method('lasnn', (BETA.format(1000),), tasks=('cifar10', *DENSE)),
    'LaSNN, beta 1000, no level 1': Method('lasnn', (BETA.format(1000), 'model.transfer=False')),
    'LaSNN, beta 100': Method('lasnn', (BETA.format(100),), tasks=CIFAR),
    'TSSD': Method('tssd', taught=False, tasks=CIFAR),
    'affine, spikes': Method('affine', tasks=(*CIFAR, *DENSE, 'vgg9', 'spikformer')),
    'affine, membrane': Method('affine', ('model.losses.loss_affine.student=backbone.layer4@v|neck',)),
    'affine, membrane of stage 3': Method(
        'affine', ('model.losses.loss_affine.student=backbone.layer3@v|neck',), tasks=R20
    ),
    'affine, by ResNet-56': Method('affine', R56, tasks=('r20',)),
    'SAKD level 2, by ResNet-56': Method('sakd', ('model.transfer=False', *R56), tasks=('r20',)),
    'affine, alpha 30': Method('affine', ('model.losses.loss_affine.weight=30',)),
    'per-step KD': Method('step_kd', tasks=CIFAR),
    'per-step KD, all steps': Method('step_kd', (ALL_STEPS,)),
    'per-step KD, all steps, alpha 1': Method('step_kd', (ALL_STEPS, 'model.losses.loss_steps.alpha=1')),
    # these are not methods but other students on the same images
    'MS-ResNet-18': Method('spiking', (), False, ('backbones',), 'ms_resnet18_cifar10_small'),
    'Spikformer-4-256': Method('spiking', (), False, ('backbones',), 'spikformer_4-256_cifar10_small'),
}


@dataclass
class Run:
    """One training with its config, folder and options (``amp``: in mixed precision), or a test of ``weights``."""

    config: Path
    folder: Path
    seed: int
    options: list[str] = field(default_factory=list)
    weights: Path | None = None
    amp: bool = False

    @cached_property
    def epochs(self) -> int:
        """Number of epochs of the training."""
        chosen = [o for o in self.options if o.startswith('train_cfg.max_epochs=')]
        return int(chosen[0].split('=')[1]) if chosen else Config.fromfile(self.config).train_cfg.max_epochs

    def lines(self) -> list[dict]:
        """The lines of all logs of a training, which has several if it was resumed."""
        logs = sorted(self.folder.glob('*/vis_data/scalars.json'))
        return [json.loads(line) for log in logs for line in log.read_text().splitlines() if line.endswith('}')]

    def curve(self, metric: str) -> dict[int, float]:
        """Validation metric by epoch; weights that are only tested have epoch 0."""
        if self.weights:
            return {0: json.loads(max(self.folder.glob('*/*.json')).read_text())[metric]}
        return {line['step']: line[metric] for line in self.lines() if metric in line}

    def finished(self) -> bool:
        """Whether the training has ended."""
        return (self.folder / 'finished').exists()

    def done(self) -> float:
        """Share of the training that is done, from 0 to 1."""
        if self.finished():
            return 1.0
        epochs = [line['epoch'] for line in self.lines() if 'epoch' in line]
        return min(0.99, (max(epochs) - 1) / self.epochs) if epochs else 0.0

    def train(self, threads: int) -> None:
        """Train, or resume an interrupted training; RuntimeError with the path of the log if that fails."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [self.config, '--work-dir', self.folder]
        if self.weights:
            command = [ROOT / 'tools/test.py', *command, self.weights]
        else:
            command = [ROOT / 'tools/train.py', *command, '--seed', self.seed, *['--amp'] * self.amp]
        command = [sys.executable, *command]
        saved = any((self.folder / name).exists() for name in ('last_checkpoint', 'interrupted.pth'))
        command += ['--resume'] if saved else []
        command += ['--cfg-options', *self.options] if self.options else []
        with open(self.folder / 'output.log', 'ab') as log:
            env = {**os.environ, 'OMP_NUM_THREADS': str(threads)}
            code = subprocess.run([str(c) for c in command], stdout=log, stderr=log, env=env).returncode
        if code:
            raise RuntimeError(f'training failed, see {log.name}: {" ".join(map(str, command))}')
        (self.folder / 'finished').touch()
        if self.folder.name == 'teacher':
            last = self.weights or Path((self.folder / 'last_checkpoint').read_text().strip()).name
            (self.folder / 'teacher.pth').unlink(missing_ok=True)
            (self.folder / 'teacher.pth').symlink_to(last)


def plan(
    task: str, seeds: int, methods: list[str], work: Path, epochs: int | None = None, amp: bool = False
) -> dict[str, list[Run]]:
    """The runs of one task: its teacher with one seed, and the students of those ``methods`` that take part in it.

    ``epochs`` replaces the number of epochs of the students, ``amp`` trains them in mixed precision.
    """
    about = TASKS[task]
    data = Path(os.environ.get('MMSNN_DATA_ROOT', '../shared/data')).resolve()
    runs = {}
    if about.teacher:
        given = about.weights and data / about.weights
        runs['teacher'] = [Run(ROOT / f'configs/ann/{about.teacher}.py', work / task / 'teacher', 0, weights=given)]
    checkpoint = f'model.teacher_checkpoint={work / task / "teacher" / "teacher.pth"}'
    for name in methods:
        method = METHODS[name]
        if task not in method.tasks:
            continue
        config = ROOT / f'configs/{method.folder}/{method.student or about.student}.py'
        options = [*[checkpoint] * method.taught, *(o.replace('{data}', str(data)) for o in method.options)]
        if epochs:
            # the last scheduler is the cosine
            last = len(Config.fromfile(config).param_scheduler) - 1
            options += [f'train_cfg.max_epochs={epochs}', f'param_scheduler.{last}.T_max={epochs}']
        budget = task + (f'_{epochs}epochs' if epochs else '') + ('_amp' if amp else '')
        folder = work / budget / name.replace(', ', '_').replace(' ', '')
        runs[name] = [Run(config, folder / f'seed{seed}', seed, options, amp=amp) for seed in range(seeds)]
    return runs


def in_order(plans: dict[str, dict[str, list[Run]]]) -> list[list[Run]]:
    """The unfinished runs: first teachers, then students sorted by seed, so that a table is available early."""
    runs = [run for groups in plans.values() for group in groups.values() for run in group if not run.finished()]
    teachers = [run for run in runs if run.folder.name == 'teacher']
    students = sorted((run for run in runs if run.folder.name != 'teacher'), key=lambda run: run.seed)
    return [teachers, students]


def train_all(plans: dict[str, dict[str, list[Run]]], jobs: int, threads: int | None = None) -> None:
    """Train what is missing, and print progress and the estimated time left."""
    waves = in_order(plans)
    todo = [run for wave in waves for run in wave]
    threads = threads or max(1, (os.cpu_count() or 1) // jobs)
    before, start = sum(run.done() for run in todo), time.monotonic()

    def left() -> str:
        gained = sum(run.done() for run in todo) - before
        seconds = (len(todo) - before - gained) * (time.monotonic() - start) / gained if gained else None
        return 'time left unknown yet' if seconds is None else f'about {seconds / 60:.0f} min left'

    columns = [TextColumn('trainings'), BarColumn(), MofNCompleteColumn(), TextColumn('{task.fields[left]}')]
    with Progress(*columns) as bar, ThreadPoolExecutor(jobs) as pool:
        item = bar.add_task('', total=len(todo), left=left())

        def work(run: Run) -> None:
            run.train(threads)
            bar.update(item, advance=1)
            name = run.folder.relative_to(run.folder.parents[2])
            bar.console.print(f'{name} done, {sum(r.finished() for r in todo)} of {len(todo)}, {left()}')

        for wave in waves:  # students wait for their teacher
            futures = [pool.submit(work, run) for run in wave]
            while not all(future.done() for future in futures):
                bar.update(item, left=left())
                time.sleep(5)
            for future in futures:
                future.result()
