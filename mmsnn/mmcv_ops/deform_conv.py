"""Deformable convolutions (Dai et al., ICCV 2017; Zhu et al., CVPR 2019), computed by torchvision.

Torchvision's kernels take offsets ``[B, G*K*2, h, w]`` and masks ``[B, G*K, h, w]`` in the same order as mmcv's: for G
groups of channels and K positions in the kernel, with y before x. Two properties of mmcv's kernels are added. A sample
exactly on the padding's outer edge, one pixel above or left of the map, where a zero offset puts samples at a border,
gives its offset no gradient; torchvision gives it the one-sided gradient. And the modulated convolution accepts offsets
and masks of a larger map than its output, as DyHead passes them, and reads them from their beginning in memory.
"""

import torch
from torch import Tensor

from .common import torchvision_ops, wide

__all__ = [
    'deform_conv_forward',
    'deform_conv_backward_input',
    'deform_conv_backward_parameters',
    'modulated_deform_conv_forward',
    'modulated_deform_conv_backward',
]


class Geometry:
    """The sampling positions of a deformable convolution of ``input`` by ``weight``; pairs are vertical, horizontal."""

    def __init__(self, input: Tensor, weight: Tensor, stride, padding, dilation, groups: int, deform_groups: int):
        self.kernel = kernel = tuple(weight.shape[2:])
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.groups, self.deform_groups = groups, deform_groups
        self.out = tuple(
            (size + 2 * p - d * (k - 1) - 1) // s + 1
            for size, k, s, p, d in zip(input.shape[2:], kernel, stride, padding, dilation)
        )
        self.taps = deform_groups * kernel[0] * kernel[1]

    @property
    def settings(self) -> tuple:
        """The settings in the order of torchvision's ops."""
        return *self.stride, *self.padding, *self.dilation, self.groups, self.deform_groups

    def read(self, x: Tensor, channels: int, name: str) -> Tensor:
        """The first elements of each image in ``x``, as ``[B, channels, h, w]`` of the output's size.

        Raises:
            ValueError: ``x`` is too small (mmcv would read past its end); the message contains ``name``.
        """
        shape = torch.Size([len(x), channels, *self.out])
        if x.shape[1:].numel() < shape[1:].numel():
            raise ValueError(f'{name} of shape {tuple(x.shape)} is too small: the output needs {tuple(shape)}')
        return x.flatten(1)[:, : shape[1:].numel()].view(shape)

    def on_edge(self, offset: Tensor) -> Tensor:
        """Mask of the entries of ``offset`` whose sample lies exactly one pixel above or left of the map."""
        edge = False
        for axis, base in enumerate(self.bases(offset)):
            edge |= base + offset.unflatten(1, (-1, 2))[:, :, axis] == -1
        return edge.repeat_interleave(2, dim=1)

    def bases(self, like: Tensor) -> list[Tensor]:
        """Vertical and horizontal positions ``[G*K, h, w]`` of the samples without their offsets."""
        axes = []
        for k, o, s, p, d in zip(self.kernel, self.out, self.stride, self.padding, self.dilation):
            place = torch.arange(k, device=like.device) * d
            axes.append(place[:, None] + torch.arange(o, device=like.device) * s - p)
        (kh, kw), (h, w) = self.kernel, self.out
        y = axes[0][:, None, :, None].expand(kh, kw, h, w)
        x = axes[1][None, :, None, :].expand(kh, kw, h, w)
        return [base.reshape(kh * kw, h, w).repeat(self.deform_groups, 1, 1) for base in (y, x)]


def convolve(geometry: Geometry, input: Tensor, weight: Tensor, offset: Tensor, mask, bias) -> Tensor:
    """The convolution ``[B, C, h, w]``; without ``mask`` all samples have weight 1."""
    torchvision_ops()
    x, weight, offset = wide(input), wide(weight), wide(offset)
    bias = x.new_zeros(len(weight)) if bias is None else wide(bias)
    ones = mask is None
    mask = x.new_zeros(len(x), 1) if ones else wide(mask)
    return torch.ops.torchvision.deform_conv2d(x, weight, offset, mask, bias, *geometry.settings, not ones)


def gradients(geometry: Geometry, grad: Tensor, input: Tensor, weight: Tensor, offset: Tensor, mask) -> tuple:
    """Gradients for input, weight, offset, mask and bias."""
    torchvision_ops()
    x, weight, offset = wide(input), wide(weight), wide(offset)
    ones = mask is None
    mask = x.new_zeros(len(x), 1) if ones else wide(mask)
    tensors = (wide(grad), x, weight, offset, mask, x.new_zeros(len(weight)))
    grads = torch.ops.torchvision._deform_conv2d_backward(*tensors, *geometry.settings, not ones)
    grads[2].masked_fill_(geometry.on_edge(offset), 0)
    return grads


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Writes the deformable convolution of ``input`` into ``output`` ``[B, C, h, w]``; ``dW``, ``dH`` are strides."""
    geometry = Geometry(input, weight, (dH, dW), (padH, padW), (dilationH, dilationW), group, deformable_group)
    output.copy_(convolve(geometry, input, weight, offset, None, None))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Writes the gradients of ``deform_conv_forward`` for input and offset into ``gradInput`` and ``gradOffset``.

    It leaves the gradient for the weight in ``columns``, for ``deform_conv_backward_parameters``.
    """
    geometry = Geometry(input, weight, (dH, dW), (padH, padW), (dilationH, dilationW), group, deformable_group)
    grads = gradients(geometry, gradOutput, input, weight, offset, None)
    gradInput.copy_(grads[0])
    gradOffset.copy_(grads[2])
    # Torchvision computes all gradients at once; mmcv asks for the weight's gradient next, with the same tensor.
    columns.resize_(weight.shape).copy_(grads[1])


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Adds the gradient of ``deform_conv_forward`` for the weight, times ``scale``, to ``gradWeight``.

    It is taken from ``columns`` if ``deform_conv_backward_input`` left it there.
    """
    if columns.shape != gradWeight.shape:
        geometry = Geometry(input, gradWeight, (dH, dW), (padH, padW), (dilationH, dilationW), group, deformable_group)
        # The weight's gradient does not depend on the weight.
        columns = gradients(geometry, gradOutput, input, gradWeight, offset, None)[1]
    gradWeight.add_(columns, alpha=scale)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Writes the deformable convolution whose samples are weighted by ``mask`` into ``output`` ``[B, C, h, w]``.

    Raises:
        ValueError: ``offset`` or ``mask`` has fewer entries than the output needs.
    """
    geometry = Geometry(
        input, weight, (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w), group, deformable_group
    )
    offset, mask = geometry.read(offset, 2 * geometry.taps, 'offset'), geometry.read(mask, geometry.taps, 'mask')
    output.copy_(convolve(geometry, input, weight, offset, mask, bias if with_bias else None))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Writes the gradients of ``modulated_deform_conv_forward`` into the ``grad_*`` tensors."""
    geometry = Geometry(
        input, weight, (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w), group, deformable_group
    )
    read = geometry.read(offset, 2 * geometry.taps, 'offset'), geometry.read(mask, geometry.taps, 'mask')
    grads = gradients(geometry, grad_output, input, weight, *read)
    grad_input.copy_(grads[0])
    grad_weight.copy_(grads[1])
    for grad, target in (grads[2], grad_offset), (grads[3], grad_mask):
        # Elements that the forward pass did not read have gradient 0.
        whole = grad.new_zeros(target.shape).flatten(1)
        whole[:, : grad.shape[1:].numel()] = grad.flatten(1)
        target.copy_(whole.view(target.shape))
    if with_bias:
        grad_bias.copy_(grads[4])
