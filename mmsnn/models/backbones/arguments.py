"""Checks of arguments that all spiking backbones have; messages name ``backbone.KEY`` and the remedy."""

import logging
import re

from mmengine.logging import print_log
from mmengine.registry import DefaultScope

from mmsnn.checkpoints.loading import pretrained_from
from mmsnn.compat import RESNET_VARIANTS


def refuse_unknown(backbone: object, unknown: dict) -> None:
    """Raise TypeError naming all keys that a backbone does not take, and where they may come from."""
    if unknown:
        raise TypeError(
            f'{", ".join(f"backbone.{key}" for key in unknown)}: {type(backbone).__name__} has no such key. '
            'Inherited from the config of another backbone? Write backbone=dict(_delete_=True, ...)'
            + (', and model.pretrained=None, which mmseg hands on to the backbone' if 'pretrained' in unknown else '')
        )


def stage_indices(out_indices, stages: int) -> tuple[int, ...]:
    """``backbone.out_indices``, one number or several, as ascending numbers from 0.

    Raises:
        ValueError: there is no number, or one that is not a stage of the backbone.
    """
    given = [out_indices] if isinstance(out_indices, int) else list(out_indices)
    if not given or not all(-stages <= i < stages for i in given):
        raise ValueError(f'backbone.out_indices must name stages 0 to {stages - 1}, got {out_indices!r}')
    return tuple(sorted({i % stages for i in given}))


def default_stages(stages: int) -> tuple[int, ...]:
    """The default of ``backbone.out_indices``: all stages, but only the last one in a run of mmpretrain.

    mmpretrain's configs leave the key out, and heads and necks of its self-supervised models take one map.
    """
    scope = DefaultScope.get_current_instance()
    every = tuple(range(stages))
    return every[-1:] if scope is not None and scope.scope_name == 'mmpretrain' else every


def variant_of(checkpoint: str | None) -> dict:
    """``deep_stem`` and ``avg_down`` as the name of a ResNet's checkpoint (``open-mmlab://resnet50_v1c``) implies."""
    named = re.search(r'resnet(?:\d+_)?v1([cd])', checkpoint or '', re.IGNORECASE)
    return RESNET_VARIANTS[f'ResNetV1{named[1].lower()}'] if named else {}


def check_frozen_stages(frozen_stages: int, stages: int, init_cfg: dict | list | None) -> None:
    """Warn if stages are frozen that no checkpoint fills.

    Raises:
        ValueError: ``frozen_stages`` is larger than the number of stages, or below -1.
    """
    if not -1 <= frozen_stages <= stages:
        raise ValueError(f'backbone.frozen_stages must lie in -1 to {stages}, got {frozen_stages}')
    if frozen_stages >= 0 and not pretrained_from(init_cfg):
        print_log(
            f'backbone.frozen_stages={frozen_stages} freezes randomly initialised stages unless a checkpoint fills '
            'them: set frozen_stages=-1 to train from scratch',
            logger='current',
            level=logging.WARNING,
        )
