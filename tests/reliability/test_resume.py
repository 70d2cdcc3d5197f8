"""R13, R14: a resumed training goes on as if it had not stopped, from the middle of an epoch, too; R07: it repeats."""

import cli
import numpy as np
import pytest
import tiny
import torch
from losses import Losses

from mmsnn.engine.loops import EpochBasedTrainLoop
from mmsnn.engine.resuming import newest_whole
from mmsnn.engine.seeding import Place, PlacedBatches, SeededDataset

pytestmark = pytest.mark.row('R13')


class Augmented(tiny.Noise):
    """Noise, with more noise that is new every time."""

    def __getitem__(self, i: int) -> dict:
        item = super().__getitem__(i)
        image = item['inputs'] // 2 + torch.from_numpy(np.random.randint(0, 99, item['inputs'].shape).astype(np.uint8))
        return {**item, 'inputs': image}


CLASSIFIER = """
_base_ = 'classifier.py'
model = dict(
    head=dict(_delete_=True, type='StackedLinearClsHead', num_classes=5, in_channels=64, mid_channels=[16],
              dropout_rate=0.3, act_cfg=dict(type='ReLU')),
    data_preprocessor=dict(num_classes=5), train_cfg=dict(augments=dict(type='Mixup', alpha=0.8)))
train_dataloader = dict(dataset=dict(pipeline=[
    dict(type='LoadImageFromFile'), dict(type='RandomResizedCrop', scale=32), dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs')]))
val_dataloader = dict(
    batch_size=4, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='CustomDataset', data_root={root!r}, data_prefix='train', pipeline={{{{_base_.pipeline}}}}))
val_cfg = dict()
val_evaluator = dict(type='Accuracy', topk=(1,))
"""
DETECTOR = """
_base_ = 'detector.py'
model = dict(
    _delete_=True, type='mmsnn.Distiller', student=_base_.model, teacher=_base_.model,
    losses=dict(loss_feature=dict(
        type='FeatureMSE', student='backbone.layer4', teacher='backbone.layer4', connector=dict(type='ConvBN'),
        weight=dict(kind='linear', by='iter', values=[0.0, 1.0], milestones=[0, 12]))))
train_dataloader = dict(dataset=dict(pipeline=[
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomResize', scale=[(48, 48), (64, 64)], keep_ratio=False), dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs')]))
custom_hooks = [dict(type='mmsnn.DistillHook')]
"""
RUN = """
train_dataloader.update(batch_size=2, num_workers={workers}, persistent_workers={workers} > 0)
custom_hooks = globals().get('custom_hooks', []) + [
    dict(type='EMAHook'), dict(type='losses.Losses', stop={stop})]
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=5, max_keep_ckpts=1))
param_scheduler = dict(type='CosineAnnealingLR', T_max=12, by_epoch=False)
optim_wrapper = dict({optim})
"""
BY = dict(
    epochs='train_cfg = dict(max_epochs=MAX // 4, val_interval=2)\n',
    iterations='train_cfg = dict(_delete_=True, by_epoch=False, max_iters=MAX, val_interval=3)\n',
    endless="train_dataloader['sampler'] = dict(type='InfiniteSampler', shuffle=True)\n"
    'train_cfg = dict(_delete_=True, by_epoch=False, max_iters=MAX, val_interval=3)\n',
)
SGD = "optimizer=dict(type='SGD', lr=0.01, momentum=0.9)"
SCALED = "type='losses.ScaledOnCPU'"


class Trainings:
    """Trainings of one folder through the command line, in this process."""

    def __init__(self, folder):
        self.folder, self.whole = folder, {}
        cli.write_classifier(folder)
        cli.write_detector(folder, images=8)

    def train(self, work, task, loop, *options, workers=0, stop=0, steps=12, optim=SGD) -> tuple[dict, dict]:
        """The losses by iteration and epoch, and the last checkpoint."""
        text = dict(classifier=CLASSIFIER.format(root=str(self.folder)), detector=DETECTOR)[task]
        text += RUN.format(workers=workers, stop=stop, optim=optim) + BY[loop].replace('MAX', str(steps))
        config = self.folder / f'{work}.py'
        config.write_text(text)
        try:
            cli.main('train', config, '--work-dir', self.folder / work, *options)
        except KeyboardInterrupt:
            assert stop
        return Losses.found, newest_whole(self.folder / work)[1]

    def undisturbed(self, task, loop, optim) -> tuple[dict, dict]:
        """Without a stop; once for each."""
        key = task, loop, optim
        if key not in self.whole:
            self.whole[key] = self.train(f'whole_{len(self.whole)}', task, loop, optim=optim)
        return self.whole[key]


@pytest.fixture(scope='module')
def trainings(tmp_path_factory):
    return Trainings(tmp_path_factory.mktemp('trainings'))


@pytest.mark.parametrize(
    'task, loop, before, after, optim',
    [
        ('classifier', 'epochs', 0, 0, SGD),
        ('classifier', 'epochs', 2, 0, SGD),
        ('classifier', 'iterations', 0, 2, SGD),
        ('classifier', 'endless', 0, 0, SGD),
        ('classifier', 'epochs', 0, 0, SCALED),
        ('detector', 'epochs', 2, 2, SGD),
        ('detector', 'epochs', 0, 2, SGD),
        ('detector', 'iterations', 0, 0, SGD),
        ('detector', 'iterations', 2, 2, SGD),
    ],
)
def test_losses_after_a_stop(trainings, task, loop, before, after, optim):
    """As the undisturbed training's, and so are the weights, their averages and the optimizer's state.

    The classifier has mixup, dropout and validations in between, the detector is distilled, the weight of its term
    grows with every iteration, and its teacher is random: seeded by the checkpoint. Augmented and averaged are both.
    """
    work = 'parted_' + '_'.join(map(str, (task, loop, before, after, len(optim))))
    whole, expected = trainings.undisturbed(task, loop, optim)
    first, _ = trainings.train(work, task, loop, workers=before, stop=8, optim=optim)
    second, found = trainings.train(work, task, loop, '--resume', workers=after, optim=optim)
    assert len(whole) == 12 and len(first) == 8
    assert first == {k: v for k, v in whole.items() if k[0] < 8}
    assert second == {k: v for k, v in whole.items() if k[0] >= 5}
    # what is random is random
    assert len({v['loss'] for v in whole.values()}) == 12
    if optim is SCALED:
        assert len({v['scale'] for v in whole.values()}) > 5
    for kind in ('state_dict', 'ema_state_dict', 'optimizer'):
        assert_same(found[kind], expected[kind], kind)


def assert_same(found, expected, name: str) -> None:
    assert type(found) is type(expected), name
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), name
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), name
        for key, value in expected.items():
            assert_same(found[key], value, f'{name}.{key}')
    elif isinstance(expected, list):
        assert len(found) == len(expected), name
        for i, value in enumerate(expected):
            assert_same(found[i], value, f'{name}.{i}')
    else:
        assert found == expected, name


@pytest.mark.row('R07')
@pytest.mark.parametrize('task, loop', [('classifier', 'epochs'), ('detector', 'iterations')])
def test_the_same_seed_twice(trainings, task, loop):
    one, other = (trainings.train(f'{name}_{task}', task, loop, steps=20) for name in 'ab')
    assert one[0] == other[0] and len(one[0]) == 20
    assert_same(one[1]['state_dict'], other[1]['state_dict'], 'state_dict')


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


class Stream(torch.utils.data.IterableDataset):
    """Samples one after the other."""

    metainfo = tiny.Noise.metainfo

    def __len__(self):
        return 8

    def __iter__(self):
        return iter(tiny.Noise('mmpretrain'))


@pytest.mark.row('R14')
def test_middle_of_an_epoch_without_an_order(tmp_path):
    """An iterable dataset has no batch to go on with."""
    built = tiny.runner(tiny.classifier(True), 'mmpretrain', tmp_path)
    loader = torch.utils.data.DataLoader(Stream(), batch_size=2, collate_fn=lambda items: items)
    loop = EpochBasedTrainLoop(built, loader, max_epochs=2)
    assert len(next(iter(loop.dataloader))) == 2
    loop._iter = 2
    with pytest.raises(ValueError, match='2 iterations after the beginning of epoch 1'):
        loop.run_epoch()


@pytest.mark.row('R14')
def test_middle_of_an_epoch(trainings):
    """Goes on with the next batch of that epoch: no iteration is made twice, and none is left out."""
    trainings.train('middle', 'classifier', 'epochs', stop=8)
    found, _ = trainings.train('middle', 'classifier', 'epochs', '--resume')
    assert list(found) == [(5, 1), (6, 1), (7, 1), *((i, 2) for i in range(8, 12))]
