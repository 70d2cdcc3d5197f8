"""Batch norm modules as arguments of `mmsnn.ops.bn_lif`."""

import torch.distributed as dist
from mmengine.model.utils import _BatchNormXd
from torch import Tensor, nn
from torch.nn import functional as F

from mmsnn.layers.norm import TDBN

# mmengine replaces SyncBN in a single process by the last one.
FUSABLE = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, TDBN, _BatchNormXd)


def norm_arguments(norm: nn.Module) -> dict:
    """The arguments of `mmsnn.ops.bn_lif` that describe ``norm``; see `count_batch` for its counter."""
    momentum = norm.momentum
    batch = norm.training or norm.running_mean is None
    if norm.training and momentum is None and norm.num_batches_tracked is not None:
        momentum = 1.0 / (float(norm.num_batches_tracked) + 1)
    group = None
    if isinstance(norm, nn.SyncBatchNorm) and batch and norm.training and dist.is_available() and dist.is_initialized():
        group = norm.process_group or dist.group.WORLD
        group = group if dist.get_world_size(group) > 1 else None
    tracked = not batch or norm.track_running_stats
    return dict(
        running_mean=norm.running_mean if tracked else None,
        running_var=norm.running_var if tracked else None,
        weight=norm.weight,
        bias=norm.bias,
        training=batch,
        momentum=0.0 if momentum is None else momentum,
        eps=norm.eps,
        group=group,
    )


def count_batch(norm: nn.Module) -> None:
    """Increase the number of batches that ``norm`` has seen in training, as its own forward does."""
    if norm.training and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)


def normalised(norm: nn.Module, x: Tensor) -> Tensor:
    """The output of ``norm`` for ``x`` inside a preceding call of `mmsnn.ops.bn_lif`, without updating statistics.

    Raises:
        NotImplementedError: the statistics are shared by several processes.
    """
    given = norm_arguments(norm)
    if given['group'] is not None:
        raise NotImplementedError(
            'the statistics of a SyncBatchNorm in training belong to several processes, and are not computed twice: '
            'set fuse_norm=False in the neuron that follows it'
        )
    mean, var = (None, None) if given['training'] else (given['running_mean'], given['running_var'])
    return F.batch_norm(x, mean, var, given['weight'], given['bias'], given['training'], 0.0, given['eps'])
