"""Spiking VGG with the parameter names of torchvision and SpikingJelly (``features.0.weight`` ...)."""

import torch.utils.checkpoint as cp
from mmcv.cnn import build_conv_layer, build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmsnn.layers import Readout, SpikeConv2d
from mmsnn.layers.conv import spike_bits, use_events
from mmsnn.neurons import build_neuron, neuron_config
from mmsnn.ops.checks import check_time_steps
from mmsnn.registry import MODELS, build_own

from .arguments import check_frozen_stages, refuse_unknown, stage_indices
from .base import SpikingBackbone

POOLS = {'max': nn.MaxPool2d, 'avg': nn.AvgPool2d}


@MODELS.register_module()
class SpikingVGG(SpikingBackbone, BaseModule):
    """Spiking VGG: conv-norm-neuron for every 3x3 convolution, 2x2 pooling after every stage.

    The backbone has no linear layers; they belong to the head, which for small images is ``LinearClsHead`` after
    ``GlobalAveragePooling``. As in torchvision, convolutions have biases even if a norm follows. A static image passes
    the first convolution and its norm once and is then repeated T times.

    Depths 11 to 19 are those of torchvision. Several networks in the literature are called VGG-9; depth 9 here is the
    network of eight convolutions that TET (Deng et al., ICLR 2022) calls VGGSNN and trains on CIFAR10-DVS with
    ``in_channels=2, pool='avg'``: it has the widths of depth 11, in four stages of two convolutions.

    Args:
        depth: 9, 11, 13, 16 or 19.
        T: time steps.
        neuron: neuron of every convolution, e.g. ``dict(type='LIF', tau=2.0, surrogate='atan')``.
        pool: ``max``, whose output is spikes, or ``avg``.
        in_channels: 3 for images, 2 for most event frames.
        base_channels: width of the first convolution.
        out_indices: stages whose pooled maps are returned, one or several; negative numbers count from the end; None
            means all.
        frozen_stages: number of stages, from the first, whose parameters and statistics are frozen.
        conv_cfg, norm_cfg, norm_eval: as in mmpretrain's VGG, but ``norm_cfg=None`` means batch norm.
        with_norm: whether there are norms.
        with_cp: whether activation checkpointing computes stages again in the backward pass instead of storing them.
        readout: ``mean`` returns firing rates ``[B, C, H, W]``; ``none`` returns ``[T*B, C, H, W]``.
        encoder: config of the encoder, as in `SpikingResNet`.
        packed_spikes: whether convolutions keep their input spikes as bits for the backward pass; convolutions after
            average pooling do not, because their inputs are fractions. ``'event'`` as in `SpikingResNet`.

    Attributes:
        out_channels: widths of the returned maps.

    Raises:
        ValueError: a value is out of range; the message names ``backbone.KEY``.
        TypeError: there are unknown keys, such as those of a ResNet; the message names all of them.
    """

    # The widths of the convolutions of each stage, in units of base_channels.
    arch_settings = {
        9: ((1, 2), (4, 4), (8, 8), (8, 8)),
        11: ((1,), (2,), (4, 4), (8, 8), (8, 8)),
        13: ((1, 1), (2, 2), (4, 4), (8, 8), (8, 8)),
        16: ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8)),
        19: ((1, 1), (2, 2), (4,) * 4, (8,) * 4, (8,) * 4),
    }

    def __init__(
        self,
        depth: int,
        T: int = 4,
        neuron: dict | None = None,
        pool: str = 'max',
        in_channels: int = 3,
        base_channels: int = 64,
        out_indices=None,
        frozen_stages: int = -1,
        conv_cfg: dict | None = None,
        norm_cfg: dict | None = None,
        with_norm: bool = True,
        norm_eval: bool = False,
        with_cp: bool = False,
        readout: str = 'mean',
        encoder: dict | None = None,
        packed_spikes: bool | str = False,
        init_cfg: dict | list | None = None,
        **unknown,
    ):
        refuse_unknown(self, unknown)
        check_time_steps(T, 'backbone.T')
        if depth not in self.arch_settings:
            raise ValueError(f'backbone.depth must be one of {", ".join(map(str, self.arch_settings))}, got {depth!r}')
        if pool not in POOLS:
            raise ValueError(f'backbone.pool must be one of {", ".join(POOLS)}, got {pool!r}')
        stages = [[base_channels * units for units in stage] for stage in self.arch_settings[depth]]
        indices = stage_indices(range(len(stages)) if out_indices is None else out_indices, len(stages))
        # There is no stem, so 0 freezes nothing.
        check_frozen_stages(frozen_stages or -1, len(stages), init_cfg)
        if init_cfg is None:
            init_cfg = [
                dict(type='Kaiming', layer='Conv2d'),
                dict(type='Constant', val=1, layer=['_BatchNorm', 'GroupNorm']),
            ]
        super().__init__(init_cfg)
        self.T = T
        self.neuron = neuron_config(neuron)
        self.conv_cfg = conv_cfg
        self.norm_cfg = (norm_cfg or dict(type='BN')) if with_norm else None
        self.out_indices, self.frozen_stages = indices, frozen_stages
        self.norm_eval, self.with_cp = norm_eval, with_cp
        self.out_channels = tuple(widths[-1] for i, widths in enumerate(stages) if i in indices)

        layers = []
        # The index in `features` at which each stage ends.
        self.ends = []
        for widths in stages:
            for width in widths:
                spikes = packed_spikes and layers and not isinstance(layers[-1], nn.AvgPool2d)
                layers += self._make_layer(in_channels, width, spikes)
                in_channels = width
            layers.append(POOLS[pool](kernel_size=2, stride=2))
            self.ends.append(len(layers))
        self.features = nn.Sequential(*layers)
        self.encoder = build_own({**(encoder or dict(type='DirectEncoder')), 'T': T})
        self.readout = Readout(T, readout)
        self.claim_neurons()
        use_events(self, packed_spikes, 'backbone.packed_spikes')
        self._freeze_stages()

    def _make_layer(self, in_channels: int, out_channels: int, spikes: bool) -> list[nn.Module]:
        """A convolution, which packs its input if that is ``spikes``, the norm (if there are norms) and the neuron."""
        conv = build_conv_layer(self.conv_cfg, in_channels, out_channels, 3, padding=1)
        neuron = build_neuron(self.neuron, self.T)
        if spikes and type(conv) is nn.Conv2d:
            conv = SpikeConv2d.like(conv, spike_bits(neuron))
        norms = [build_norm_layer(self.norm_cfg, out_channels)[1]] if self.norm_cfg else []
        return [conv, *norms, neuron]

    def _stem(self, layer: list[nn.Module], x: Tensor) -> Tensor:
        """The spikes ``[T*B, C, H, W]`` of the first convolution with norm and neuron, from images or event frames."""
        conv, *norms, neuron = layer
        return self.encoder.after_stem(x, conv, *(norms or [None]), neuron)

    @staticmethod
    def _layer(layer: list[nn.Module], x: Tensor) -> Tensor:
        conv, *norms, neuron = layer
        x = conv(x)
        return neuron.after_norm(norms[0], x) if norms else neuron(x)

    def _stage(self, layers: list[nn.Module], x: Tensor) -> Tensor:
        """A stage with its pooling, without the first layer of the network."""
        *layers, pool = layers
        step = 3 if self.norm_cfg else 2
        for i in range(0, len(layers), step):
            x = self._layer(layers[i : i + step], x)
        return pool(x)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """One map per stage in ``out_indices``, from images ``[B, C, H, W]`` or event frames ``[B, T, C, H, W]``."""
        # Layers are looked up in every call, because the conversion to SyncBN replaces norms.
        layers = list(self.features)
        start = 3 if self.norm_cfg else 2
        x = self._stem(layers[:start], x)
        outs = []
        for i, end in enumerate(self.ends):
            stage, start = layers[start:end], end
            if self.with_cp and x.requires_grad:
                x = cp.checkpoint(self._stage, stage, x, use_reentrant=False)
            else:
                x = self._stage(stage, x)
            if i in self.out_indices:
                outs.append(self.readout(x))
        return tuple(outs)

    def _frozen_modules(self) -> list[nn.Module]:
        return list(self.features[: self.ends[self.frozen_stages - 1]]) if self.frozen_stages > 0 else []
