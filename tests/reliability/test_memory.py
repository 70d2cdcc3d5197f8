"""R26: long trainings, tests and inference keep no memory."""

import os

import cli
import pytest
import torch
from memory_growth import Memory, grown, resident, train, train_alone, write
from mmengine.config import Config

from mmsnn.building import build_model

pytestmark = pytest.mark.skipif(not os.path.exists('/proc/self/statm'), reason='needs Linux')


def check(values: list[int], iterations: int, most: float, record_property) -> None:
    assert len(values) == iterations // 50
    growth = grown(values, len(values) // 10)
    record_property('growth', growth)
    assert growth < most, f'{growth:.2%} in {iterations} iterations: {values}'


@pytest.mark.slow
@pytest.mark.parametrize('workers', [0, 2])
def test_five_thousand_steps(tmp_path, workers, record_property):
    """After step 500, memory grows by less than a hundredth."""
    check(train(tmp_path, 5000, workers), 5000, 0.01, record_property)


# of a few hundred steps, caches that fill up are a larger part; these two are of no row
@pytest.mark.row('none')
def test_a_few_hundred_steps(tmp_path, record_property):
    check(train_alone(tmp_path, 600, 0), 600, 0.03, record_property)


@pytest.mark.row('none')
def test_a_leak_is_found(tmp_path, record_property):
    """What the tests above are worth: a megabyte kept every ten iterations is seen."""
    with pytest.raises(AssertionError, match='in 600 iterations'):
        check(train_alone(tmp_path, 600, 0, leaks=True), 600, 0.03, record_property)


@pytest.mark.slow
def test_inference(tmp_path, record_property):
    """Five thousand predictions of one model."""
    cfg = Config.fromfile(write(tmp_path, 10, 0))
    model = build_model(cfg).eval()
    image = torch.randint(256, (3, 8, 8), dtype=torch.uint8)
    from mmpretrain.structures import DataSample

    values = []
    for step in range(5000):
        with torch.no_grad():
            model.test_step(dict(inputs=[image], data_samples=[DataSample()]))
        if step % 50 == 0:
            values.append(resident())
    growth = grown(values, 10)
    record_property('growth', growth)
    assert growth < 0.01, f'{growth:.2%}: {values}'


@pytest.mark.slow
def test_testing(tmp_path, record_property):
    """Five thousand batches; the metric keeps no results, of which mmpretrain's Accuracy keeps 2.4 kB an image."""
    config = write(tmp_path, 10, 0)
    cli.main('train', config, '--work-dir', tmp_path / 'run')
    Memory.found = {}
    text = config.read_text()
    data = f"dict(type='CustomDataset', data_root={str(tmp_path)!r}, data_prefix='train', pipeline=pipeline)"
    config.write_text(
        f"{text}\ntest_evaluator = dict(type='KeepsNothing')\n"
        'test_dataloader = dict(batch_size=1, num_workers=2, '
        f"dataset=dict(type='RepeatDataset', times=250, dataset={data}), "
        "sampler=dict(type='DefaultSampler', shuffle=False))\n"
    )
    cli.main('test', config, tmp_path / 'run' / 'epoch_1.pth', '--work-dir', tmp_path / 'run')
    values = Memory.found['test']
    assert len(values) == 100
    growth = grown(values, 10)
    record_property('growth', growth)
    assert growth < 0.01, f'{growth:.2%}: {values}'
