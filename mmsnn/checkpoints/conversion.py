"""Converting checkpoints of other codebases to the names of mmsnn and OpenMMLab: ``backbone.*``, ``head.fc.*``."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from mmsnn.listing import some

from .layouts import Layout, find_layout
from .matching import Match, compare, plain_name


@dataclass
class ConversionReport:
    """The report of `convert_state`. Names are mmsnn's; those in ``spare`` and ``unused`` are the source's.

    Attributes:
        layout: the layout of the source.
        names: by new name, the name in the source.
        reshaped: shapes before and after, for weights that became those of 1x1 convolutions.
        merged: tensors that are the mean of two tensors of the source.
        folded: biases that were merged into running means.
        added: biases of 0 that only mmsnn has.
        spare: entries that are known to have no use.
        unused: entries that the layout does not know.
        fit: how the result fits a model; None if it was not compared with one.
    """

    layout: Layout
    names: dict[str, str] = field(default_factory=dict)
    reshaped: dict[str, tuple] = field(default_factory=dict)
    merged: list[str] = field(default_factory=list)
    folded: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    spare: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    fit: Match | None = None

    def __str__(self) -> str:
        renamed = sum(not name.endswith(key) for name, key in self.names.items())
        lines = [f'layout {self.layout.name} ({self.layout.about}): {len(self.names)} tensors, {renamed} renamed']
        groups = [
            ('reshaped', [f'{k} {a} to {b}' for k, (a, b) in self.reshaped.items()]),
            ('mean of two heads', self.merged),
            ('biases folded into running means', self.folded),
            ('biases that are 0', self.added),
            ('of no use', self.spare),
            ('unknown and left out', self.unused),
        ]
        for what, names in groups:
            if names:
                lines.append(f'  {what}: {len(names)} ({some(names)})')
        if self.layout.remark:
            lines.append(f'  the config needs: {self.layout.remark}')
        if self.layout.caution:
            lines.append(f'  beware: {self.layout.caution}')
        if self.fit is not None:
            lines.append(f'against the config: {self.fit}')
        return '\n'.join(lines)


def convert_state(state: Mapping[str, Tensor], layout: str | None = None) -> tuple[dict[str, Tensor], ConversionReport]:
    """A state dict under mmsnn's names, ready for a task model with a ``backbone`` and a ``head``.

    Linear layers and 1-d convolutions of tokens (``[C', C]``, ``[C', C, 1]``) become 1x1 convolutions. A tensor that
    holds q, k and v together is split. Spike-driven Transformer V2 may have a second head, with which its release
    averages predictions; the converted head is then the mean of both.

    Args:
        state: a state dict, as from `load_state`; parts of names that DDP, ``torch.compile`` and FSDP add are dropped.
        layout: name of one of ``LAYOUTS``; None detects it.

    Raises:
        ValueError: the layout is unknown, the state has no backbone of this layout, or two entries get the same name.
    """
    state = {plain_name(key): value for key, value in state.items()}
    report = ConversionReport(find_layout(state, layout))
    converted: dict[str, Tensor] = {}
    for key, value in state.items():
        if re.search(report.layout.spare, key):
            report.spare.append(key)
            continue
        renamed = key if report.layout.name == 'openmmlab' else report.layout.rename(key)
        if renamed is None:
            report.unused.append(key)
            continue
        for name, part in _parts(renamed, value):
            if name in converted:
                raise ValueError(f'{key} and {report.names[name]} would both be {name}: is the layout right?')
            if name.endswith('_conv.weight') and part.dim() in (2, 3) and part.shape[2:].numel() == 1:
                report.reshaped[name] = tuple(part.shape), (*part.shape[:2], 1, 1)
                part = part.reshape(*part.shape[:2], 1, 1)
            converted[name], report.names[name] = part, key
    _merge_heads(state, converted, report)
    _fit_biases(converted, report)
    if not any(name.startswith('backbone.') for name in converted):
        raise ValueError(f'nothing in it is a backbone of layout {report.layout.name}: {", ".join(list(state)[:3])}')
    return converted, report


def _merge_heads(state: Mapping, converted: dict, report: ConversionReport) -> None:
    for what in ('weight', 'bias'):
        name, second = f'head.fc.{what}', f'head_kd.{what}'
        if second in report.unused and name in converted:
            converted[name] = (converted[name] + state[second]) / 2
            report.merged.append(name)
            report.unused.remove(second)


def _parts(name: str, value: Tensor) -> list[tuple[str, Tensor]]:
    """Split ``value`` among the names in braces: ``{q,k,v}_conv`` gives thirds of it; all get the same counters."""
    braces = re.search(r'\{(.*?)\}', name)
    if braces is None:
        return [(name, value)]
    names = braces[1].split(',')
    values = value.chunk(len(names)) if value.dim() else [value] * len(names)
    return [(name.replace(braces[0], n), v.clone()) for n, v in zip(names, values, strict=True)]


def _fit_biases(converted: dict, report: ConversionReport) -> None:
    for name in [name for name in converted if re.search(report.layout.fold, name)]:
        mean = name.replace('_conv.bias', '_bn.running_mean')
        converted[mean] = converted[mean] - converted.pop(name)
        report.folded.append(name)
        del report.names[name]
    for name in [name for name in converted if re.search(report.layout.zero_bias, name)]:
        bias = name.replace('.weight', '.bias')
        converted[bias] = converted[name].new_zeros(len(converted[name]))
        report.added.append(bias)


def check_fit(state: Mapping[str, Tensor], model: nn.Module) -> Match:
    """Compare a converted state dict with a task model. Heads may differ, backbones must agree.

    Raises:
        ValueError: an entry of the backbone is missing, has another shape, or does not exist in the model.
    """
    report = compare(state, model.state_dict())
    differing = [k for k in (*report.missing, *report.mismatched, *report.unused) if k.startswith('backbone.')]
    if differing:
        raise ValueError(
            f'{len(differing)} entries of the backbone do not fit {type(model).__name__}: is the config that of the '
            f"source (depth or arch, stem, widths, the neuron's type)?\n{report}"
        )
    return report
