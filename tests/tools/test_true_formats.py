"""The configs for COCO, ADE20K and ImageNet as they stand, on slices of the true sets: only paths and sizes change.

Two iterations and a test, at small sizes: what is shown is that the formats are read, not how well anything is learnt.
"""

import json
import runpy
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope

from mmsnn.building import build_model, read
from mmsnn.datasets import NCaltech101
from mmsnn.datasets.gen1 import open_dat

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / 'configs'
# no processes beside this one
ALONE = [
    f'{part}_dataloader.{key}' for part in ('train', 'test') for key in ('num_workers=0', 'persistent_workers=False')
]


def there(data_root: Path, name: str) -> Path:
    if not (data_root / name).exists():
        pytest.skip(f'no {name} in {data_root}')
    return data_root / name


def run(tool: str, *arguments) -> None:
    runpy.run_path(str(ROOT / f'tools/{tool}.py'))['main']([str(a) for a in arguments])


@pytest.fixture
def teach(tmp_path, monkeypatch):
    """``teach(config, ann)``: a file of the ANN's weights, untrained, and options for tests of few steps."""
    monkeypatch.chdir(tmp_path)

    def make(ann: str) -> str:
        cfg = read(str(CONFIGS / ann))
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            torch.save(dict(state_dict=build_model(cfg).state_dict()), tmp_path / 'teacher.pth')
        return f'model.teacher_checkpoint={tmp_path / "teacher.pth"}'

    return make


def results(folder: Path) -> dict:
    """What the test wrote."""
    return json.loads(max(folder.glob('*/2*.json')).read_text())


def test_coco(data_root, teach, capsys):
    root = there(data_root, 'coco_slice')
    small = 'scale=(96,64)'
    options = [f'{part}_dataloader.dataset.data_root={root}/' for part in ('train', 'val', 'test')]
    options += [f'{part}_evaluator.ann_file={root}/annotations/instances_val2017.json' for part in ('val', 'test')]
    options += [f'train_dataloader.dataset.pipeline.2.{small}', f'test_dataloader.dataset.pipeline.1.{small}', *ALONE]
    options += ['train_dataloader.dataset.indices=4', 'train_dataloader.batch_size=2', 'train_cfg.max_epochs=1']
    options += ['test_dataloader.dataset.indices=3', 'test_evaluator.classwise=True']
    config, teacher = CONFIGS / 'sakd/retinanet_sew34_coco.py', teach('ann/retinanet_r34_coco.py')
    run('train', config, '--work-dir', 'run', '--no-validate', '--cfg-options', *options, teacher)
    log = max(Path('run').glob('*/vis_data/scalars.json')).read_text()
    losses = json.loads(log.splitlines()[-1])
    assert losses['loss_feature'] > 0 and np.isfinite(losses['loss'])
    capsys.readouterr()
    run('test', config, 'run/epoch_1.pth', '--work-dir', 'test', '--cfg-options', *options)
    # one line a class: an untrained network finds nothing of them
    text = capsys.readouterr().out
    assert text.count('| person ') == text.count('| toothbrush ') == 1


def test_ade20k(data_root, teach):
    root = there(data_root, 'ade20k_slice')
    options = [f'{part}_dataloader.dataset.data_root={root}' for part in ('train', 'val', 'test')]
    options += ['data_preprocessor.size=(64,64)', 'train_dataloader.dataset.pipeline.2.scale=(128,96)', *ALONE]
    options += ['model.student.data_preprocessor.size=(64,64)', 'train_dataloader.dataset.pipeline.3.crop_size=(64,64)']
    options += [
        'test_dataloader.dataset.pipeline.1.scale=(128,96)',
        'train_cfg.max_iters=2',
        'train_dataloader.batch_size=2',
    ]
    config, teacher = CONFIGS / 'sakd/fcn_sew34_ade20k.py', teach('ann/fcn_r34_ade20k.py')
    run('train', config, '--work-dir', 'run', '--no-validate', '--cfg-options', *options, teacher)
    options.remove('model.student.data_preprocessor.size=(64,64)')
    plain = CONFIGS / 'spiking/fcn_sew34_ade20k.py'
    run('test', plain, 'run/iter_2.pth', '--work-dir', 'test', '--cfg-options', *options)
    assert 0 <= results(Path('test'))['mIoU'] <= 100


def test_imagenet(data_root, teach):
    """One image a class: twelve of the thousand are trained on and tested, out of the one split there is."""
    with tarfile.open(there(data_root, 'imagenet_one_per_class.tar')) as tar:
        tar.extractall('imagenet', filter='data')
    options = ['train_dataloader.dataset.data_root=imagenet', 'test_dataloader.dataset.data_root=imagenet', *ALONE]
    options += [
        'val_dataloader.dataset.data_root=imagenet',
        'train_dataloader.dataset.split=val',
        'train_cfg.max_epochs=1',
    ]
    options += ['train_dataloader.dataset.pipeline.1.scale=64', 'test_dataloader.dataset.pipeline.2.crop_size=64']
    options += ['test_dataloader.dataset.pipeline.1.scale=72', 'test_dataloader.batch_size=6']
    options += [
        'train_dataloader.dataset.indices=12',
        'test_dataloader.dataset.indices=12',
        'train_dataloader.batch_size=6',
    ]
    # mixed precision wants a GPU
    options += ['optim_wrapper.type=OptimWrapper'] if not torch.cuda.is_available() else []
    config, teacher = CONFIGS / 'sakd/sew34_imagenet.py', teach('ann/r34_imagenet.py')
    run('train', config, '--work-dir', 'run', '--no-validate', '--cfg-options', *options, teacher)
    run('test', config, 'run/epoch_1.pth', '--work-dir', 'test', '--cfg-options', *options)
    assert set(results(Path('test'))) >= {'accuracy/top1', 'accuracy/top5'}


def test_prophesee_dat(data_root):
    """N-CARS, by the reader of Gen1's recordings."""
    events, _ = open_dat(str(there(data_root, 'event_samples/sample_ncars.dat')))
    x, y = events['xyp'] & 0x3FFF, (events['xyp'] >> 14) & 0x3FFF
    # 120x100 pixels, 0.1 seconds
    assert len(events) == 2009 and x.max() < 120 and y.max() < 100
    assert (np.diff(events['t'].astype(int)) >= 0).all() and 90_000 < events['t'][-1] <= 100_000


def test_atis_bin(data_root, tmp_path):
    """N-MNIST, by the readers of N-Caltech101: ours checks the file, SpikingJelly's gives its events."""
    jelly = pytest.importorskip('spikingjelly.datasets', reason='event datasets need the extra `spikingjelly`')
    shutil.copy(there(data_root, 'event_samples/sample_nmnist.bin'), tmp_path / 'a.bin')
    NCaltech101.check_raw(tmp_path)
    events = jelly.utils.load_ATIS_bin(tmp_path / 'a.bin')
    assert len(events['t']) == 4325 and max(events['x'].max(), events['y'].max()) < 34
    assert set(events['p']) == {0, 1} and 250_000 < events['t'].max() < 350_000
    (tmp_path / 'a.bin').write_bytes((tmp_path / 'a.bin').read_bytes()[:-2])
    with pytest.raises(ValueError, match=r'a\.bin'):
        NCaltech101.check_raw(tmp_path)
