"""Residual blocks of spiking ResNets, with deformable convolutions and plugins as in mmdet's ResNet."""

import math
from functools import partial

import torch.utils.checkpoint as cp
from mmcv.cnn import build_conv_layer, build_norm_layer, build_plugin_layer
from mmengine.model import BaseModule, constant_init
from torch import Tensor, nn

from mmsnn.layers.conv import pack
from mmsnn.layers.transformer import DropPath

POSITIONS = tuple(f'after_conv{i}' for i in (1, 2, 3))


class SpikingBlock(BaseModule):
    """Residual block, basic (two 3x3 convolutions) or bottleneck (1x1, 3x3, 1x1), on ``[T*B, C, H, W]``.

    Every convolution is followed by a norm and a neuron; the neuron of the last one comes after the addition of the
    shortcut. Each convolution has a neuron of its own: ``neuron1`` belongs to ``conv1``, and so on.

    A deformable ``conv2`` and plugins have the places and names that they have in mmdet: plugins come after
    ``neuron1``, ``neuron2`` and the last norm. They have no state, so they process each time step by itself.

    Attributes:
        beyond_plain: names of children that a plain ResNet does not have; its checkpoints need not fill them.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        expansion: int,
        make_neuron,
        stride: int = 1,
        dilation: int = 1,
        downsample: nn.Module | None = None,
        style: str = 'pytorch',
        with_cp: bool = False,
        conv_cfg: dict | None = None,
        norm_cfg: dict | None = None,
        drop_path_rate: float = 0.0,
        T: int = 1,
        dcn: dict | None = None,
        plugins=(),
        **_,
    ):
        super().__init__()
        self.out_channels = out_channels
        self.drop_path = DropPath(drop_path_rate, T) if drop_path_rate else nn.Identity()
        self.with_cp = with_cp
        self.downsample = downsample
        mid = out_channels // expansion
        if expansion == 1:
            convs = [(in_channels, mid, 3, stride, dilation), (mid, mid, 3, 1, 1)]
        else:
            first, second = (1, stride) if style == 'pytorch' else (stride, 1)
            convs = [(in_channels, mid, 1, first, 1), (mid, mid, 3, second, dilation), (mid, out_channels, 1, 1, 1)]
        self.norm_names, self.plugin_names, self.beyond_plain = [], [], []
        # The dict is shared by all stages, so only the network's first deformable block falls back, as in mmdet.
        deformable = bool(dcn) and not dcn.pop('fallback_on_stride', False)
        for i, (c_in, c_out, kernel, step, dil) in enumerate(convs, start=1):
            geometry = dict(stride=step, padding=dil * (kernel // 2), dilation=dil, bias=False)
            conv = build_conv_layer(dcn if deformable and i == 2 else conv_cfg, c_in, c_out, kernel, **geometry)
            self.add_module(f'conv{i}', conv)
            name, norm = build_norm_layer(norm_cfg, c_out, postfix=i)
            self.add_module(name, norm)
            self.norm_names.append(name)
            self.add_module(f'neuron{i}', make_neuron(joint=i == len(convs)))
        if deformable:
            self.beyond_plain.append('conv2.conv_offset')
            if hasattr(self.conv2, 'im2col_step'):
                self.conv2.register_forward_pre_hook(partial(_fit_step, most=self.conv2.im2col_step))
        for i, (_, c_out, *_) in enumerate(convs, start=1):
            here = [plugin for plugin in plugins if plugin['position'] == f'after_conv{i}']
            self.plugin_names.append([self._add_plugin(plugin['cfg'], c_out) for plugin in here])

    def _add_plugin(self, cfg: dict, channels: int) -> str:
        cfg = dict(cfg)
        name, layer = build_plugin_layer(cfg, postfix=cfg.pop('postfix', ''), in_channels=channels)
        if hasattr(self, name):
            raise ValueError(f"backbone.plugins: two are named {name!r} in one block: give each a 'postfix' in its cfg")
        self.add_module(name, layer)
        self.beyond_plain.append(name)
        return name

    def _plug(self, i: int, x: Tensor) -> Tensor:
        """Apply the plugins of ``conv{i}`` to ``x``."""
        for name in self.plugin_names[i - 1]:
            x = getattr(self, name)(x)
        return x

    def pack_spikes(self, bits_in: int, bits: int) -> None:
        """Make the convolutions keep their inputs packed for the backward pass.

        Args:
            bits_in: bits per element of the block's input.
            bits: bits per element of the neurons' outputs.
        """
        for i in range(1, len(self.norm_names) + 1):
            # The output of a plugin is not spikes.
            if i == 1 or not self.plugin_names[i - 2]:
                pack(self, f'conv{i}', bits_in if i == 1 else bits)
        for name, module in self.downsample.named_children() if self.downsample is not None else ():
            if isinstance(module, nn.AvgPool2d):
                break  # its output is not spikes
            pack(self.downsample, name, bits_in)

    def init_added(self) -> None:
        """Initialise offsets of deformable convolutions with 0, and plugins by their own rules."""
        for name in self.beyond_plain:
            module = self.get_submodule(name)
            if name == 'conv2.conv_offset':
                constant_init(module, 0)
            elif hasattr(module, 'reset_parameters'):
                module.reset_parameters()
            elif hasattr(module, 'init_weights'):
                module.init_weights()

    @property
    def last_norm(self) -> nn.Module:
        """The norm after the last convolution."""
        return getattr(self, self.norm_names[-1])

    def residual(self, x: Tensor) -> Tensor:
        """The branch up to the last convolution."""
        for i, name in enumerate(self.norm_names, start=1):
            x = getattr(self, f'conv{i}')(x)
            if i < len(self.norm_names):
                # Norms are looked up by name, because the conversion to SyncBN replaces them.
                x = self._plug(i, getattr(self, f'neuron{i}').after_norm(getattr(self, name), x))
        return x

    def normed(self, x: Tensor) -> Tensor:
        """The branch up to the last norm and the plugins after it."""
        return self._plug(len(self.norm_names), self.last_norm(self.residual(x)))

    @property
    def last_neuron(self) -> nn.Module:
        """The neuron after the addition (in SEW: after the last norm)."""
        return getattr(self, f'neuron{len(self.norm_names)}')

    def block(self, x: Tensor) -> Tensor:
        """The block without activation checkpointing."""
        identity = x if self.downsample is None else self.downsample(x)
        return self.last_neuron(self.drop_path(self.normed(x)) + identity)

    def forward(self, x: Tensor) -> Tensor:
        if self.with_cp and x.requires_grad:
            return cp.checkpoint(self.block, x, use_reentrant=False)
        return self.block(x)


def _fit_step(conv: nn.Module, inputs: tuple, most: int) -> None:
    # mmcv needs a divisor of the number of images, which is T*B here.
    conv.im2col_step = math.gcd(len(inputs[0]), most)


def check_additions(
    dcn: dict | None, stage_with_dcn, plugins, num_stages: int, basic: bool, conv_cfg: dict | None
) -> tuple[list[dict | None], list[list[dict]]]:
    """The deformable convolution and the plugins of each stage, as mmdet reads these keys.

    Raises:
        ValueError: the block type or ``conv_cfg`` does not allow them, or a key is malformed; the message names
            ``backbone.KEY``.
    """
    deformable = list(stage_with_dcn) if dcn else [False] * num_stages
    chosen = [plugin.get('stages') or [True] * num_stages for plugin in plugins or ()]
    for key, stages in [('stage_with_dcn', deformable)] + [(f'plugins[{i}].stages', s) for i, s in enumerate(chosen)]:
        if len(stages) != num_stages:
            raise ValueError(f'backbone.{key}={tuple(stages)} must name all {num_stages} stages (backbone.num_stages)')
    used = [key for key, value in (('dcn', any(deformable)), ('plugins', plugins)) if value]
    if used and basic:
        raise ValueError(
            f'backbone.{used[0]} is possible only in bottleneck blocks, as in the ResNets of mmdet: choose '
            f'backbone.depth 50, 101 or 152, or set {used[0]}=None (inherited?)'
        )
    if any(deformable):
        if conv_cfg:
            raise ValueError(f'backbone.conv_cfg={conv_cfg} and backbone.dcn exclude each other: set one to None')
        # This import registers deformable convolutions.
        import mmcv.ops  # noqa: F401

        dcn = dict(dcn)
    for i, plugin in enumerate(plugins or ()):
        if 'cfg' not in plugin or plugin.get('position') not in POSITIONS:
            raise ValueError(
                f"backbone.plugins[{i}] needs a 'cfg' and a 'position', one of {', '.join(POSITIONS)}, got {plugin}"
            )
    return [dcn if on else None for on in deformable], [
        [plugin for plugin, stages in zip(plugins or (), chosen) if stages[stage]] for stage in range(num_stages)
    ]
