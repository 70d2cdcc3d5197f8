"""The base class of the spiking transformers."""

from functools import partial

import torch.utils.checkpoint as cp
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmsnn.layers import Readout
from mmsnn.layers.conv import spike_bits, use_events
from mmsnn.layers.transformer import DropPath, Kit
from mmsnn.neurons import build_neuron, neuron_config
from mmsnn.ops.checks import check_time_steps
from mmsnn.registry import build_own

from .arguments import check_frozen_stages, refuse_unknown, stage_indices
from .base import SpikingBackbone

# The neuron of all releases; the sigmoid is the default surrogate of the SpikingJelly version that they use.
NEURON = dict(type='LIF', tau=2.0, detach_reset=True, surrogate='sigmoid')


class SpikingTransformer(SpikingBackbone, BaseModule):
    """Base of the spiking transformers, which are backbones: they turn images or event frames into feature maps.

    Images may have any size, because all strides round up. Parameters have the names of the authors' releases, with two
    differences: the releases also hold LayerNorms that are never called (``norm1``, ``norm2``), and their 1-d
    convolutions of tokens are 1x1 convolutions here. As there, weights keep PyTorch's default initialisation.

    Args:
        arch: name of a published size, or a dict of its settings (``arch_zoo`` has examples).
        T: number of time steps.
        neuron: config of all neurons; by default that of the releases, LIF with tau 2, detached reset and sigmoid
            surrogate. A string is a type, and a dict without a type changes the default neuron.
        attn_neuron: settings that differ for the neurons after attentions; by default ``dict(v_threshold=0.5)``, as
            released.
        num_heads: number of heads, if it differs from that of ``arch``.
        in_channels: channels of the images.
        out_indices: stages whose outputs are returned, one or several; negative numbers count from the end.
        frozen_stages: -1 freezes nothing, 0 the stem, n also the first n stages.
        norm_cfg: config of the norms; batch norm by default.
        norm_eval: whether batch norms use their running statistics in training as well.
        drop_path_rate: rate of stochastic depth at the last block, rising linearly over the blocks. The releases build
            it, some with 0.2, but never call it, so they are trained with 0.
        with_cp: whether activation checkpointing is used for every block.
        readout: ``mean`` returns means over time ``[B, C, H, W]``; ``none`` returns ``[T*B, C, H, W]``.
        encoder: config of the encoder, as in `SpikingResNet`.
        packed_spikes: whether convolutions keep their input spikes as bits (sums of spikes as bytes); ``'event'`` as in
            `SpikingResNet`.
        init_cfg: initialisation.

    Attributes:
        out_channels: widths of the returned maps.

    Raises:
        ValueError: a value is out of range; the message names ``backbone.KEY``.
        TypeError: there are unknown keys, such as those of a ResNet; the message names all of them.
    """

    arch_zoo: dict[str, dict] = {}
    # Settings that may be left out where ``arch`` is a dict.
    arch_defaults: dict = {}
    # Whether the residual stream holds sums of spikes (True) or membrane potentials.
    spiking_stream = True

    def __init__(
        self,
        arch: str | dict,
        T: int = 4,
        neuron: str | dict | None = None,
        attn_neuron: dict | None = None,
        num_heads: int | None = None,
        in_channels: int = 3,
        out_indices=(-1,),
        frozen_stages: int = -1,
        norm_cfg: dict | None = None,
        norm_eval: bool = False,
        drop_path_rate: float = 0.0,
        with_cp: bool = False,
        readout: str = 'mean',
        encoder: dict | None = None,
        packed_spikes: bool | str = False,
        init_cfg: dict | list | None = None,
        **unknown,
    ):
        refuse_unknown(self, unknown)
        check_time_steps(T, 'backbone.T')
        super().__init__(init_cfg)
        if not 0 <= drop_path_rate < 1:
            raise ValueError(f'backbone.drop_path_rate must lie in [0, 1), got {drop_path_rate}')
        self.T = T
        self.norm_eval, self.with_cp = norm_eval, with_cp
        settings = self._settings(arch)
        if num_heads is not None:
            settings['num_heads'] = num_heads
        neuron = neuron_config(neuron, NEURON)
        attn_neuron = dict(v_threshold=0.5) if attn_neuron is None else attn_neuron
        spikes = build_neuron(neuron, T)
        bits = spike_bits(spikes) if packed_spikes else 0
        # Stochastic depth scales branches, whose sums are then not integers.
        whole = self.spiking_stream and drop_path_rate == 0
        kit = Kit(
            neuron=partial(build_neuron, neuron, T),
            attn_neuron=partial(build_neuron, {**neuron, **attn_neuron}, T),
            norm_cfg=norm_cfg or dict(type='BN', requires_grad=True),
            bits=bits,
            stream_bits=8 if packed_spikes and whole else 0,
        )
        self.drop_path_rate = drop_path_rate
        widths = self._build(settings, kit, in_channels)
        self.encoder = build_own({**(encoder or dict(type='DirectEncoder')), 'T': T})
        self.readout = Readout(T, readout)
        self.out_indices = stage_indices(out_indices, len(widths))
        self.out_channels = tuple(widths[i] for i in self.out_indices)
        check_frozen_stages(frozen_stages, len(widths), init_cfg)
        self.frozen_stages = frozen_stages
        self.claim_neurons()
        use_events(self, packed_spikes, 'backbone.packed_spikes')
        self._freeze_stages()

    def _build(self, arch: dict, kit: Kit, in_channels: int) -> list[int]:
        """Add the layers; returns the widths of the stages."""
        raise NotImplementedError

    def _stem(self, x: Tensor) -> Tensor:
        """The output ``[T*B, C, H, W]`` of the stem for images or event frames."""
        raise NotImplementedError

    def _stages(self) -> list[list[nn.Module]]:
        """The modules of the stem, followed by those of each stage, in the order of their calls."""
        raise NotImplementedError

    def _settings(self, arch: str | dict) -> dict:
        if isinstance(arch, dict):
            settings = {**self.arch_defaults, **arch}
            needed = set(next(iter(self.arch_zoo.values()))) | set(self.arch_defaults)
            if set(settings) != needed:
                raise ValueError(
                    f'backbone.arch as a dict takes {", ".join(sorted(needed))}, got {", ".join(sorted(arch))}'
                )
            return settings
        if arch not in self.arch_zoo:
            raise ValueError(f'backbone.arch must be one of {", ".join(self.arch_zoo)} or a dict, got {arch!r}')
        return {**self.arch_defaults, **self.arch_zoo[arch]}

    def _drop_paths(self, depth: int) -> list[nn.Module]:
        """The stochastic depth of each of ``depth`` blocks."""
        rates = [self.drop_path_rate * i / max(depth - 1, 1) for i in range(depth)]
        return [DropPath(rate, self.T) if rate else nn.Identity() for rate in rates]

    def _run(self, module: nn.Module, x: Tensor) -> Tensor:
        if self.with_cp and x.requires_grad:
            return cp.checkpoint(module, x, use_reentrant=False)
        return module(x)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """One map per stage in ``out_indices``, from images ``[B, C, H, W]`` or event frames ``[B, T, C, H, W]``."""
        x = self._stem(x)
        outs = []
        for i, stage in enumerate(self._stages()[1:]):
            for module in stage:
                x = self._run(module, x)
            if i in self.out_indices:
                outs.append(self.readout(x))
        return tuple(outs)

    def _frozen_modules(self) -> list[nn.Module]:
        return [module for stage in self._stages()[: self.frozen_stages + 1] for module in stage]
