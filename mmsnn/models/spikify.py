"""Turning any OpenMMLab backbone into a spiking one, by replacing its activations by neurons."""

import logging
from collections import Counter

import torch
from mmcv.cnn.bricks.activation import GELU, Clamp
from mmcv.cnn.bricks.hsigmoid import HSigmoid
from mmcv.cnn.bricks.hswish import HSwish
from mmcv.cnn.bricks.swish import Swish
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor, nn

from mmsnn.checkpoints.loading import init_inner, pretrained_from
from mmsnn.layers import Readout, unfold
from mmsnn.listing import some
from mmsnn.neurons import Neuron, build_neuron, neuron_config
from mmsnn.neurons.firing import SpikeCounter
from mmsnn.ops.checks import check_time_steps
from mmsnn.registry import MODELS, build_own

from .backbones.arguments import refuse_unknown
from .backbones.base import SpikingBackbone
from .balance import RATE, add_gain, finish, start
from .drawing import SameDraws, repeated_mask
from .tracing import Trace, run_blank, tensors_in, trace
from .wrapper import Transparent

REPLACED = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Hardswish,
    nn.Mish, Swish, HSwish, GELU,
)  # fmt: skip
ANALOG = (nn.Sigmoid, nn.Hardsigmoid, HSigmoid, nn.Tanh, nn.Softmax, nn.Softmax2d, nn.Softplus, Clamp)


class NeuronPerUse(nn.ModuleList):
    """The neurons of an activation module that is called several times in one forward, in the order of its calls.

    Spikify's forward calls `restart`, because errors, and activation checkpointing, which repeats some calls in the
    backward pass, may end in the middle of the sequence.
    """

    def __init__(self, neurons):
        super().__init__(neurons)
        self.restart()

    def restart(self) -> None:
        """Start again with the neuron of the first call."""
        self._next = 0

    def forward(self, x: Tensor) -> Tensor:
        neuron = self[self._next]
        self._next = (self._next + 1) % len(self)
        return neuron(x)


def _copy_input(_module: nn.Module, inputs: tuple) -> tuple:
    """Hook for a neuron whose input is later changed in place by the backbone."""
    return tuple(x.clone() if isinstance(x, Tensor) else x for x in inputs) if torch.is_grad_enabled() else inputs


def _copy_output(_module: nn.Module, _inputs: tuple, out: Tensor) -> Tensor:
    """Hook for a neuron whose spikes are later changed in place by the backbone."""
    return out.clone() if torch.is_grad_enabled() else out


class _StepsDiffer(ValueError):
    """Outputs that have to be the same at every time step are not."""


@MODELS.register_module()
class Spikify(Transparent, SpikingBackbone, BaseModule):
    """Any backbone with its ReLU-family, GELU and SiLU modules replaced by neurons, an encoder and a readout.

    The inner backbone runs on ``[T*B, C, H, W]``. Its parameters keep their names, so ANN checkpoints load. On
    construction, blank images run through it and show which activations do not process images (such as the MLP for
    positions in Swin V2). These stay analog, and so do sigmoid gates, softmax and activations that are called as
    functions; the log lists them. If the neuron has parameters (PLIF) or ``balance`` is set, each call of a shared
    activation gets its own neuron.

    If a backbone draws masks (masked pre-training), they are the same in all time steps of an image; see `SameDraws`.

    After the first batch, a warning names the layers of neurons that were silent.

    Args:
        backbone: config of any registered backbone, e.g. ``dict(type='mmdet.ResNet', depth=50)``.
        T: number of time steps.
        neuron: config of the neurons that replace activations.
        readout: ``mean`` or ``none``.
        encoder: config of the encoder, as in `SpikingResNet`.
        balance: whether gains make silent layers fire; see `mmsnn.models.balance_thresholds`. They are computed in the
            first batch of training unless a checkpoint holds them. True, or the firing rate that every layer should
            reach.
        init_cfg: replaces the ``init_cfg`` of the inner backbone, because users set it on the outermost backbone.

    Raises:
        ValueError: there is no activation to replace, or ``T < 1``; in the forward pass, an output of the backbone does
            not hold time steps.
        TypeError: there are unknown keys, such as those of the inner backbone; the message names all of them.
    """

    inner = 'backbone'

    def __init__(
        self,
        backbone: dict,
        T: int = 4,
        neuron: dict | None = None,
        readout: str = 'mean',
        encoder: dict | None = None,
        balance: bool | float = False,
        init_cfg: dict | None = None,
        **unknown,
    ):
        refuse_unknown(self, unknown)
        check_time_steps(T, 'backbone.T')
        super().__init__()
        self.T = T
        self.backbone = ROOT_MODELS.build({**backbone, 'init_cfg': init_cfg} if init_cfg else backbone)
        self.encoder = build_own({**(encoder or dict(type='DirectEncoder')), 'T': T})
        self.readout = Readout(T, readout)
        self._make_transparent()
        self.rate = RATE if balance is True else float(balance)
        # What the first batch still has to do: report silent layers, and compute gains.
        self.unseen, self.unbalanced = True, bool(balance)
        # Whether random numbers are the same in all time steps; set when the first masks differ between steps.
        self.same_draws = False
        if balance:
            # Registered on the inner backbone, whose names the state dict of this module uses.
            self.backbone.register_buffer('balanced', torch.tensor(False))
        self._replace(neuron_config(neuron), self._look(backbone))

    def _look(self, cfg: dict) -> Trace | None:
        """The trace of blank images; None, and a warning, if the backbone does not run with them."""
        try:
            return trace(self.backbone, REPLACED, cfg)
        except RuntimeError as error:
            print_log(
                f'Spikify: {error}. So it is not known which activations see images, and every one of them becomes a '
                'neuron',
                logger='current',
                level=logging.WARNING,
            )
            return None

    def _replace(self, neuron: dict, seen: Trace | None) -> None:
        own = self.rate or any(True for _ in build_neuron(neuron, self.T).parameters())
        seen = seen or Trace()
        self.blank_size, self.fixed = seen.size, seen.fixed
        spiking = {}
        for parent in list(self.backbone.modules()):
            for name, child in list(parent._modules.items()):
                if not isinstance(child, REPLACED) or child in seen.off_path:
                    continue
                # An activation module may have several names.
                if child not in spiking:
                    neurons = [build_neuron(neuron, self.T) for _ in range(max(1, seen.uses[child]) if own else 1)]
                    spiking[child] = neurons[0] if len(neurons) == 1 else NeuronPerUse(neurons)
                    if child in seen.changed_inputs:
                        spiking[child].register_forward_pre_hook(_copy_input)
                    if child in seen.changed_outputs:
                        spiking[child].register_forward_hook(_copy_output)
                parent.add_module(name, spiking[child])
        replaced = Counter(type(child).__name__ for child in spiking)
        functions = ', '.join(f'{count} calls of {name}' for name, count in seen.functions.items())
        if not replaced:
            raise ValueError(
                f'backbone.backbone: {type(self.backbone).__name__} has no activation module that could spike '
                f'(ReLU family, GELU, SiLU); functional activations cannot be replaced ({functions or "none was seen"})'
            )
        self.claim_neurons()
        if self.rate:
            for module in self.backbone.modules():
                if isinstance(module, Neuron):
                    add_gain(module)
        analog = Counter(type(m).__name__ for m in self.backbone.modules() if isinstance(m, ANALOG))
        said = f'{dict(replaced)} became {neuron["type"]}, {dict(analog) or "nothing"} stayed analog'
        if seen.off_path:
            names = [name for name, m in self.backbone.named_modules() if m in seen.off_path]
            said += f', and so did those that see no images: {some(names)}'
        if functions:
            said += f', and activations called as functions: {functions}'
        print_log(f'Spikify {type(self.backbone).__name__}: {said}', logger='current', level=logging.INFO)

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Widths of the returned maps, which a forward of a blank image shows."""
        return tuple(out.shape[1] for out in tensors_in(run_blank(self, self.blank_size)) if out.dim() > 1)

    def init_weights(self) -> None:
        """Initialise the inner backbone by its own rules; warn of settings that silence it without a checkpoint."""
        init_inner(self.backbone)
        self._is_init = True
        if pretrained_from(self.backbone.init_cfg):
            return
        silencing = [key for key in ('norm_eval', 'zero_init_residual') if getattr(self.backbone, key, False)]
        if silencing:
            keys = ', '.join(f'backbone.backbone.{key}' for key in silencing)
            print_log(
                f'{keys}=True: hardly any neuron will spike unless a checkpoint fills the backbone; set it to False to '
                'train from scratch',
                logger='current',
                level=logging.WARNING,
            )

    def forward(self, x: Tensor, *args, **kwargs):
        """The outputs of the inner backbone after the readout, for images ``[B, C, H, W]`` or event frames
        ``[B, T, C, H, W]``.

        Outputs may be nested and contain None. Further arguments are passed on; tensors with B entries are repeated for
        every time step.
        """
        self._restart()
        first = (self.unseen or (self.unbalanced and self.training)) and not torch.compiler.is_compiling()
        # Blank images, which only serve to find the shapes of maps, do not count as the first batch.
        if first and x.device.type != 'meta' and bool((x != x.flatten()[:1]).any()):
            return self._first(x, args, kwargs)
        return self._run(x, args, kwargs)

    def _restart(self) -> None:
        for module in self.modules():
            if isinstance(module, NeuronPerUse):
                module.restart()

    def _run(self, x: Tensor, args: tuple, kwargs: dict):
        batch = len(x)

        def in_time(value):
            fits = isinstance(value, Tensor) and value.dim() and len(value) == batch
            return value.repeat(self.T, *[1] * (value.dim() - 1)) if fits else value

        args, kwargs, x = [in_time(v) for v in args], {k: in_time(v) for k, v in kwargs.items()}, self.encoder(x)
        if not self.same_draws:
            try:
                with repeated_mask(self.T, batch):
                    return self._read(self.backbone(x, *args, **kwargs), batch)
            except _StepsDiffer:
                self.same_draws = True
                self._restart()
        with repeated_mask(self.T, batch), SameDraws(self.T, batch):
            return self._read(self.backbone(x, *args, **kwargs), batch)

    def _read(self, out, batch: int):
        if isinstance(out, dict):
            return {key: self._read(value, batch) for key, value in out.items()}
        if isinstance(out, (tuple, list)):
            values = [self._read(value, batch) for value in out]
            return type(out)(*values) if hasattr(out, '_fields') else tuple(values)
        fixed = not isinstance(out, Tensor) or out.dim() == 0 or tuple(out.shape) in self.fixed
        if fixed or self.readout.mode == 'none':
            return out
        if len(out) != self.T * batch:
            raise ValueError(
                f'backbone.backbone: {type(self.backbone).__name__} returns {tuple(out.shape)}, which does not hold '
                f'{self.T} time steps of {batch} images in its first dimension: its outputs cannot be read out'
            )
        if out.is_floating_point():
            return self.readout(out)
        steps = unfold(out, self.T)
        if not torch.equal(steps, steps[:1].expand_as(steps)):
            raise _StepsDiffer(
                f'backbone.backbone: {type(self.backbone).__name__} returns integers that differ between time steps '
                '(does it draw masks?), so its steps cannot be averaged: take another backbone'
            )
        return steps[0]

    def _first(self, x: Tensor, args: tuple, kwargs: dict):
        """Run the first batch, computing gains if ``balance`` is set, and warn of silent layers."""
        # A checkpoint may have set the gains already.
        balancing = self.unbalanced and self.training and not self.backbone.balanced
        neurons = {name: m for name, m in self.backbone.named_modules() if isinstance(m, Neuron)}
        if balancing:
            start(neurons.values(), self.rate)
        with SpikeCounter(self) as counter:
            outs = self._run(x, args, kwargs)
        if balancing:
            finish(neurons)
            self.backbone.balanced.fill_(True)
        self.unbalanced &= not self.training
        rates = counter.rates()
        if rates.silent and self.unseen:
            shown = ', '.join(rates.silent[:5]) + (', ...' if len(rates.silent) > 5 else '')
            remedy = '' if self.rate else ', or balance=True of Spikify, which computes gains that make them fire'
            print_log(
                f'Spikify {type(self.backbone).__name__}: {len(rates.silent)} of {len(rates)} layers of neurons were '
                f'silent in the first batch ({shown}). The layers after them get no input, and hardly any gradient '
                f'passes through them. Use a checkpoint of the ANN (init_cfg), a lower neuron.v_threshold{remedy}',
                logger='current',
                level=logging.WARNING,
            )
        self.unseen = False
        return outs
