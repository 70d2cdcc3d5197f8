"""A spiking feature pyramid, and the layer that it shares with spiking heads."""

import torch
from mmcv.cnn import ConvModule
from mmdet.models.necks import FPN
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmsnn.layers import TEBN, Readout, TimeFoldingError
from mmsnn.layers.conv import pack, use_events
from mmsnn.neurons import Neuron, build_neuron, neuron_config
from mmsnn.ops.checks import check_time_steps
from mmsnn.registry import MODELS


class ConvNormAct(nn.Module):
    """Convolution, norm and activation under the names of mmcv's ConvModule; norm and neuron run as one op.

    The levels of a pyramid that share the layer are given as a list. In training, a batch norm then uses the statistics
    of all levels together, because in evaluation all levels share one set of statistics. (Wu and Johnson, "Rethinking
    Batch in BatchNorm", 2021, show that a RetinaNet head fails if it normalises each level by itself in training.)

    Args:
        like: the ConvModule whose convolution and norm this layer uses.
        act: a neuron or another activation.
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
        """The norm, looked up by name, because the conversion to SyncBN replaces it; None without one."""
        return getattr(self, self.norm_name) if self.norm_name else None

    def forward(self, x: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
        """The output for a map ``[T*B, C, H, W]`` or a list of maps, in the same form."""
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
    """Raise TimeFoldingError if ``x`` cannot hold T time steps."""
    if x.shape[0] % T:
        raise TimeFoldingError(f'{part} (T={T}) is given {tuple(x.shape)}: time is not folded into it. {REMEDY}')


def check_images(part: str, out: Tensor, T: int, images: int) -> None:
    """Raise TimeFoldingError if ``out`` does not have one entry per image: images were taken for time steps."""
    if out.shape[0] != images:
        raise TimeFoldingError(f'{part} (T={T}) has outputs for {out.shape[0]} images instead of {images}. {REMEDY}')


REMEDY = "Set backbone.readout='none', and the same T in backbone, neck and head"


@MODELS.register_module()
class SpikeFPN(FPN):
    """Spiking form of the feature pyramid (Lin et al., CVPR 2017), with a neuron after every norm.

    It needs a backbone with ``readout='none'`` whose outputs are spikes or sums of spikes. The top-down path adds the
    spikes of the lateral layers (upsampling repeats them), so that the inputs of the output convolutions are integers
    up to the number of levels. Every level of the output holds spikes. Extra levels are convolutions of stride 2
    (``add_extra_convs``) or take every second spike. Parameter names are those of mmdet's FPN with norms; the ANN twin
    is mmdet's FPN with ``act_cfg=dict(type='ReLU')``. The pyramid is mmsnn's own and follows no paper.

    Args:
        in_channels, out_channels, num_outs: as in mmdet's FPN.
        T: time steps of the backbone.
        neuron: config of all neurons.
        readout: ``none`` returns ``[T*B, C, H, W]`` for a spiking head, ``mean`` returns firing rates ``[B, C, H, W]``
            for any other head.
        fire_inputs: whether a neuron comes before each lateral convolution, for backbones whose outputs are membrane
            potentials (Meta-SpikeFormer, Spikingformer).
        packed_spikes: whether convolutions keep their inputs as bytes for the backward pass. ``'event'`` as in
            `mmsnn.SpikingResNet`.
        norm_cfg: config of the norms; None means batch norm.
        upsample_cfg: as in mmdet's FPN; the mode must be ``nearest``, because others do not give integers.
        act_cfg: ignored; configs inherit it from the ANN, and ``neuron`` takes its place.
        kwargs: arguments of mmdet's FPN.

    Raises:
        ValueError: ``T``, ``readout`` or ``upsample_cfg`` is out of range; the message names it.
        TimeFoldingError: in the forward pass, time is not folded into the inputs (``backbone.readout='mean'``). If T
            divides the number of images by chance, the heads and `mmsnn.engine.hooks.TimeFoldingHook` raise it.
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
        packed_spikes: bool | str = False,
        norm_cfg: dict | None = None,
        upsample_cfg: dict | None = None,
        act_cfg: dict | None = None,
        **kwargs,
    ):
        check_time_steps(T, 'neck.T')
        upsample_cfg = upsample_cfg or dict(mode='nearest')
        if upsample_cfg.get('mode', 'nearest') != 'nearest':
            raise ValueError(
                f"neck.upsample_cfg={upsample_cfg} makes fractions of spikes: set neck.upsample_cfg.mode='nearest'"
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
        use_events(self, packed_spikes, 'neck.packed_spikes')
        self.readout = Readout(T, readout)

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """``num_outs`` levels ``[T*B, C, H, W]`` (``[B, C, H, W]`` with a readout), from ``[T*B, C_i, H, W]``."""
        check_folded('neck', inputs[0], self.readout.T)
        inputs = list(inputs)
        for i, neuron in enumerate(self.input_neurons, start=self.start_level):
            inputs[i] = neuron(inputs[i])
        return tuple(self.readout(out) for out in super().forward(inputs))
