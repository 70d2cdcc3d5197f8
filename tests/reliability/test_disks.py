"""R16: full and read-only disks, through the command line; damaged checkpoints are in test_kills.py."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import cli
import pytest

from mmsnn.checkpoints.reading import load_file
from mmsnn.engine.resuming import newest_whole

EPOCHS = 4


def may_mount(tmp: Path) -> bool:
    """Whether this user may mount a file system."""
    folder = tmp / 'try'
    folder.mkdir()
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=1m', 'none', folder], capture_output=True).returncode:
        return False
    subprocess.run(['umount', folder], check=True)
    return True


@pytest.fixture(scope='module')
def mounts(tmp_path_factory):
    if shutil.which('mount') is None or not may_mount(tmp_path_factory.mktemp('mounts')):
        pytest.skip('mounting a file system needs root')


@contextmanager
def mounted(folder: Path, *options: str):
    """A file system of its own at ``folder``."""
    folder.mkdir(exist_ok=True)
    subprocess.run(['mount', '-t', 'tmpfs', '-o', ','.join(options), 'none', folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(['umount', '-l', folder], check=True)


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    """A config, the size of one of its checkpoints, and how much a training writes beside them."""
    home = tmp_path_factory.mktemp('home')
    config = cli.write_classifier(home)
    with config.open('a') as file:
        # four epochs; iterations by ones, so that the log grows
        file.write(f'train_cfg = dict(by_epoch=True, max_epochs={EPOCHS})\n')
    done = cli.run('train', config, '--work-dir', home / 'run')
    assert done.returncode == 0, done.stdout[-3000:]
    size = (home / 'run' / 'epoch_1.pth').stat().st_size
    return config, size


def train(config: Path, work: Path, *more: str):
    return cli.run('train', config, '--work-dir', work, *more)


def check_message(text: str) -> None:
    """One line says what happened, and whether something is left."""
    assert re.search(
        r'was not saved \(.*\); .*(is complete, and --resume continues from it|no checkpoint yet)', text
    ), text[-3000:]


@pytest.mark.parametrize('fit', [0, 1, 2])
def test_full_while_saving(home, tmp_path, mounts, fit):
    """So many checkpoints fit; what is there is whole, and with more room the training goes on from it."""
    config, size = home
    room = int((fit + 0.5) * size) + (200 << 10)
    with mounted(tmp_path / 'disk', f'size={room}') as disk:
        done = train(config, disk / 'run')
        assert done.returncode not in (0, -6, -11)
        check_message(done.stdout)
        assert not list((disk / 'run').glob('.*.part'))
        found = newest_whole(disk / 'run')
        assert (found is None) == (fit == 0)
        if fit:
            path, content = found
            assert content['meta']['epoch'] == fit and str(path) in done.stdout
        subprocess.run(['mount', '-o', f'remount,size={8 * size + (9 << 20)}', disk], check=True)
        done = train(config, disk / 'run', '--resume')
        assert done.returncode == 0, done.stdout[-3000:]
        assert load_file(disk / 'run' / f'epoch_{EPOCHS}.pth')['meta']['epoch'] == EPOCHS


def test_full_with_one_checkpoint_kept(home, tmp_path, mounts):
    """Where one alone is kept, the next is written before it goes: two must fit, and the first survives where not."""
    config, size = home
    with mounted(tmp_path / 'disk', f'size={int(1.5 * size) + (200 << 10)}') as disk:
        done = train(config, disk / 'run', '--cfg-options', 'default_hooks.checkpoint.max_keep_ckpts=1')
        assert done.returncode != 0
        check_message(done.stdout)
        assert newest_whole(disk / 'run')[1]['meta']['epoch'] == 1


def test_full_while_logging(home, tmp_path, mounts):
    """The disk is full when the training begins: it says so, and leaves."""
    config, _ = home
    with mounted(tmp_path / 'disk', 'size=64k') as disk:
        (disk / 'filler').write_bytes(bytes(40 << 10))
        done = train(config, disk / 'run')
        assert done.returncode not in (0, -6, -11)
        assert 'No space left on device' in done.stdout or 'not saved' in done.stdout, done.stdout[-3000:]
        assert str(disk / 'run') in done.stdout


@pytest.mark.parametrize('limit', [0.3, 0.999])
def test_largest_file(home, tmp_path, limit):
    """A quota on the size of files, which needs no root: a write comes back short, as on a full disk."""
    config, size = home
    code = (
        'import resource, signal, runpy, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); '
        f'resource.setrlimit(resource.RLIMIT_FSIZE, ({int(limit * size)}, resource.RLIM_INFINITY)); '
        'sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name="__main__")'
    )
    done = subprocess.run(
        [sys.executable, '-c', code, cli.ROOT / 'tools/train.py', config, '--work-dir', tmp_path / 'run'],
        env=cli.own_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode not in (0, -6, -11)
    check_message(done.stdout)
    assert not list((tmp_path / 'run').glob('*.pth')) and not list((tmp_path / 'run').glob('.*.part'))
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_a_folder_that_cannot_be_written(home, tmp_path, mounts):
    config, _ = home
    with mounted(tmp_path / 'disk', 'size=9m') as disk:
        (disk / 'run').mkdir()
        subprocess.run(['mount', '-o', 'remount,ro', disk], check=True)
        done = train(config, disk / 'run')
        assert done.returncode not in (0, -6, -11)
        assert re.search(r'work_dir: .*run cannot be written', done.stdout), done.stdout[-3000:]
        assert 'Epoch(train)' not in done.stdout


def test_a_folder_that_becomes_read_only(home, tmp_path, mounts):
    """As disks do after an error; what was saved stays, and the message names it."""
    config, size = home
    with mounted(tmp_path / 'disk', f'size={9 * size + (9 << 20)}') as disk:
        hook = tmp_path / 'remounts.py'
        hook.write_text(
            'import os, subprocess\nfrom mmengine.hooks import Hook\nfrom mmengine.registry import HOOKS\n'
            '@HOOKS.register_module()\nclass Remounts(Hook):\n'
            '    def before_train_epoch(self, runner):\n'
            '        if runner.epoch == 2:\n'
            f'            subprocess.run(["mount", "-o", "remount,ro", {str(disk)!r}], check=False)\n'
        )
        child = tmp_path / 'child.py'
        child.write_text(
            f"_base_ = {str(config)!r}\ncustom_imports = dict(imports=['mmsnn', 'remounts'])\n"
            "custom_hooks = [dict(type='Remounts')]\n"
        )
        done = subprocess.run(
            [sys.executable, cli.ROOT / 'tools/train.py', child, '--work-dir', disk / 'run'],
            env=cli.own_environment(PYTHONPATH=f'{cli.ROOT}{os.pathsep}{tmp_path}'),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        # a file that is open for writing, as the log is, keeps the disk from it
        if (disk / 'run' / f'epoch_{EPOCHS}.pth').exists():
            pytest.skip('the kernel does not remount a disk with open files')
        assert done.returncode not in (0, -6, -11)
        check_message(done.stdout)
        assert newest_whole(disk / 'run')[1]['meta']['epoch'] == 2


@pytest.mark.parametrize('how', ['swapped', 'all damaged', 'one damaged', 'of another config'])
def test_resume_of_what_is_not_sound(home, tmp_path, capfd, how):
    """Through the command line, in this process; each kind of damage is in test_kills.py."""
    config, _ = home
    work = tmp_path / 'run'
    shutil.copytree(config.parent / 'run', work)
    last, before = work / f'epoch_{EPOCHS}.pth', work / f'epoch_{EPOCHS - 1}.pth'
    if how == 'swapped':
        last.write_bytes(before.read_bytes())
    elif how == 'one damaged':
        last.write_bytes(last.read_bytes()[:-999])
    elif how == 'all damaged':
        for path in work.glob('*.pth'):
            path.write_bytes(path.read_bytes()[:999])
    options = ['--cfg-options', f'train_cfg.max_epochs={EPOCHS + 1}']
    if how == 'of another config':
        options.append('model.backbone.base_channels=4')
        options.append('model.head.in_channels=32')
    command = ['train', config, '--work-dir', work, '--resume', *options]
    if how in ('swapped', 'one damaged'):
        cli.main(*command)
        assert load_file(work / f'epoch_{EPOCHS + 1}.pth')['meta']['epoch'] == EPOCHS + 1
        assert (f'skips {last}' in ''.join(capfd.readouterr())) == (how == 'one damaged')
    else:
        with pytest.raises(ValueError, match='can be read' if how == 'all damaged' else str(last)):
            cli.main(*command)
        assert not (work / f'epoch_{EPOCHS + 1}.pth').exists()


FOLDERS = {
    'deepspeed': ('1/mp_rank_00_model_states.pt', 'as DeepSpeed writes: .*deepspeed.utils.zero_to_fp32'),
    'sharded': ('model/__0_0.distcp', 'as torch.distributed.checkpoint and FSDP write: .*dcp_to_torch'),
    'work dir': ('epoch_3.pth', 'a folder: give one of the files in it, epoch_3.pth'),
}


@pytest.mark.parametrize(
    'kind, door',
    [*((kind, '--resume') for kind in FOLDERS), ('deepspeed', 'load_from'), ('sharded', 'test')]
    + [('sharded', '--resume in the work dir')],
)
def test_folders_that_are_no_checkpoints(home, tmp_path, kind, door):
    """The message says which tool wrote the folder and which command makes a file of it."""
    config, _ = home
    name, said = FOLDERS[kind]
    work = tmp_path / 'run'
    folder = (work if door.endswith('dir') else tmp_path) / 'epoch_9.pth'
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_bytes(b'x')
    options = {
        '--resume': ['train', config, '--resume', folder],
        'load_from': ['train', config, '--cfg-options', f'load_from={folder}'],
        'test': ['test', config, folder],
        '--resume in the work dir': ['train', config, '--resume'],
    }[door]
    with pytest.raises((FileNotFoundError, ValueError), match=said) as error:
        cli.main(*options, '--work-dir', work)
    assert str(folder) in str(error.value)


def test_scalars_are_whole(home):
    """What the log of numbers holds after a run without a fault, so that the tests above are not of a broken log."""
    config, _ = home
    (scalars,) = (config.parent / 'run').glob('*/vis_data/scalars.json')
    assert len([json.loads(line) for line in scalars.read_text().splitlines()]) >= EPOCHS
