"""Convolutions whose inputs are spikes."""

import torch
from torch import Tensor, nn

from mmsnn.ops.packed import packed_conv2d
from mmsnn.registry import MODELS


@MODELS.register_module()
class SpikeConv2d(nn.Conv2d):
    """`torch.nn.Conv2d` that keeps its input packed between forward and backward (`mmsnn.ops.packed`).

    Args:
        bits: 1 where the input is spikes, 8 where it is sums of spikes.
        args, kwargs: as for `torch.nn.Conv2d`; padding with anything but a number of zeros is not packed.

    Raises:
        ValueError: in the forward pass, where the input is something else.
    """

    def __init__(self, *args, bits: int = 1, **kwargs):
        super().__init__(*args, **kwargs)
        self.bits = bits

    @classmethod
    def like(cls, conv: nn.Conv2d, bits: int) -> 'SpikeConv2d':
        """A convolution with the settings and the very parameters of ``conv``."""
        names = ('stride', 'padding', 'dilation', 'groups', 'padding_mode')
        kwargs = {name: getattr(conv, name) for name in names}
        kwargs.update(bias=conv.bias is not None, device='meta', bits=bits)
        out = cls(conv.in_channels, conv.out_channels, conv.kernel_size, **kwargs)
        out.weight, out.bias = conv.weight, conv.bias
        return out.train(conv.training)

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, bits={self.bits}'

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # without a backward pass nothing is kept
        if self.padding_mode != 'zeros' or isinstance(self.padding, str) or not torch.is_grad_enabled():
            return super()._conv_forward(x, weight, bias)
        geometry = self.stride, self.padding, self.dilation, self.groups
        return packed_conv2d(x, weight, bias, *geometry, bits=self.bits)


def spike_bits(neuron: nn.Module) -> int:
    """Bits that hold what a neuron emits."""
    return 1 if neuron.settings.levels == 1 else 8


def pack(parent: nn.Module, name: str, bits: int) -> None:
    """Have the convolution ``name`` of ``parent`` keep its input in ``bits`` bits, if it is a plain one."""
    conv = getattr(parent, name)
    if type(conv) is nn.Conv2d:
        parent.add_module(name, SpikeConv2d.like(conv, bits))
