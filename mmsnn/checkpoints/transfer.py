"""Level 1 of SAKD: an SNN starts from the weights of an ANN of the same architecture, without rescaling them."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from mmengine.logging import print_log
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from mmsnn.checkpoints.fitting import match
from mmsnn.checkpoints.matching import COUNTERS, Match, learned_by_neurons
from mmsnn.checkpoints.reading import find_state, load_state


class TransferReport(Match):
    """The result of `transfer_weights`; names are the SNN's, and those in ``unused`` are the ANN's."""


def _remedy(report: TransferReport) -> str:
    """The remedy for a refused transfer; it names the keys by which ResNetV1c and ResNetV1d differ, where they do."""
    wanted, spare = (*report.missing, *report.mismatched), report.unused

    def other(ours: str, theirs: str) -> bool:
        return any(re.search(ours, k) for k in wanted) and any(re.search(theirs, k) for k in spare)

    stems = r'^(backbone\.)?conv1\.weight', r'^(backbone\.)?stem\.0\.weight'
    # With pooling, the norm of a shortcut has the index 2 instead of 1.
    shortcuts = r'downsample\.1\.running_mean', r'downsample\.2\.running_mean'
    keys = [
        f'backbone.{key}={value}'
        for key, names in dict(deep_stem=stems, avg_down=shortcuts).items()
        for value, (ours, theirs) in {True: names, False: names[::-1]}.items()
        if other(ours, theirs)
    ]
    if keys:
        return (
            'The source has another stem or other shortcuts (a ResNetV1c has deep_stem, and a ResNetV1d also has '
            f'avg_down): set {" and ".join(keys)} in the student, or transfer=False.'
        )
    return 'Does the teacher have the same architecture (depth, base_channels, stem)? Otherwise set transfer=False.'


def transfer_weights(
    ann_state: Mapping | nn.Module | str | Path,
    snn_model: nn.Module,
    scope: str | None = None,
    min_match: float = 0.9,
    verbose: bool = True,
) -> TransferReport:
    """Copy the tensors of an ANN (convolutions, norms with their statistics, linear layers) into an SNN, by name.

    Args:
        ann_state: a model, its state dict, the content of a checkpoint, or its source (a file, a URL,
            ``torchvision://resnet34``, ``timm://resnet34``).
        snn_model: a whole task model or a backbone, which is changed in place.
        scope: name of a module of ``snn_model``, e.g. ``backbone``; only its tensors are copied.
        min_match: smallest share of the tensors outside of the backbone that must match.
        verbose: whether to log the report.

    Returns:
        The tensors that were copied and those that were not.

    Raises:
        ValueError: a convolution or norm of the backbone has no counterpart, the source has more convolutions in the
            same stages, or less than ``min_match`` of the other tensors match. Nothing is copied then.
    """
    if isinstance(ann_state, (str, Path)):
        ann_state = load_state(ann_state)
    elif isinstance(ann_state, nn.Module):
        ann_state = ann_state.state_dict()
    ann_state = find_state(ann_state, 'the given ANN state')
    modules = dict(snn_model.named_modules())
    if scope is not None and scope not in modules:
        raise ValueError(f"transfer.scope={scope!r} names no module of {type(snn_model).__name__}; try 'backbone'")
    whole = 'backbone' not in modules
    strict = set()
    for name, module in modules.items():
        if isinstance(module, (_ConvNd, _NormBase, nn.GroupNorm, nn.LayerNorm)):
            names = {f'{name}.{k}' if name else k for k in module.state_dict()}
            strict |= {k for k in names if whole or k.startswith('backbone.')}

    own = snn_model.state_dict()
    best = match(ann_state, snn_model, own)
    learned = learned_by_neurons(snn_model)
    target = {k: v for k, v in own.items() if k not in learned and (scope is None or k.startswith(f'{scope}.'))}
    report = TransferReport(
        matched=[k for k in best.matched if k in target],
        missing=[k for k in best.missing if k in target],
        mismatched={k: shapes for k, shapes in best.mismatched.items() if k in target},
        state=best.state,
        reading=best.reading,
    )
    report.unused = [k for k in best.state if k not in report.matched]

    lost = [k for k in (*report.missing, *report.mismatched) if k in strict]
    counted = [k for k in target if k not in strict and not k.endswith(COUNTERS)]
    share = sum(k in set(report.matched) for k in counted) / len(counted) if counted else 1.0
    if lost or not report.matched:
        raise ValueError(
            f'weight transfer refused: {len(lost)} tensors of convolutions and norms of the backbone have no '
            f'counterpart (first: {lost[:3]}). {_remedy(report)}\n{report}'
        )
    # A deeper ANN has all names of a shallower SNN, and more blocks in the same stages.
    stages = {_stage(k) for k in report.matched if k in strict}
    deeper = [k for k in best.unused if best.state[k].dim() == 4 and _stage(k) in stages]
    if deeper:
        raise ValueError(
            f'weight transfer refused: the source has {len(deeper)} more convolutions in the stages of the backbone '
            f'(first: {deeper[:3]}), so it is a deeper network. Take a teacher of equal depth, or set transfer=False.'
            f'\n{report}'
        )
    if share < min_match:
        raise ValueError(
            f'weight transfer refused: only {share:.0%} of the tensors outside the backbone match, {min_match:.0%} are '
            f"needed. Set transfer=dict(scope='backbone') to copy the backbone alone.\n{report}"
        )
    with torch.no_grad():
        for name in report.matched:
            own[name].copy_(best.state[name])
    if verbose:
        print_log(f'weight transfer: {report}', logger='current', level=logging.INFO)
    return report


def _stage(name: str) -> str:
    return name.removeprefix('backbone.').split('.')[0]
