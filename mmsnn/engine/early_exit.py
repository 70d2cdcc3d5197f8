"""Early exit: inference step by step, in which an image leaves as soon as its class is certain enough."""

from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mmsnn.layers import Readout, TimeAware, get_time_steps, set_time_steps
from mmsnn.layers.coding import PoissonEncoder
from mmsnn.neurons import ILIF, Neuron


class EarlyExit:
    """A classifier that runs further time steps only for images whose class is not yet certain.

    The network runs one time step at a time, and membrane potentials carry over from one step to the next. After each
    step the head gets the mean of the backbone's outputs so far; an image whose largest score reaches ``confidence``
    leaves the batch with its prediction. Images that are left after T steps get the prediction of all T steps. The stem
    of a static image, which otherwise runs once, is computed again at every step.

    This follows SEENN (Li et al., NeurIPS 2023) and DT-SNN (Li et al., DAC 2023), with the largest score as confidence.

    Args:
        model: an mmpretrain classifier with a spiking backbone.
        confidence: score from which on an image leaves, between 0 and 1; above 1 no image leaves early.

    Attributes:
        steps: number of time steps of each image so far, in the order of the predictions.

    Raises:
        ValueError: the model is not a classifier, or has layers whose steps cannot be run one by one.
    """

    def __init__(self, model: nn.Module, confidence: float):
        self.model, self.confidence = model, confidence
        self.T = get_time_steps(model)
        self.steps: list[int] = []
        check(model)

    @torch.no_grad()
    def test_step(self, data: dict) -> list:
        """As the model's ``test_step``: the data samples of a batch with their predictions."""
        data = self.model.data_preprocessor(data, False)
        images, samples = data['inputs'], data.get('data_samples')
        left = torch.arange(len(images))
        results, total = [None] * len(images), None
        with stepwise(self.model) as membranes:
            for t in range(1, self.T + 1):
                # Event frames have an image for every step.
                outs = self.model.backbone(images[:, t - 1 : t] if images.dim() == 5 else images)
                total = outs if total is None else tuple(a + b for a, b in zip(total, outs, strict=True))
                answers = self._answer(tuple(x / t for x in total), [samples[i] for i in left] if samples else None)
                sure = torch.tensor([bool(a.pred_score.max() >= self.confidence) or t == self.T for a in answers])
                for i, answer, leaves in zip(left.tolist(), answers, sure.tolist(), strict=True):
                    if leaves:
                        results[i] = answer, t
                if sure.all():
                    break
                keep = (~sure).to(images.device)
                left, images, total = left[~sure], images[keep], tuple(x[keep] for x in total)
                membranes.keep(keep)
        self.steps += [t for _, t in results]
        return [answer for answer, _ in results]

    def _answer(self, feats: tuple[Tensor, ...], samples: list | None) -> list:
        if self.model.with_neck:
            feats = self.model.neck(feats)
        return self.model.head.predict(feats, samples)


def check(model: nn.Module) -> None:
    """Raise ValueError unless ``model`` is a classifier whose time steps can be run one by one."""
    head = getattr(model, 'head', None)
    if not hasattr(head, 'predict') or not hasattr(model, 'backbone') or hasattr(model, 'bbox_head'):
        raise ValueError(
            f'--exit-confidence: {type(model).__name__} is not a classifier. Boxes and pixels of one image become '
            'certain at different times, so detectors and segmentors run all time steps; --T 1 2 4 compares numbers of '
            'steps'
        )
    reason = None
    for name, module in model.named_modules():
        outside = isinstance(module, TimeAware) and not name.startswith('backbone')
        if getattr(module, 'mixes_time', False):
            reason = f'{name} ({type(module).__name__}) mixes time steps'
        elif isinstance(module, PoissonEncoder):
            reason = f'{name} draws the spikes of all steps at once'
        elif isinstance(module, Readout) and module.mode != 'mean':
            reason = f"{name} has mode={module.mode!r}: the mean over time is read (readout='mean')"
        elif isinstance(module, ILIF) and module.expanded:
            reason = f'{name} runs in micro-steps (expand_levels)'
        elif outside:
            reason = f'{name} ({type(module).__name__}) runs in time outside of the backbone'
        if reason:
            raise ValueError(f'--exit-confidence: the steps of this network cannot be run one by one, {reason}')
    if not any(isinstance(m, Neuron) for m in model.modules()):
        raise ValueError('--exit-confidence: this network has no spiking neurons, and so no time steps to save')


class Membranes:
    """The membrane potentials of all neurons between two time steps, in the order of their calls."""

    def __init__(self):
        self.before: dict[Neuron, list[Tensor]] = {}
        self.now: dict[Neuron, list[Tensor]] = {}

    def step(self) -> None:
        """Begin the next time step."""
        self.before, self.now = self.now, {}

    def keep(self, rows: Tensor) -> None:
        """Keep only some images of the batch."""
        self.now = {m: [_rows(v, rows) for v in potentials] for m, potentials in self.now.items()}

    def fire(self, neuron: Neuron, forward, x: Tensor, norm: nn.Module | None = None) -> Tensor:
        """Run one time step of ``neuron`` from its last membrane potential."""
        potentials = self.now.setdefault(neuron, [])
        before = self.before.get(neuron)
        spikes, v = forward(x, v_init=before[len(potentials)] if before else None, return_v=True, norm=norm)
        potentials.append(v)
        return spikes


def _rows(v: Tensor, rows: Tensor) -> Tensor:
    # A neuron may have several rows per image, for instance windows of an attention.
    each = v.shape[0] // len(rows)
    return v[rows.repeat_interleave(each)] if each > 1 else v[rows]


@contextmanager
def stepwise(model: nn.Module):
    """Context in which each call of ``model.backbone`` is one more time step of the same images."""
    T, membranes = get_time_steps(model), Membranes()
    neurons = [m for m in model.modules() if isinstance(m, Neuron)]

    def bound(neuron):
        forward = neuron.forward
        return lambda x, norm=None: membranes.fire(neuron, forward, x, norm)

    handle = model.backbone.register_forward_pre_hook(lambda *_: membranes.step())
    set_time_steps(model, 1)
    for neuron in neurons:
        neuron.forward = bound(neuron)
    try:
        yield membranes
    finally:
        handle.remove()
        for neuron in neurons:
            del neuron.forward
        set_time_steps(model, T)
