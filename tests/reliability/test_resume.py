"""R13, R14: a resumed training goes on as if it had not stopped, from the middle of an epoch, too; R07: it repeats."""

import shutil

import numpy as np
import pytest
import tiny
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmsnn.engine.loops import Place, PlacedBatches, SeededDataset

pytestmark = pytest.mark.row('R13')


class Augmented(tiny.Noise):
    """Noise, with more noise that is new every time."""

    def __getitem__(self, i: int) -> dict:
        item = super().__getitem__(i)
        image = item['inputs'] // 2 + torch.from_numpy(np.random.randint(0, 99, item['inputs'].shape).astype(np.uint8))
        return {**item, 'inputs': image}


class Losses(Hook):
    """Keeps the losses, and stops like a kill after so many iterations."""

    priority = 'LOWEST'

    def __init__(self, stop: int | None = None):
        self.stop, self.found = stop, {}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.found[runner.iter, runner.epoch] = {k: float(v) for k, v in outputs.items()}
        if runner.iter + 1 == self.stop:
            raise KeyboardInterrupt


def train(folder, loop, *, workers=0, stop=None, resume=False, sampler='DefaultSampler'):
    train_cfg = dict(type='mmsnn.EpochBasedTrainLoop', max_epochs=3, val_interval=2)
    if loop == 'iterations':
        train_cfg = dict(type='mmsnn.IterBasedTrainLoop', max_iters=12, val_interval=3)
    model = tiny.classifier(True)
    model['train_cfg'] = dict(augments=dict(type='Mixup', alpha=0.8))
    model['data_preprocessor']['num_classes'] = tiny.CLASSES
    loader = dict(batch_size=2, num_workers=workers, persistent_workers=workers > 0)
    runner = Runner(
        model=model,
        work_dir=str(folder),
        train_dataloader=dict(
            dataset=Augmented('mmpretrain', length=7), sampler=dict(type=sampler, shuffle=True), **loader
        ),
        val_dataloader=dict(dataset=tiny.Noise('mmpretrain', length=4), batch_size=2, num_workers=0,
                            sampler=dict(type='DefaultSampler', shuffle=False)),
        val_evaluator=dict(type='mmpretrain.Accuracy'),
        val_cfg=dict(),
        train_cfg=train_cfg,
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9)),
        param_scheduler=dict(type='CosineAnnealingLR', T_max=12, by_epoch=False),
        default_hooks=dict(
            checkpoint=dict(type='mmsnn.SafeCheckpointHook', by_epoch=False, interval=5, max_keep_ckpts=1)
        ),
        custom_hooks=[dict(type='EMAHook')],
        randomness=dict(seed=3),
        default_scope='mmpretrain',
        log_level='ERROR',
        experiment_name=f'{folder}{resume}',
        resume=resume,
    )  # fmt: skip
    losses = Losses(stop)
    runner.register_hook(losses)
    try:
        runner.train()
    except KeyboardInterrupt:
        assert stop
    return losses.found, runner


@pytest.mark.parametrize(
    'loop, sampler, workers',
    [
        ('epochs', 'DefaultSampler', (0, 0)),
        ('epochs', 'DefaultSampler', (2, 0)),
        ('iterations', 'InfiniteSampler', (0, 2)),
        ('iterations', 'DefaultSampler', (0, 0)),
    ],
)
def test_losses_after_a_stop(tmp_path, loop, sampler, workers):
    """With augmentation, mixup, an average of the weights, a schedule and a validation in between."""
    settings = dict(loop=loop, sampler=sampler)
    whole, runner = train(tmp_path / 'whole', **settings)
    before, _ = train(tmp_path / 'parted', workers=workers[0], stop=8, **settings)
    after, resumed = train(tmp_path / 'parted', workers=workers[1], resume=True, **settings)
    assert len(whole) == 12 and len(before) == 8
    assert before == {k: v for k, v in whole.items() if k[0] < 8}
    assert after == {k: v for k, v in whole.items() if k[0] >= 5}
    # what is random is random
    assert len({v['loss'] for v in whole.values()}) == 12
    for name, value in runner.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


@pytest.mark.row('R07')
@pytest.mark.parametrize('loop', ['epochs', 'iterations'])
def test_the_same_seed_twice(tmp_path, loop):
    one, other = (train(tmp_path / name, loop)[0] for name in 'ab')
    assert one == other


def test_batches_that_are_done_are_not_loaded():
    seen = []

    class Seen(tiny.Noise):
        def __getitem__(self, i):
            seen.append(i)
            return i

    batches = PlacedBatches([[0, 1], [2, 3], [4]])
    batches.done = 2
    data = SeededDataset(Seen('mmpretrain'), 1)
    assert [[data[i] for i in batch] for batch in batches] == [[4]] and seen == [4]
    assert len(list(batches)) == 3


def test_a_sample_has_random_numbers_of_its_own():
    data = SeededDataset(Augmented('mmpretrain'), 1)
    places = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]
    images = [data[Place(3, place)]['inputs'] for place in places]
    assert not any(torch.equal(a, b) for i, a in enumerate(images) for b in images[:i])
    assert torch.equal(data[Place(3, places[2])]['inputs'], images[2])
    assert not torch.equal(SeededDataset(Augmented('mmpretrain'), 2)[Place(3, places[0])]['inputs'], images[0])


def test_a_dataset_stays_what_it_is():
    """Hooks read and change datasets through the loader."""
    inner = tiny.Noise('mmpretrain')
    data = SeededDataset(inner, 1)
    data.task = 'other'
    assert inner.task == 'other' and data.metainfo is inner.metainfo and not hasattr(data, 'nothing')


@pytest.mark.row('R14')
def test_middle_of_an_epoch_without_an_order(tmp_path):
    """An iterable dataset has no batch to go on with."""
    _, runner = train(tmp_path, 'epochs', stop=6)
    shutil.rmtree(tmp_path)
    loop = runner.train_loop
    loop._epoch, loop._iter = 0, 2
    loop.dataloader = torch.utils.data.DataLoader(tiny.Noise('mmpretrain'), batch_size=2)
    with pytest.raises(ValueError, match='2 iterations behind the beginning of epoch 1'):
        loop.run_epoch()
