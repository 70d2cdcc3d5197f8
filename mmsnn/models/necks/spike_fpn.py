"""A feature pyramid of spikes, and the layer that it shares with spiking heads."""

import torch
from mmcv.cnn import ConvModule
from mmdet.models.necks import FPN
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmsnn.layers import TEBN, Readout, TimeFoldingError
from mmsnn.layers.conv import pack
from mmsnn.neurons import Neuron, build_neuron, neuron_config
from mmsnn.ops.checks import check_time_steps
from mmsnn.registry import MODELS


class ConvNormAct(nn.Module):
    """Convolution, norm and activation under the names of mmcv's ConvModule; norm and neuron run as one op.

    The levels of a pyramid that share the layer come as a list. A batch norm in training then takes the statistics of
    all levels together, as one set serves all of them in evaluation (Wu and Johnson, "Rethinking Batch in BatchNorm",
    2021, where a RetinaNet head normalised level by level in training and by common statistics in evaluation fails).

    Args:
        like: whose convolution and norm these are, the very modules.
        act: neuron or other activation.
    """

    def __init__(self, like: ConvModule, act: nn.Module):
        super().__init__()
        self.conv = like.conv
        self.norm_name = like.norm_name
        if like.with_norm:
            self.add_module(like.norm_name, like.norm)
        self.activate = act

    @property
    def norm(self) -> nn.Module | None:
        """The norm, looked up by name, because SyncBN conversion swaps it."""
        return getattr(self, self.norm_name) if self.norm_name else None

    def forward(self, x: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
        """Maps ``[T*B, C, H, W]``, one or a list, to maps of the same form."""
        if isinstance(x, Tensor):
            return self._fire(self.conv(x))
        maps = [self.conv(level) for level in x]
        if not isinstance(self.norm, (_BatchNorm, TEBN)) or not self.norm.training:
            return [self._fire(level) for level in maps]
        # [T*B, C, positions of all levels, 1]
        together = self._fire(torch.cat([level.flatten(2) for level in maps], 2).unsqueeze(3)).squeeze(3)
        parts = together.split([level[0, 0].numel() for level in maps], 2)
        return [part.unflatten(2, level.shape[2:]) for part, level in zip(parts, maps)]

    def _fire(self, x: Tensor) -> Tensor:
        if self.norm is None:
            return self.activate(x)
        if isinstance(self.activate, Neuron):
            return self.activate.after_norm(self.norm, x)
        return self.activate(self.norm(x))


def check_folded(part: str, x: Tensor, T: int) -> None:
    """TimeFoldingError where ``x`` cannot hold T time steps."""
    if x.shape[0] % T:
        raise TimeFoldingError(f'{part} (T={T}) is given {tuple(x.shape)}: time is not folded into it. {REMEDY}')


def check_images(part: str, out: Tensor, T: int, images: int) -> None:
    """TimeFoldingError where ``out`` answers not as many images as there are: some passed for time steps."""
    if out.shape[0] != images:
        raise TimeFoldingError(f'{part} (T={T}) answers {out.shape[0]} images instead of {images}. {REMEDY}')


REMEDY = "Set backbone.readout='none', and the same T in backbone, neck and head"


@MODELS.register_module()
class SpikeFPN(FPN):
    """Feature pyramid (Lin et al., CVPR 2017) that stays in spikes: a neuron behind every norm, time in the batch.

    For a backbone with ``readout='none'`` that hands out spikes or sums of them. Lateral spikes are added up on the way
    down, so that the output convolutions are given integers up to the number of levels (upsampling repeats them); every
    level of the output holds spikes. Extra levels: convolutions of stride 2 (``add_extra_convs``), or every second
    spike. Parameter names are those of mmdet's FPN with norms, whose ANN twin has ``act_cfg=dict(type='ReLU')``. The
    pyramid with spikes at all its joints is ours, no paper's.

    Args:
        in_channels, out_channels, num_outs: as in mmdet's FPN.
        T: time steps of the backbone.
        neuron: neuron of every site.
        readout: ``none`` returns ``[T*B, C, H, W]`` to a spiking head, ``mean`` rates ``[B, C, H, W]`` to any other.
        fire_inputs: whether a neuron stands in front of each lateral convolution, for backbones that hand out
            potentials (Meta-SpikeFormer, Spikingformer).
        packed_spikes: whether convolutions keep their inputs as bytes for the backward pass.
        norm_cfg: norms; None for batch norms.
        upsample_cfg: as in mmdet's FPN; only ``nearest`` leaves integers.
        act_cfg: accepted, because configs inherit it from the ANN, and replaced by ``neuron``.
        kwargs: as for mmdet's FPN.

    Raises:
        ValueError: ``T``, ``readout`` or ``upsample_cfg`` is out of range; the message names it.
        TimeFoldingError: in the forward pass, where time is not folded into the inputs (``backbone.readout='mean'``);
            where T divides the number of images, the heads and `mmsnn.engine.hooks.TimeFoldingHook` find it.
    """

    def __init__(
        self,
        in_channels: list[int],
        out_channels: int,
        num_outs: int,
        T: int = 4,
        neuron: dict | None = None,
        readout: str = 'none',
        fire_inputs: bool = False,
        packed_spikes: bool = False,
        norm_cfg: dict | None = None,
        upsample_cfg: dict | None = None,
        act_cfg: dict | None = None,
        **kwargs,
    ):
        check_time_steps(T, 'neck.T')
        upsample_cfg = upsample_cfg or dict(mode='nearest')
        if upsample_cfg.get('mode', 'nearest') != 'nearest':
            raise ValueError(
                f"neck.upsample_cfg={upsample_cfg} mixes spikes to fractions: set neck.upsample_cfg.mode='nearest'"
            )
        norm_cfg = norm_cfg or dict(type='BN', requires_grad=True)
        super().__init__(
            in_channels, out_channels, num_outs, norm_cfg=norm_cfg, act_cfg=None, upsample_cfg=upsample_cfg, **kwargs
        )
        neuron = neuron_config(neuron)
        for layers in (self.lateral_convs, self.fpn_convs):
            for i, layer in enumerate(layers):
                layers[i] = ConvNormAct(layer, build_neuron(neuron, T))
                if packed_spikes:
                    pack(layers[i], 'conv', 8)
        used = range(self.start_level, self.backbone_end_level) if fire_inputs else ()
        self.input_neurons = nn.ModuleList(build_neuron(neuron, T) for _ in used)
        self.readout = Readout(T, readout)

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Stages ``[T*B, C_i, H, W]`` to ``num_outs`` levels ``[T*B, C, H, W]``, or ``[B, C, H, W]`` read out."""
        check_folded('neck', inputs[0], self.readout.T)
        inputs = list(inputs)
        for i, neuron in enumerate(self.input_neurons, start=self.start_level):
            inputs[i] = neuron(inputs[i])
        return tuple(self.readout(out) for out in super().forward(inputs))
