"""CARAFE (Wang et al., ICCV 2019): upsampling by kernels that depend on the content, in PyTorch.

mmcv has two implementations of the same function; here one serves both.
"""

import torch.nn.functional as F
from torch import Tensor

from .common import vjp, wide

__all__ = ['carafe_forward', 'carafe_backward', 'carafe_naive_forward', 'carafe_naive_backward']


def reassemble(features: Tensor, masks: Tensor, kernel: int, groups: int, scale: int) -> Tensor:
    """Upsampled features ``[B, C, scale * H, scale * W]``, weighted sums of ``kernel`` x ``kernel`` source pixels.

    ``masks`` ``[B, groups * kernel * kernel, scale * H, scale * W]`` holds the weights, for each group of channels.
    """
    _, _, height, width = features.shape
    padded = F.pad(features, [kernel // 2] * 4).unflatten(1, (groups, -1))
    masks = masks.unflatten(1, (groups, kernel * kernel)).unflatten(-1, (width, scale)).unflatten(-3, (height, scale))
    # This loops over the kernel, because unfolded features would take kernel * kernel times their memory.
    out = 0
    for index in range(kernel * kernel):
        y, x = divmod(index, kernel)
        source = padded[..., y : y + height, x : x + width]
        out = out + source[..., :, None, :, None] * masks[:, :, None, index]
    return out.flatten(1, 2).flatten(-2).flatten(-3, -2)


def carafe_naive_forward(
    features: Tensor, masks: Tensor, output: Tensor, kernel_size: int, group_size: int, scale_factor: int
) -> None:
    """Writes ``reassemble`` into ``output``."""
    output.copy_(reassemble(wide(features), wide(masks), kernel_size, group_size, scale_factor))


def carafe_naive_backward(
    top_grad: Tensor,
    features: Tensor,
    masks: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Writes the gradients of ``reassemble`` for features and masks into ``bottom_grad`` and ``mask_grad``."""
    grads = vjp(
        lambda *inputs: reassemble(*inputs, kernel_size, group_size, scale_factor),
        [wide(features), wide(masks)],
        wide(top_grad),
    )
    bottom_grad.copy_(grads[0])
    mask_grad.copy_(grads[1])


def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Writes ``reassemble`` into ``output``, and the features into ``rfeatures``, which mmcv keeps for backward."""
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, kernel_size, group_size, scale_factor)


def carafe_backward(
    top_grad: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rtop_grad: Tensor,
    rbottom_grad_hs: Tensor,
    rbottom_grad: Tensor,
    rmask_grad: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """The same as ``carafe_naive_backward``; mmcv's scratch tensors, whose names begin with r, are not written."""
    carafe_naive_backward(top_grad, rfeatures, masks, bottom_grad, mask_grad, kernel_size, group_size, scale_factor)
