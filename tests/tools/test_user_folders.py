"""What lies in a user's folder, and what a training there meets at its beginning and its first validation."""

import runpy
import shutil
import subprocess
import sys

import cli
import pytest

EXTENSION = """
from mmsnn.neurons import LIF
from mmsnn.registry import MODELS


@MODELS.register_module()
class SlowLIF(LIF):
    pass
"""
VALIDATED = """
_base_ = 'classifier.py'
val_dataloader = dict(
    batch_size=4, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='CustomDataset', data_root={root!r}, data_prefix='train', pipeline={{{{_base_.pipeline}}}}))
val_cfg = dict()
val_evaluator = dict(type='Accuracy', topk=(1,))
default_hooks = dict(checkpoint=dict(interval=3, save_best='accuracy/top2'))
train_cfg = dict(max_epochs=3, val_interval=1)
"""


def out_of(*command, cwd) -> subprocess.CompletedProcess:
    """A tool in a process whose path does not lead to the folder of the config."""
    return subprocess.run(
        [sys.executable, *map(str, command)], cwd=cwd, env=cli.own_environment(), text=True, timeout=600,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


@pytest.mark.parametrize('place', ['beside the config', 'working directory'])
def test_custom_imports(tmp_path, place):
    """As docs/extend.md says: a file, and a config that imports it by name."""
    home, work = tmp_path / 'home', tmp_path / 'work'
    home.mkdir()
    work.mkdir()
    cli.write_classifier(home)
    (home if place == 'beside the config' else work).joinpath('my_neurons.py').write_text(EXTENSION)
    (home / 'mine.py').write_text(
        "_base_ = 'classifier.py'\ncustom_imports = dict(imports=['my_neurons'])\n"
        "model = dict(backbone=dict(neuron=dict(type='SlowLIF')))\ntrain_cfg = dict(max_epochs=1)\n"
    )
    done = out_of(cli.ROOT / 'tools/train.py', home / 'mine.py', cwd=work)
    assert done.returncode == 0 and (work / 'work_dirs/mine/epoch_1.pth').exists(), done.stdout[-3000:]


def test_a_best_that_no_validation_gives(tmp_path, caplog):
    """It is said, and nothing that was trained is lost."""
    cli.write_classifier(tmp_path)
    (tmp_path / 'best.py').write_text(VALIDATED.format(root=str(tmp_path)))
    cli.main('train', tmp_path / 'best.py', '--work-dir', tmp_path / 'w')
    assert (tmp_path / 'w/epoch_3.pth').exists()
    said = next((tmp_path / 'w').glob('*/*.log')).read_text()
    assert 'save_best=accuracy/top2: the validation gives no such metric' in said and 'accuracy/top1' in said


@pytest.mark.parametrize('images', [1, 3])
def test_fewer_images_than_a_batch(tmp_path, images, capsys):
    cli.write_detector(tmp_path, images=images)
    options = ['--cfg-options', 'train_dataloader.drop_last=True', 'train_dataloader.batch_size=4']
    with pytest.raises(ValueError, match=f'train_dataloader: {images} images make no batch: .*drop_last=True'):
        cli.main('train', tmp_path / 'detector.py', '--work-dir', tmp_path / 'w', *options)
    shutil.rmtree(tmp_path / 'w', ignore_errors=True)
    assert runpy.run_path(str(cli.ROOT / 'tools/check.py'))['main']([str(tmp_path / 'detector.py'), *options]) == 1
    said = ' '.join(capsys.readouterr().out.split())
    assert 'drop_last=True: no batch is left' in said
