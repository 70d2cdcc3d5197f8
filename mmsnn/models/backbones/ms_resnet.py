"""MS-ResNet (Hu et al., "Advancing Spiking Neural Networks Toward Deep Residual Learning", TNNLS 2024)."""

from mmcv.cnn import build_conv_layer, build_norm_layer
from mmpretrain.models.backbones.resnet import BasicBlock
from torch import Tensor, nn

from mmsnn.layers.conv import pack
from mmsnn.registry import MODELS

from .cifar_resnet import CIFAR_DEPTHS
from .residual import SpikingBlock
from .resnet import SpikingResNet


class MSBlock(SpikingBlock):
    """A branch of twice neuron-conv-norm and a shortcut without neurons; ``neuron1`` comes before ``conv1``."""

    def pack_spikes(self, bits_in: int, bits: int) -> None:
        """Make the convolutions of the branch keep their inputs packed; the shortcut's input is analog."""
        for name in ('conv1', 'conv2'):
            pack(self, name, bits)

    def block(self, x: Tensor) -> Tensor:
        norm1, norm2 = (getattr(self, name) for name in self.norm_names)
        identity = x if self.downsample is None else self.downsample(x)
        x = self.conv1(self.neuron1(x))
        x = self.conv2(self.neuron2.after_norm(norm1, x))
        return self.drop_path(norm2(x)) + identity


@MODELS.register_module()
class MSResNet(SpikingResNet):
    """MS-ResNet: residual blocks add to membrane potentials, which pass no neuron from the first block to the last.

    Sums of potentials are not a suitable output of a spiking network, because they grow with depth. So each returned
    stage ends in a neuron, as the authors' network does after its last stage: ``out_neuron1`` ... fire on the sums of
    ``layer1`` ..., and the returned maps are firing rates, as those of the other backbones. For all stages but the last
    these spikes equal those of the first neuron in the next stage. The next stage gets the sums. Distillation taps read
    the sums at ``backbone.layer1`` ... and the spikes at ``backbone.out_neuron1`` ...

    Parameters are named as in torchvision's ResNet. The ImageNet stem does not pool. Instead, stage 1 has twice its
    stride (the argument ``strides`` keeps its meaning), and so one more shortcut convolution than an ANN.

    The authors' settings are ``neuron=dict(type='LIF', tau=4 / 3, v_threshold=0.5, decay_input=False,
    detach_reset=True, surrogate='rectangle')`` and ``norm_cfg=dict(type='mmsnn.TDBN', v_threshold=0.5)``.

    Args:
        depth: 18, 34, 104, or a depth of the CIFAR networks with three stages (see `SpikingResNet`). All have basic
            blocks.
        T, neuron, stem: as in `SpikingResNet`.
        deep_stem: whether the stem has three 3x3 convolutions with biases and nothing between them. None means True for
            depth 104 with the ImageNet stem, as in the authors' code. (The paper's 77.28 M parameters belong to the 7x7
            stem; the deep stem has 77.35 M.)
        avg_down: whether shortcuts pool before their convolution instead of striding. None means True for depth 104.
        zero_init_residual: whether every block starts as its shortcut.
        kwargs: arguments of `SpikingResNet`.

    Raises:
        ValueError: as in `SpikingResNet`, or ``joint_neuron`` is given, although no neuron follows an addition.
    """

    block_type = MSBlock
    arch_settings = {
        18: (BasicBlock, (2, 2, 2, 2)),
        34: (BasicBlock, (3, 4, 6, 3)),
        104: (BasicBlock, (3, 8, 32, 8)),
        **CIFAR_DEPTHS,
    }

    def __init__(
        self,
        depth: int,
        T: int = 4,
        neuron: dict | None = None,
        stem: str | None = None,
        deep_stem: bool | None = None,
        avg_down: bool | None = None,
        zero_init_residual: bool = True,
        **kwargs,
    ):
        if kwargs.get('joint_neuron'):
            raise ValueError('backbone.joint_neuron belongs to SpikingResNet: here no neuron follows an addition')
        super().__init__(
            depth,
            T,
            neuron,
            stem=stem,
            deep_stem=depth == 104 and stem != 'cifar' if deep_stem is None else deep_stem,
            avg_down=depth == 104 if avg_down is None else avg_down,
            zero_init_residual=zero_init_residual,
            **kwargs,
        )

    def _make_stem_layer(self, in_channels: int, stem_channels: int) -> None:
        def conv(c_in, kernel, stride, bias=False):
            geometry = dict(stride=stride, padding=kernel // 2, bias=bias)
            return build_conv_layer(self.conv_cfg, c_in, stem_channels, kernel, **geometry)

        name, norm = build_norm_layer(self.norm_cfg, stem_channels, postfix=1)
        if self.deep_stem:
            widths_strides = [(in_channels, 2), (stem_channels, 1), (stem_channels, 1)]
            self.stem = nn.Sequential(*[conv(c_in, 3, stride, bias=True) for c_in, stride in widths_strides], norm)
        else:
            self.conv1 = conv(in_channels, 7, 2) if self.stem_type == 'imagenet' else conv(in_channels, 3, 1)
            self.norm1_name = name
            self.add_module(name, norm)

    def make_res_layer(self, num_blocks: int, dilation: int, stride: int, **kwargs) -> nn.Module:
        """One stage; also adds the neuron that fires on its output."""
        stage = len(self.res_layers)
        if stage == 0 and self.stem_type == 'imagenet':
            stride = 2 * stride
        if stage in self.out_indices:
            self.add_module(f'out_neuron{stage + 1}', self._make_neuron())
        return super().make_res_layer(num_blocks, dilation, stride=stride, **kwargs)

    def _frozen_modules(self) -> list[nn.Module]:
        # The output neurons of frozen stages are frozen as well.
        outs = [getattr(self, f'out_neuron{stage + 1}') for stage in self.out_indices if stage < self.frozen_stages]
        return [*super()._frozen_modules(), *outs]

    def _stem(self, x: Tensor) -> Tensor:
        """The potentials ``[T*B, C, H, W]`` that enter stage 1, from images or event frames."""
        # A deep stem is called as one module, so that hooks on it (taps, for instance) see its output.
        layers = (self.stem,) if self.deep_stem else (self.conv1, self.norm1)
        return self.encoder.after_stem(x, *layers)

    def _stage_output(self, stage: int, x: Tensor) -> Tensor:
        return getattr(self, f'out_neuron{stage + 1}')(x)
