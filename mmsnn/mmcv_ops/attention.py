"""Attention over positions of maps: Deformable DETR (Zhu et al., ICLR 2021), PSANet (Zhao et al., ECCV 2018)."""

import torch
from torch import Tensor

from .common import vjp, wide

__all__ = ['ms_deform_attn_forward', 'ms_deform_attn_backward', 'psamask_forward', 'psamask_backward']


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Multi-scale deformable attention, ``[B, Q, heads * C]``, by mmcv's own implementation in PyTorch.

    mmcv itself uses that implementation on the CPU, and this op on a GPU. ``value`` is ``[B, keys, heads, C]``: the
    concatenated maps of all levels, whose heights and widths are ``value_spatial_shapes`` ``[levels, 2]``.
    ``sampling_locations`` is ``[B, Q, heads, levels, points, 2]``, x and y from 0 to 1; ``attention_weights`` is
    ``[B, Q, heads, levels, points]``.
    """
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    # The sizes are copied from the GPU once.
    sizes = value_spatial_shapes.tolist()
    tensors = wide(value), sizes, wide(sampling_locations), wide(attention_weights)
    return multi_scale_deformable_attn_pytorch(*tensors).to(value.dtype)


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Gradients of ``ms_deform_attn_forward``, into the ``grad_*`` tensors; the forward pass is computed again.

    A sample exactly one pixel above or left of a map gets the one-sided gradient for its location, as in mmcv's
    implementation in PyTorch; in the compiled op it gets none.
    """

    def attend(value, locations, weights):
        return ms_deform_attn_forward(
            value, value_spatial_shapes, value_level_start_index, locations, weights, im2col_step
        )

    inputs = [wide(x) for x in (value, sampling_locations, attention_weights)]
    for target, grad in zip((grad_value, grad_sampling_loc, grad_attn_weight), vjp(attend, inputs, wide(grad_output))):
        target.copy_(grad)


def spread(mask: Tensor, size: tuple[int, int], collect: bool) -> Tensor:
    """Attention between all positions, ``[B, H*W, H, W]``, from a mask for every position, ``[B, h*w, H, W]``.

    The mask of a position, its centre, holds the weights of the positions around it. The result has two positions: if
    ``collect``, first the one that is weighted and then the centre, else the reverse. It is 0 where no mask reaches.
    """
    height, width = mask.shape[2:]
    rows, row_valid = offsets(height, size[0], mask.device)
    columns, column_valid = offsets(width, size[1], mask.device)
    y, x = torch.arange(height, device=mask.device), torch.arange(width, device=mask.device)
    masks = mask.unflatten(1, size)
    # The dimensions are y and x of the weighted position, then y and x of the centre.
    weights = masks[:, rows[:, None, :, None], columns[None, :, None, :], y[:, None], x]
    weights = weights * (row_valid[:, None, :, None] & column_valid[None, :, None, :])
    weights = weights.flatten(3).flatten(1, 2)
    return (weights if collect else weights.transpose(1, 2)).unflatten(2, (height, width))


def offsets(length: int, size: int, device) -> tuple[Tensor, Tensor]:
    """Along an axis, the index of each position (row) in the mask of each centre (column), and whether it is inside."""
    position = torch.arange(length, device=device)
    index = position[:, None] - position + (size - 1) // 2
    return index.clamp(0, size - 1), (index >= 0) & (index < size)


def psamask_forward(
    input: Tensor,
    output: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Writes ``spread`` of ``input`` into ``output``; ``psa_type`` is 0 to collect, 1 to distribute."""
    output.copy_(spread(input, (h_mask, w_mask), psa_type == 0))


def psamask_backward(
    grad_output: Tensor,
    grad_input: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Writes the gradient of ``psamask_forward`` into ``grad_input``."""
    # The op is linear, so its gradient is the same at every input.
    at = torch.zeros_like(grad_input)
    grad_input.copy_(vjp(lambda mask: spread(mask, (h_mask, w_mask), psa_type == 0), [at], grad_output)[0])
