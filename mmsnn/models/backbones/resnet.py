"""Spiking ResNets with the parameter names of torchvision and OpenMMLab, so that ANN checkpoints load as they are."""

import re

from mmcv.cnn import build_conv_layer, build_norm_layer
from mmengine.model import BaseModule, constant_init
from mmpretrain.models.backbones.resnet import BasicBlock, ResLayer, ResNet
from torch import Tensor, nn

from mmsnn.layers import Readout
from mmsnn.layers.conv import pack, spike_bits, use_events
from mmsnn.neurons import build_neuron, neuron_config
from mmsnn.ops.checks import check_time_steps
from mmsnn.registry import MODELS, build_own

from .arguments import check_frozen_stages, default_stages, refuse_unknown, stage_indices, variant_of
from .base import SpikingBackbone
from .cifar_resnet import CIFAR_DEPTHS, SHORTCUTS, choose_shortcut, shape_of_depth
from .residual import SpikingBlock, check_additions


@MODELS.register_module()
class SpikingResNet(SpikingBackbone, ResNet):
    """Spiking ResNet: conv-norm-neuron, and a neuron after every addition (SAKD's Spiking-ResNet).

    A static image passes the stem's convolution and norm once and is then repeated T times. The class takes every
    argument of mmpretrain's, mmdet's and mmseg's ResNet. Some defaults differ, because those of an ANN would harm a
    spiking network: ``norm_eval=False``, ``zero_init_residual=False``, ``stem_channels=base_channels``.

    Args:
        depth: 18, 34, 50, 101 or 152; or 20, 32, 44, 56 or 110 for CIFAR's ResNets of three stages, for which ``stem``,
            ``base_channels`` (16), ``num_stages`` (3), ``strides`` and ``shortcut`` have other defaults.
        T: number of time steps.
        neuron: config of all neurons, e.g. ``dict(type='LIF', tau=2.0, surrogate='atan')``. A string is a type, and a
            dict without a type changes the default neuron.
        joint_neuron: settings that differ in the stem and after the additions, e.g. ``dict(detach_reset=True)``.
        stem: ``imagenet`` (7x7, stride 2, max pooling) or ``cifar`` (3x3, stride 1).
        deep_stem: whether the stem has three 3x3 convolutions instead of the 7x7, with mmseg's names.
        avg_down: whether shortcuts pool before their convolution instead of striding. None, for this argument and for
            ``deep_stem``, takes the value of the ResNetV1c or ResNetV1d whose checkpoint ``init_cfg`` or ``pretrained``
            names, or which this type replaces in an inherited config; otherwise it means False.
        out_indices: stages whose outputs are returned, one or several; negative numbers count from the end. None means
            all stages, or only the last in a run of mmpretrain, whose own ResNet does the same.
        drop_path_rate: probability with which an image skips the branch of the last block in training, at all time
            steps; it rises linearly from 0 at the first block.
        shortcut: shortcut of blocks that change the width: ``B`` (a 1x1 convolution and a norm) or ``A``
            (`ShortcutA`, without parameters).
        strides, dilations, contract_dilation, multi_grid: as in mmseg's ResNet.
        dcn, stage_with_dcn: deformable 3x3 convolutions in bottleneck blocks, as in mmdet's ResNet. They interpolate
            between pixels, so their inputs are weighted spikes instead of spikes.
        plugins: modules in bottleneck blocks, as in mmdet's ResNet (ContextBlock, GeneralizedAttention, NonLocal2d).
            Plugins at ``after_conv1`` and ``after_conv2`` give analog maps to the next convolution, those at
            ``after_conv3`` to the last neuron.
        readout: ``mean`` returns firing rates ``[B, C, H, W]``; ``none`` returns ``[T*B, C, H, W]``.
        encoder: config of the encoder, which turns images into time steps; by default ``dict(type='DirectEncoder')``,
            which gives the image at every step. ``dict(type='PoissonEncoder', mean=..., std=...)`` draws spikes.
        packed_spikes: whether convolutions keep their input spikes as bits (sums of spikes as bytes) for the backward
            pass, which needs less memory and gives equal gradients. With ``'event'`` those with few input spikes also
            compute on events in training on a CPU, in less time (`mmsnn.layers.SpikeConv2d`).

    Attributes:
        out_channels: widths of the returned maps.

    Raises:
        ValueError: a value is out of range or impossible in a spiking network; the message names ``backbone.KEY``.
        TypeError: there are unknown keys; the message names all of them.
    """

    arch_settings = {**ResNet.arch_settings, **CIFAR_DEPTHS}
    block_type = SpikingBlock
    # Bits per element to store a block's output, where neurons emit 0 and 1.
    block_bits = 1

    def __init__(
        self,
        depth: int,
        T: int = 4,
        neuron: str | dict | None = None,
        joint_neuron: dict | None = None,
        stem: str | None = None,
        in_channels: int = 3,
        stem_channels: int | None = None,
        base_channels: int | None = None,
        num_stages: int | None = None,
        strides=None,
        dilations=None,
        out_indices=None,
        shortcut: str | None = None,
        style: str = 'pytorch',
        deep_stem: bool | None = None,
        avg_down: bool | None = None,
        frozen_stages: int = -1,
        conv_cfg: dict | None = None,
        norm_cfg: dict | None = None,
        norm_eval: bool = False,
        contract_dilation: bool = False,
        multi_grid=None,
        with_cp: bool = False,
        zero_init_residual: bool = False,
        readout: str = 'mean',
        encoder: dict | None = None,
        packed_spikes: bool | str = False,
        expansion: int | None = None,
        dcn: dict | None = None,
        stage_with_dcn=(False,) * 4,
        plugins: list | None = None,
        drop_path_rate: float = 0.0,
        pretrained: str | None = None,
        init_cfg: dict | list | None = None,
        **unknown,
    ):
        refuse_unknown(self, unknown)
        check_time_steps(T, 'backbone.T')
        if depth not in self.arch_settings:
            raise ValueError(f'backbone.depth must be one of {", ".join(map(str, self.arch_settings))}, got {depth!r}')
        named = dict(stem=stem, base_channels=base_channels, num_stages=num_stages, strides=strides, shortcut=shortcut)
        named = shape_of_depth(depth) | {key: value for key, value in named.items() if value is not None}
        stem, base_channels, num_stages, strides, shortcut = named.values()
        dilations = (1,) * num_stages if dilations is None else dilations
        out_indices = default_stages(num_stages) if out_indices is None else out_indices
        if not 0 <= drop_path_rate < 1 or (drop_path_rate and packed_spikes):
            raise ValueError(
                f'backbone.drop_path_rate={drop_path_rate} must lie in 0 to 1 (1 excluded), and be 0 with '
                'packed_spikes=True, because stochastic depth scales the spikes, which can then not be packed'
            )
        variant = variant_of(pretrained or (init_cfg.get('checkpoint') if isinstance(init_cfg, dict) else None))
        deep_stem = variant.get('deep_stem', False) if deep_stem is None else deep_stem
        avg_down = variant.get('avg_down', False) if avg_down is None else avg_down
        if stem not in ('imagenet', 'cifar') or (stem == 'cifar' and deep_stem):
            raise ValueError(f"backbone.stem must be 'imagenet' or, without deep_stem, 'cifar', got {stem!r}")
        if shortcut not in SHORTCUTS or (shortcut == 'A' and avg_down):
            raise ValueError(f"backbone.shortcut must be 'B' or, without avg_down, 'A', got {shortcut!r}")
        most = len(self.arch_settings[depth][1])
        if num_stages > most:
            raise ValueError(f'backbone.num_stages={num_stages}: a ResNet-{depth} has {most} stages')
        if not 1 <= num_stages <= 4 or len(strides) != num_stages or len(dilations) != num_stages:
            raise ValueError(
                f'backbone.num_stages={num_stages} needs as many strides and dilations, got {strides}, {dilations}'
            )
        out_indices = stage_indices(out_indices, num_stages)
        if pretrained and init_cfg:
            raise ValueError('backbone.pretrained and backbone.init_cfg exclude each other')
        if pretrained:
            init_cfg = dict(type='Pretrained', checkpoint=pretrained)
        check_frozen_stages(frozen_stages, num_stages, init_cfg)
        basic = self.arch_settings[depth][0] is BasicBlock
        self.stage_dcn, self.stage_plugins = check_additions(dcn, stage_with_dcn, plugins, num_stages, basic, conv_cfg)
        if init_cfg is None:
            init_cfg = [
                dict(type='Kaiming', layer='Conv2d'),
                dict(type='Constant', val=1, layer=['_BatchNorm', 'GroupNorm']),
            ]
        # The parent's constructor calls methods below that need these values.
        self.T = T
        self.neuron = neuron_config(neuron)
        self.joint_neuron = {**self.neuron, **(joint_neuron or {})}
        self.stem_type = stem
        self.contract_dilation = contract_dilation
        self.multi_grid = multi_grid
        self.shortcut = shortcut
        self.packed_spikes = packed_spikes
        super().__init__(
            depth,
            in_channels=in_channels,
            stem_channels=stem_channels or base_channels,
            base_channels=base_channels,
            expansion=expansion,
            num_stages=num_stages,
            strides=strides,
            dilations=dilations,
            out_indices=out_indices,
            style=style,
            deep_stem=deep_stem,
            avg_down=avg_down,
            frozen_stages=frozen_stages,
            conv_cfg=conv_cfg,
            norm_cfg=norm_cfg or dict(type='BN', requires_grad=True),
            norm_eval=norm_eval,
            with_cp=with_cp,
            zero_init_residual=zero_init_residual,
            drop_path_rate=drop_path_rate,
            init_cfg=init_cfg,
        )
        self.encoder = build_own({**(encoder or dict(type='DirectEncoder')), 'T': T})
        self.readout = Readout(T, readout)
        widths = [base_channels * self.expansion * 2**i for i in range(num_stages)]
        self.out_channels = tuple(widths[i] for i in range(num_stages) if i in out_indices)
        self.claim_neurons()
        use_events(self, packed_spikes, 'backbone.packed_spikes')

    def _make_neuron(self, joint: bool = False) -> nn.Module:
        return build_neuron(self.joint_neuron if joint else self.neuron, self.T)

    def _make_stem_layer(self, in_channels: int, stem_channels: int) -> None:
        def conv_norm(c_in, c_out, kernel, stride, postfix=1):
            conv = build_conv_layer(self.conv_cfg, c_in, c_out, kernel, stride=stride, padding=kernel // 2, bias=False)
            return conv, *build_norm_layer(self.norm_cfg, c_out, postfix=postfix)

        if self.deep_stem:
            layers, half = [], stem_channels // 2
            for c_in, c_out, stride in [(in_channels, half, 2), (half, half, 1), (half, stem_channels, 1)]:
                conv, _, norm = conv_norm(c_in, c_out, 3, stride)
                layers += [conv, norm, self._make_neuron(joint=True)]
            self.stem = nn.Sequential(*layers)
            if self.packed_spikes:
                for i in (3, 6):
                    pack(self.stem, str(i), spike_bits(layers[2]))
        else:
            kernel, stride = (7, 2) if self.stem_type == 'imagenet' else (3, 1)
            self.conv1, self.norm1_name, norm1 = conv_norm(in_channels, stem_channels, kernel, stride)
            self.add_module(self.norm1_name, norm1)
            self.neuron1 = self._make_neuron(joint=True)
        if self.stem_type == 'imagenet':
            self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)

    def make_res_layer(self, num_blocks: int, dilation: int, **kwargs) -> nn.Module:
        """One stage; the parent's constructor calls this for each stage in order."""
        first = dilation // 2 if self.contract_dilation and dilation > 1 else dilation
        dilations = [first] + [dilation] * (num_blocks - 1)
        if self.multi_grid is not None and len(self.res_layers) == self.num_stages - 1:
            dilations = list(self.multi_grid)
        each, stage = iter(dilations), len(self.res_layers)
        added = dict(dcn=self.stage_dcn[stage], plugins=self.stage_plugins[stage])

        def block(**block_kwargs):
            own = dict(make_neuron=self._make_neuron, dilation=next(each), T=self.T, **added)
            return self.block_type(**choose_shortcut(block_kwargs, self.shortcut), **own)

        layer = ResLayer(**{**kwargs, 'block': block, 'num_blocks': num_blocks})
        del layer.block  # a local function cannot be pickled
        down = layer[0].downsample
        if self.avg_down and down is not None and not isinstance(down[0], nn.AvgPool2d):
            # mmdet and mmseg have a pooling of size 1 here, which shifts the names of the following modules.
            layer[0].downsample = nn.Sequential(nn.Identity(), *down)
        if self.packed_spikes:
            for block in layer:
                bits = spike_bits(block.last_neuron)
                from_stem = not self.res_layers and block is layer[0]
                block.pack_spikes(bits if from_stem else max(bits, self.block_bits), bits)
        return layer

    def _frozen_modules(self) -> list[nn.Module]:
        stem = [self.stem] if self.deep_stem else [self.conv1, self.norm1]
        if hasattr(self, 'neuron1'):
            # The neuron's own parameters (PLIF) belong to the stem.
            stem.append(self.neuron1)
        stages = [getattr(self, f'layer{i}') for i in range(1, self.frozen_stages + 1)]
        return [*stem, *stages] if self.frozen_stages >= 0 else []

    def _stem(self, x: Tensor) -> Tensor:
        """The spikes ``[T*B, C, H, W]`` that enter stage 1, from images or event frames."""
        if self.deep_stem:
            conv, norm, neuron, *rest = self.stem
        else:
            conv, norm, neuron, rest = self.conv1, self.norm1, self.neuron1, []
        x = self.encoder.after_stem(x, conv, norm, neuron)
        while rest:
            conv, norm, neuron, *rest = rest
            x = neuron.after_norm(norm, conv(x))
        return self.maxpool(x) if self.stem_type == 'imagenet' else x

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """One map per stage in ``out_indices``, from images ``[B, C, H, W]`` or event frames ``[B, T, C, H, W]``."""
        x = self._stem(x)
        outs = []
        for i, name in enumerate(self.res_layers):
            x = getattr(self, name)(x)
            if i in self.out_indices:
                outs.append(self.readout(self._stage_output(i, x)))
        return tuple(outs)

    def _stage_output(self, stage: int, x: Tensor) -> Tensor:
        """The returned output of stage ``stage``, whose next stage gets ``x``."""
        return x

    def init_weights(self) -> None:
        """Initialise the weights; refuse a ResNet checkpoint of another depth, of which only a part would be loaded."""
        source = self.init_cfg.get('checkpoint') if isinstance(self.init_cfg, dict) else None
        named = re.search(r'://(?:.*/)?resnet(\d+)', source or '')
        if named and int(named[1]) != self.depth:
            raise ValueError(
                f'backbone.init_cfg loads {source}, but backbone.depth={self.depth}: name a checkpoint of that depth, '
                'or set init_cfg=None (mmseg: pretrained=None) to start from scratch'
            )
        BaseModule.init_weights(self)
        for module in self.modules() if source is None else ():
            if isinstance(module, SpikingBlock):
                module.init_added()
                if self.zero_init_residual:
                    constant_init(module.last_norm, 0)
