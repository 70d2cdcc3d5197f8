"""Convolutions whose inputs are spikes."""

import torch
from torch import Tensor, nn

from mmsnn.ops.packed_conv import packed_conv2d
from mmsnn.registry import MODELS


@MODELS.register_module()
class SpikeConv2d(nn.Conv2d):
    """`torch.nn.Conv2d` that keeps its input packed between forward and backward (`mmsnn.ops.packed_conv`).

    Args:
        bits: bits per element of the packed input: 1 for spikes, 8 for sums of spikes.
        events: whether output and gradient of the weights are computed on events where that takes less time
            (`mmsnn.ops.packed_conv.packed_conv2d`).
        args, kwargs: arguments of `torch.nn.Conv2d`. With another ``padding_mode`` than zeros, or with ``padding`` as
            a string, the input is kept unpacked.

    Raises:
        ValueError: in the forward pass, the input cannot be packed into ``bits`` bits.
    """

    def __init__(self, *args, bits: int = 1, events: bool = False, **kwargs):
        super().__init__(*args, **kwargs)
        self.bits, self.events = bits, events

    @classmethod
    def like(cls, conv: nn.Conv2d, bits: int) -> 'SpikeConv2d':
        """A `SpikeConv2d` that has the settings of ``conv`` and shares its parameters."""
        names = ('stride', 'padding', 'dilation', 'groups', 'padding_mode')
        kwargs = {name: getattr(conv, name) for name in names}
        kwargs.update(bias=conv.bias is not None, device='meta', bits=bits)
        out = cls(conv.in_channels, conv.out_channels, conv.kernel_size, **kwargs)
        out.weight, out.bias = conv.weight, conv.bias
        return out.train(conv.training)

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, bits={self.bits}, events={self.events}'

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # Without gradients, or in a trace of torch.jit, nothing is kept for a backward pass; an image without a batch
        # is small.
        keeps = torch.is_grad_enabled() and not torch.jit.is_tracing()
        if x.dim() != 4 or self.padding_mode != 'zeros' or isinstance(self.padding, str) or not keeps:
            return super()._conv_forward(x, weight, bias)
        geometry = self.stride, self.padding, self.dilation, self.groups
        return packed_conv2d(x, weight, bias, *geometry, bits=self.bits, events=self.events)


def spike_bits(neuron: nn.Module) -> int:
    """Bits per element that the output of ``neuron`` needs: 1 for spikes, 8 for integers."""
    return 1 if neuron.settings.levels == 1 else 8


def pack(parent: nn.Module, name: str, bits: int) -> None:
    """Replace the convolution ``name`` of ``parent`` by a `SpikeConv2d` with ``bits``, if it is a `torch.nn.Conv2d`."""
    conv = getattr(parent, name)
    if type(conv) is nn.Conv2d:
        parent.add_module(name, SpikeConv2d.like(conv, bits))


def use_events(module: nn.Module, packed_spikes: bool | str, key: str) -> None:
    """Let the convolutions of ``module`` that pack their inputs compute on events, if ``packed_spikes`` is ``event``.

    Args:
        key: name of the option, for messages.

    Raises:
        ValueError: ``packed_spikes`` has another value than False, True and ``'event'``.
    """
    if packed_spikes not in (False, True, 'event'):
        raise ValueError(f"{key} must be False, True or 'event', got {packed_spikes!r}")
    for conv in module.modules():
        if isinstance(conv, SpikeConv2d):
            conv.events = packed_spikes == 'event'
