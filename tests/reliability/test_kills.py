"""R15, R16: a training that is killed at any moment, or whose disk fails, goes on from a whole checkpoint.

Children are forked from this process, where everything is imported already, so that a try takes less than a second.
``MMSNN_TRIES`` multiplies the number of tries.
"""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import cli
import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from mmengine.runner import Runner
from torch.utils.data import Dataset

from mmsnn.engine import resuming
from mmsnn.engine.hooks import checkpoint_hook
from mmsnn.engine.resuming import newest_whole, prepare_resume
from mmsnn.engine.safety import make_safe
from mmsnn.engine.work_dir import WorkDir

pytestmark = [pytest.mark.row('R16'), pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')]
TRIES = int(os.environ.get('MMSNN_TRIES', 1))
STEPS = 40


@MODELS.register_module()
class TinyNet(BaseModel):
    """Enough weights that saving them takes a while."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(256, 256)

    def forward(self, inputs, data_samples=None, mode='loss'):
        if mode == 'predict':
            return list(inputs)
        return dict(loss=self.layer(torch.stack(inputs) + torch.rand(256)).square().mean())


@DATASETS.register_module()
class Numbers(Dataset):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, i: int) -> dict:
        return dict(inputs=torch.full((256,), i / 8))


@METRICS.register_module()
class Nothing(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return {}


def config(folder, workers=0, validated=False, **hook) -> Config:
    cfg = Config(
        dict(
            model=dict(type='TinyNet'),
            work_dir=str(folder),
            train_dataloader=dict(
                dataset=dict(type='Numbers'),
                batch_size=2,
                num_workers=workers,
                sampler=dict(type='DefaultSampler', shuffle=True),
            ),
            train_cfg=dict(by_epoch=True, max_epochs=STEPS // 4),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9)),
            default_hooks=dict(
                checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=3, max_keep_ckpts=1, **hook)
            ),
            randomness=dict(seed=1),
            log_level='ERROR',
            experiment_name=f'{folder}{time.time_ns()}',
        )
    )
    if validated:
        cfg.train_dataloader.persistent_workers = True
        cfg.val_dataloader = {**cfg.train_dataloader, 'sampler': dict(type='DefaultSampler', shuffle=False)}
        cfg.update(val_cfg=dict(), val_evaluator=dict(type='Nothing'))
    return make_safe(cfg)


def train(folder, resume=False, **hook) -> Runner:
    cfg = config(folder, **hook)
    cfg.resume = resume
    runner = Runner.from_cfg(prepare_resume(cfg))
    runner.train()
    return runner


def in_child(work) -> int:
    """The process id of a child that does ``work`` and says by its exit code whether it could."""
    child = os.fork()
    if child:
        return child
    # the child: nothing of pytest may run in it
    code = 1
    with suppress(BaseException):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        try:
            work()
            code = 0
        except SystemExit as left:
            code = left.code
    os._exit(code)


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
    """The weights at the end, and the seconds a training takes."""
    folder, start = tmp_path_factory.mktemp('whole'), time.monotonic()
    state = train(folder).model.state_dict()
    return state, time.monotonic() - start


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """The work dir of a training that kept two checkpoints."""
    folder = tmp_path_factory.mktemp('trained')
    cfg = config(folder)
    cfg.default_hooks.checkpoint.max_keep_ckpts = 2
    Runner.from_cfg(cfg).train()
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    """A copy of it."""
    shutil.copytree(trained, tmp_path / 'work')
    for path in (tmp_path / 'work').glob('*.pth'):
        # the order of their making
        os.utime(path, (int(path.stem.split('_')[1]),) * 2)
    return tmp_path / 'work'


def check_end(folder, state) -> None:
    content = newest_whole(folder)[1]
    assert content['meta']['iter'] == STEPS
    assert all(torch.equal(content['state_dict'][k], v) for k, v in state.items())


@pytest.mark.forks
@pytest.mark.row('R15')
def test_killed_at_random(tmp_path, undisturbed, record_property):
    """Killed and resumed until it ends; the weights are those of the undisturbed training."""
    state, seconds = undisturbed
    chance, killed = random.Random(0), 0
    while killed < 3 * TRIES:
        folder, kills = tmp_path / 'work', 0
        while True:
            child = in_child(lambda folder=folder: train(folder, resume=True))
            time.sleep(chance.uniform(0, seconds) if kills < 30 else 10 * seconds + 5)
            os.kill(child, signal.SIGKILL)
            code = ended(child)
            assert code in (0, -signal.SIGKILL)
            if code == 0:
                break
            kills += 1
            pointer = folder / 'last_checkpoint'
            assert not pointer.exists() or Path(pointer.read_text()).is_file()
        check_end(folder, state)
        assert not list(folder.glob('.*.part'))
        killed += kills
        shutil.rmtree(folder)
    record_property('tries', killed)


MOMENTS = ('before the file', 'half of the file', 'before its name', 'before the pointer', 'before the oldest goes')


@pytest.mark.forks
@pytest.mark.row('R15')
@pytest.mark.parametrize('save', range(2, 6) if TRIES > 1 else [2])
@pytest.mark.parametrize('moment', MOMENTS)
def test_killed_inside_the_save(tmp_path, undisturbed, moment, save):
    """A save is cut short; one checkpoint alone is kept."""

    def work():
        def die(*_):
            os.kill(os.getpid(), signal.SIGKILL)

        def half(part, _):
            part.write_bytes(part.read_bytes()[:999])
            die()

        if moment == 'before the file':
            torch.save = nth(save, torch.save, die)
        elif moment == 'half of the file':
            checkpoint_hook.publish = nth(2 * save - 1, checkpoint_hook.publish, half)
        elif moment == 'before its name':
            os.replace = nth(2 * save - 1, os.replace, die)
        elif moment == 'before the pointer':
            checkpoint_hook.publish = nth(2 * save, checkpoint_hook.publish, die)
        else:
            later = checkpoint_hook._RemovesLater
            later.remove_now = nth(save, later.remove_now, die)
        train(tmp_path)

    assert ended(in_child(work)) == -signal.SIGKILL
    pointer = tmp_path / 'last_checkpoint'
    assert Path(pointer.read_text()).is_file()
    path, content = newest_whole(tmp_path)
    assert content['meta']['iter'] in (3 * save - 3, 3 * save)
    train(tmp_path, resume=True)
    check_end(tmp_path, undisturbed[0])


def nth(number: int, do, instead):
    """``do``, but ``instead`` the ``number``-th time; a file and its pointer are published one after the other."""
    calls = []

    def call(*args, **kwargs):
        calls.append(1)
        return instead(*args) if len(calls) == number else do(*args, **kwargs)

    return call


@pytest.mark.forks
@pytest.mark.row('R15')
@pytest.mark.parametrize('name', ['SIGTERM', 'SIGUSR1', 'SIGINT'])
def test_signals_save(tmp_path, undisturbed, name):
    number = getattr(signal, name)
    seconds = undisturbed[1]
    child = in_child(lambda: train(tmp_path))
    while not (tmp_path / 'last_checkpoint').exists():
        time.sleep(seconds / 50)
    os.kill(child, number)
    code = ended(child)
    # a training that had just ended
    assert code in (128 + number, 0)
    if code:
        assert (tmp_path / 'interrupted.pth').is_file()
        train(tmp_path, resume=True)
    check_end(tmp_path, undisturbed[0])
    assert not (tmp_path / 'interrupted.pth').exists()


@pytest.mark.forks
@pytest.mark.parametrize('validated', [False, True])
@pytest.mark.parametrize('workers', [1, 2])
def test_a_signal_to_the_whole_group_saves(tmp_path, undisturbed, workers, validated):
    """As Slurm ends a job: the workers that load data get SIGTERM, too, here first, and do not take it along.

    Those of the validation, which remain until the next one, do not either.
    """

    def lead():
        read = Numbers.__getitem__
        # long enough that the training has not ended before the signal
        Numbers.__getitem__ = lambda self, i: time.sleep(0.1) or read(self, i)
        train(tmp_path, workers=workers, validated=validated)

    def children():
        return Path(f'/proc/{child}/task/{child}/children').read_text().split()

    child = in_child(lead)
    loaders = workers * (1 + validated)
    while not (tmp_path / 'last_checkpoint').exists() or len(children()) < loaders:
        time.sleep(0.02)
    # the second epoch
    time.sleep(0.8 * validated)
    found = children()
    assert len(found) == loaders
    for process in found:
        with suppress(ProcessLookupError):
            os.kill(int(process), signal.SIGTERM)
    time.sleep(0.05)
    os.kill(child, signal.SIGTERM)
    assert ended(child) == 128 + signal.SIGTERM
    assert (tmp_path / 'interrupted.pth').is_file()
    train(tmp_path, resume=True)
    check_end(tmp_path, undisturbed[0])


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == 'flipped bit':
        # in the weights, where torch.load would not notice
        with zipfile.ZipFile(path) as archive:
            largest = max(archive.infolist(), key=lambda info: info.file_size)
        place = largest.header_offset + 200 + largest.file_size // 2
        content = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    elif how == 'truncated':
        content = content[: len(content) // 2]
    elif how == 'empty':
        content = b''
    elif how == 'text':
        content = b'not a checkpoint'
    path.write_bytes(content)
    if how == 'weights alone':
        torch.save(dict(state_dict={}), path)
    elif how == 'another thing':
        torch.save([1, 2], path)
    elif how == 'pickle that calls':
        torch.save(dict(state_dict={}, optimizer={}, meta=dict(f=os.system)), path)


DAMAGES = ('flipped bit', 'truncated', 'empty', 'text', 'weights alone', 'another thing', 'pickle that calls')


@pytest.mark.parametrize('how', DAMAGES)
def test_damaged_checkpoints_are_passed_over(folder, how):
    last = resuming.checkpoints(folder)[0]
    damage(last, how)
    os.utime(last, (99, 99))
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resuming, 'print_log', lambda text, **_: said.append(text))
        path, content = newest_whole(folder)
    assert content['meta']['iter'] < STEPS and path != last
    assert len(said) == 1 and str(last) in said[0]
    for other in resuming.checkpoints(folder):
        other.write_bytes(b'')
    with pytest.raises(ValueError, match='no checkpoint in .* can be read'):
        newest_whole(folder)


@pytest.mark.parametrize('pointer', ['', 'gone.pth', '\0\0'])
def test_the_pointer_is_not_needed(folder, pointer):
    (folder / 'last_checkpoint').write_text(pointer)
    assert newest_whole(folder)[1]['meta']['iter'] == STEPS


@pytest.mark.parametrize('where', ['another name', 'another folder'])
def test_the_pointer_finds_what_a_hook_named_otherwise(tmp_path, where):
    other = dict(filename_tmpl='at_{}.pth') if where == 'another name' else dict(out_dir=str(tmp_path / 'elsewhere'))
    train(tmp_path / 'run', **other)
    assert newest_whole(tmp_path / 'run')[1]['meta']['iter'] == STEPS


def begin(cfg):
    """What a training does in its work dir before its first iteration."""
    with WorkDir(cfg) as work_dir:
        work_dir.before_train(SimpleNamespace(timestamp='20260101_000000'))


def test_a_training_that_is_refused_moves_nothing(folder):
    """Files are set aside when the training begins, and not when its config is read."""
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(TypeError), WorkDir(config(folder)):
        raise TypeError('a key of the model is misspelt')
    assert sorted(path.name for path in folder.iterdir()) == before
    begin(config(folder))
    assert not resuming.checkpoints(folder)
    said = []
    resuming_log = resuming.print_log
    resuming.print_log = lambda text, **_: said.append(text)
    try:
        cfg = config(folder)
        cfg.resume = True
        assert not resuming.prepare_resume(cfg).resume
    finally:
        resuming.print_log = resuming_log
    assert len(said) == 1 and str(folder / 'earlier_1') in said[0] and '--resume FILE' in said[0]


def test_one_training_at_a_time(folder):
    """A second one in the folder is refused, until the first has ended in any way."""
    with WorkDir(config(folder)):
        for change in ({}, dict(resume=True)):
            other = config(folder)
            other.merge_from_dict(change)
            with pytest.raises(ValueError, match='work_dir: another training runs in .*--work-dir FOLDER'):
                WorkDir(other)
        assert resuming.checkpoints(folder)
    script = 'import sys, time; from mmengine.config import Config; from mmsnn.engine.work_dir import WorkDir;'
    script += 'held = WorkDir(Config(dict(work_dir=sys.argv[1]))); import os; child = os.fork();'
    script += 'print("held", flush=True) if child else None; time.sleep(20)'
    process = subprocess.Popen([sys.executable, '-c', script, folder], stdout=subprocess.PIPE, text=True)
    try:
        assert 'held\n' in process.stdout
        with pytest.raises(ValueError, match='another training runs'):
            begin(config(folder))
        process.kill()
        process.wait()
        # its worker is still there
        begin(config(folder))
    finally:
        process.kill()
        process.stdout.close()


def test_numbers_of_folders_set_aside(folder):
    """A gap is filled, and nothing is overwritten."""
    (folder / 'earlier_2').mkdir()
    measured = 'benchmark.json', 'time_steps.json', 'early_exit.json', 'report.html'
    for name in measured:
        (folder / name).touch()
    begin(config(folder))
    # what was measured of the other network does not stand in the new one's report
    assert all((folder / 'earlier_1' / name).exists() and not (folder / name).exists() for name in measured)
    assert resuming.checkpoints(folder / 'earlier_1') and not resuming.checkpoints(folder / 'earlier_2')


def test_full_disk(tmp_path, monkeypatch):
    """The message names the checkpoint that is left, and nothing half written stays."""
    calls = []

    def full(*_, **__):
        calls.append(1)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, 'No space left on device')

    publish = checkpoint_hook.publish
    monkeypatch.setattr(checkpoint_hook, 'publish', lambda *args: (full(), publish(*args)))
    with pytest.raises(
        OSError, match=r'iter_6.pth was not saved \(No space left on device\); .*iter_3.pth is complete, and --resume'
    ):
        train(tmp_path)
    assert not list(tmp_path.glob('.*.part'))
    assert newest_whole(tmp_path)[1]['meta']['iter'] == 3


def test_another_training_in_the_folder(folder):
    """It is set aside whole; a training that begins with its weights, or several processes, are refused."""
    cfg = config(folder)
    files = {path.name for path in resuming.checkpoints(folder)}
    for change in (dict(load_from=str(folder / 'iter_40.pth')), dict(launcher='pytorch')):
        other = config(folder)
        other.merge_from_dict(change)
        with pytest.raises(ValueError, match='work_dir: .* holds another training'):
            begin(other)
    cfg.resume = True
    begin(cfg)
    assert len(resuming.checkpoints(folder)) == 2
    cfg.resume = False
    for number in (1, 2):
        begin(cfg)
        assert not resuming.checkpoints(folder) and not (folder / 'last_checkpoint').exists()
        assert {path.name for path in resuming.checkpoints(folder / f'earlier_{number}')} == files
        train(folder)
        files = {path.name for path in resuming.checkpoints(folder)}


@pytest.mark.row('R13')
class TestOtherConfigs:
    """`--resume` with another config than the checkpoint's."""

    def resume(self, folder, **change):
        cfg = config(folder)
        cfg.merge_from_dict(change)
        cfg.resume = True
        said = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(resuming, 'print_log', lambda text, **_: said.append(text))
            prepare_resume(cfg)
        return said

    def test_what_differs_is_said(self, folder):
        assert not self.resume(folder, **{'default_hooks.checkpoint.max_keep_ckpts': 2})
        (line,) = self.resume(folder, **{'optim_wrapper.optimizer.lr': 0.5, 'train_dataloader.batch_size': 4})
        assert 'optim_wrapper.optimizer.lr: 0.01 -> 0.5' in line and 'train_dataloader.batch_size: 2 -> 4' in line

    def test_another_optimizer_is_refused(self, folder):
        with pytest.raises(ValueError, match="optim_wrapper.optimizer.type: 'SGD' -> 'AdamW'"):
            self.resume(folder, **{'optim_wrapper.optimizer.type': 'AdamW'})

    def test_the_seed_is_the_checkpoints(self, folder):
        cfg = config(folder)
        cfg.resume, cfg.randomness = True, dict(seed=9)
        assert prepare_resume(cfg).randomness.seed == 1

    def test_nothing_to_resume(self, tmp_path):
        assert len(self.resume(tmp_path)) == 1


@pytest.mark.row('R18')
def test_text_of_a_config_is_not_executed():
    found = resuming.read_text("a = dict(b=[1, (2, 3)], c={'d': -1.5})\ne = __import__('os').getcwd()\nf = dict(**g)")
    assert found == {'a': {'b': [1, [2, 3]], 'c': {'d': -1.5}}, 'e': "__import__('os').getcwd()", 'f': {}}
    assert resuming.read_text('(' * 9999) == {}


@pytest.mark.parametrize('loop', ['', 'train_cfg = dict(_delete_=True, by_epoch=False, max_iters=2)\n'])
def test_a_training_whose_workers_persist_ends(tmp_path, loop):
    """Python ends workers that are left by one SIGTERM, and waits for them."""
    cli.write_classifier(tmp_path)
    (tmp_path / 'config.py').write_text(
        f"_base_ = 'classifier.py'\ntrain_dataloader = dict(num_workers=2, persistent_workers=True)\n{loop}"
    )
    done = cli.run('train', tmp_path / 'config.py', '--work-dir', tmp_path / 'run', limit=200)
    assert done.returncode == 0, done.stdout[-3000:]
    assert 'Traceback' not in done.stdout + (done.stderr or '')
