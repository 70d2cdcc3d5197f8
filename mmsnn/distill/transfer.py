"""Level 1 of SAKD: an SNN starts from the weights of the ANN of the same architecture, nothing rescaled."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from mmengine.logging import print_log
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from mmsnn.engine.checkpoint import find_state, load_state
from mmsnn.neurons import Neuron

# entries of a state dict that count calls and are no weights
COUNTERS = ('num_batches_tracked', '_extra_state')


@dataclass
class TransferReport:
    """What `transfer_weights` copied and what it did not; names are the SNN's, in ``unused`` the ANN's."""

    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    mismatched: dict[str, tuple] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f'{len(self.matched)} tensors match, {len(self.missing) + len(self.mismatched)} do not']
        differing = [f'{k} (source {a}, model {b})' for k, (a, b) in self.mismatched.items()]
        groups = [
            ('not in the source', self.missing),
            ('shape differs', differing),
            ('unused in the source', self.unused),
        ]
        for what, names in groups:
            if names:
                more = f' and {len(names) - 8} more' if len(names) > 8 else ''
                lines.append(f'  {what}: {", ".join(names[:8])}{more}')
        return '\n'.join(lines)


def canonical(key: str) -> str:
    """One name for a tensor in the layouts of torchvision, timm and the OpenMMLab libraries."""
    key = key.removeprefix('module.').removeprefix('backbone.')
    return key.replace('head.fc.', 'fc.', 1) if key.startswith('head.fc.') else key


def transfer_weights(
    ann_state: Mapping | nn.Module | str | Path,
    snn_model: nn.Module,
    scope: str | None = None,
    min_match: float = 0.9,
    neurons: bool = False,
    verbose: bool = True,
) -> TransferReport:
    """Copy every same-named tensor of an ANN (convolutions, norms with their statistics, linear layers) into an SNN.

    Args:
        ann_state: a model, its state dict, a checkpoint's content, or where to load one from (a file, a URL,
            ``torchvision://resnet34``, ``timm://resnet34``).
        snn_model: changed in place; a whole task model or a bare backbone.
        scope: copy only what lies below this module of ``snn_model``, e.g. ``backbone``.
        min_match: smallest share of the tensors outside the backbone that must match.
        neurons: whether what neurons learn (PLIF) is copied, too: for a source that is spiking itself.
        verbose: log the report.

    Returns:
        What matched and what did not.

    Raises:
        ValueError: a convolution or norm of the backbone has no match, the source has more of them in the same stages,
            or fewer than ``min_match`` of the rest match; nothing is copied then.
    """
    if isinstance(ann_state, (str, Path)):
        ann_state = load_state(ann_state)
    elif isinstance(ann_state, nn.Module):
        ann_state = ann_state.state_dict()
    source = {canonical(k): (k, v) for k, v in find_state(ann_state, 'the given ANN state').items()}

    modules = dict(snn_model.named_modules())
    if scope is not None and scope not in modules:
        raise ValueError(f"transfer.scope={scope!r} names no module of {type(snn_model).__name__}; try 'backbone'")
    whole = 'backbone' not in modules
    strict, learned = set(), set()
    for name, module in modules.items():
        names = {f'{name}.{k}' if name else k for k in module.state_dict()}
        if isinstance(module, Neuron):
            learned |= set() if neurons else names
        elif isinstance(module, (_ConvNd, _NormBase, nn.GroupNorm, nn.LayerNorm)):
            strict |= {k for k in names if whole or k.startswith('backbone.')}

    target = {k: v for k, v in snn_model.state_dict().items() if scope is None or k.startswith(f'{scope}.')}
    report, copies, used = TransferReport(), [], set()
    for name, tensor in target.items():
        found = source.get(canonical(name))
        if name in learned:
            continue
        if found is None:
            if not name.endswith(COUNTERS):
                report.missing.append(name)
        elif found[1].shape != tensor.shape:
            report.mismatched[name] = tuple(found[1].shape), tuple(tensor.shape)
        else:
            report.matched.append(name)
            used.add(found[0])
            copies.append((tensor, found[1]))
    report.unused = [k for k, _ in source.values() if k not in used]

    lost = [k for k in (*report.missing, *report.mismatched) if k in strict]
    counted = [k for k in target if k not in strict and k not in learned and not k.endswith(COUNTERS)]
    share = sum(k in set(report.matched) for k in counted) / len(counted) if counted else 1.0
    if lost or not copies:
        raise ValueError(
            f'weight transfer refused: {len(lost)} tensors of convolutions and norms of the backbone have no '
            f'counterpart (first: {lost[:3]}). Is the teacher of the same architecture (depth, base_channels, stem)? '
            f'Otherwise set transfer=False.\n{report}'
        )
    # a deeper ANN has all the names of a shallower SNN, and more blocks in the same stages
    stages = {canonical(k).split('.')[0] for k in report.matched if k in strict}
    deeper = [k for k, v in source.values() if k not in used and v.dim() == 4 and canonical(k).split('.')[0] in stages]
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
        for tensor, value in copies:
            tensor.copy_(value)
    if verbose:
        print_log(f'weight transfer: {report}', logger='current', level=logging.INFO)
    return report
