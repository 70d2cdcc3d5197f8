"""The learning rates of the spiking transformers, against timm's formula."""

import copy
import math
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import PARAM_SCHEDULERS

from mmsnn.engine.schedulers import TimmCosineLR

CONFIGS = Path(__file__).parents[2] / 'configs'
# config: epochs of the cosine and of warm-up, first rate and peak, as the releases' command lines and files say
RELEASED = {
    'spiking/spikformer_8-768_imagenet.py': (300, 20, 1e-6, 5e-4),
    'spiking/spikingformer_8-768_imagenet.py': (300, 20, 1e-6, 3.5e-4),
    'bkd/spikingformer_8-768_imagenet.py': (300, 20, 1e-6, 3.5e-4),
    'spiking/spikformer_4-384_cifar100.py': (300, 20, 1e-5, 5e-4),
    'bkd/spikingformer_4-384_cifar100.py': (400, 20, 1e-5, 5e-4),
    'spiking/spikformer_2-256_cifar10_dvs.py': (96, 10, 1e-5, 1e-3),
}


def timm(epoch, cycle, warmup, first, peak, last=1e-5):
    """CosineLRScheduler of timm 0.5 without ``warmup_prefix``, one cycle."""
    if epoch < warmup:
        return first + epoch * (peak - first) / warmup
    if epoch >= cycle:
        return last
    return last + 0.5 * (peak - last) * (1 + math.cos(math.pi * epoch / cycle))


def optimizer(*rates):
    return torch.optim.SGD([dict(params=[torch.nn.Parameter(torch.ones(1))], lr=lr) for lr in rates])


def walk(schedulers, steps):
    """The rates of all groups at every step."""
    sgd, found = schedulers[0].optimizer, []
    for _ in range(steps):
        found.append([group['lr'] for group in sgd.param_groups])
        sgd.step()
        for scheduler in schedulers:
            scheduler.step()
    return found


@pytest.mark.parametrize('name', RELEASED)
def test_configs_are_timm(name):
    cfg = Config.fromfile(CONFIGS / name)
    cycle, warmup, first, peak = RELEASED[name]
    assert cfg.optim_wrapper.optimizer.lr == peak and cfg.train_cfg.max_epochs == cycle + 10
    sgd = optimizer(peak)
    entries = cfg.param_scheduler if isinstance(cfg.param_scheduler, list) else [cfg.param_scheduler]
    assert not any(entry.get('convert_to_iter_based') for entry in entries)
    schedulers = [PARAM_SCHEDULERS.build(dict(copy.deepcopy(entry), optimizer=sgd)) for entry in entries]
    expected = [timm(epoch, *RELEASED[name]) for epoch in range(cycle + 10)]
    assert [lr for (lr,) in walk(schedulers, cycle + 10)] == pytest.approx(expected, rel=1e-9)


def test_groups_and_resuming():
    rates = [1.0, 0.1]
    whole = walk([TimmCosineLR(optimizer(*rates), T_max=12, eta_min=1e-3, warmup=3, warmup_start=1e-2)], 15)
    for i, peak in enumerate(rates):
        assert [lrs[i] for lrs in whole] == pytest.approx([timm(t, 12, 3, 1e-2, peak, 1e-3) for t in range(15)])
    first = TimmCosineLR(optimizer(*rates), T_max=12, eta_min=1e-3, warmup=3, warmup_start=1e-2)
    walk([first], 7)
    resumed = TimmCosineLR(optimizer(*rates), T_max=12, eta_min=1e-3, warmup=3, warmup_start=1e-2)
    resumed.load_state_dict(first.state_dict())
    resumed.step()
    assert [group['lr'] for group in resumed.optimizer.param_groups] == whole[8]


def test_in_iterations():
    settings = dict(T_max=12, eta_min=1e-3, warmup=3, warmup_start=1e-2)
    by_epoch = walk([TimmCosineLR(optimizer(1.0), **settings)], 14)
    converted = TimmCosineLR.build_iter_from_epoch(optimizer(1.0), **settings, by_epoch=True, epoch_length=5)
    assert not converted.by_epoch
    assert [lr for (lr,) in walk([converted], 70)[::5]] == pytest.approx([lr for (lr,) in by_epoch])


def test_warmup_must_fit():
    for warmup in (-1, 12):
        with pytest.raises(ValueError, match=f'param_scheduler.warmup must lie in 0 to T_max=12, got {warmup}'):
            TimmCosineLR(optimizer(1.0), T_max=12, warmup=warmup)
