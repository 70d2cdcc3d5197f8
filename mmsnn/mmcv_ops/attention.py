"""Attention over places of maps: Deformable DETR's (Zhu et al., ICLR 2021) and PSANet's (Zhao et al., ECCV 2018)."""

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
    """Multi-scale deformable attention, ``[B, Q, heads * C]``, by the form in PyTorch that mmcv has for the CPU.

    mmcv asks for the compiled op wherever the tensors are on a GPU. ``value`` is ``[B, keys, heads, C]``: the maps of
    all levels one after the other, whose heights and widths are ``value_spatial_shapes`` ``[levels, 2]``.
    ``sampling_locations`` is ``[B, Q, heads, levels, points, 2]``, x and y from 0 to 1; ``attention_weights`` is
    ``[B, Q, heads, levels, points]``.
    """
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    # Sizes as numbers, fetched from the GPU once.
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
    """Gradients of ``ms_deform_attn_forward`` into the tensors named so; the forward is computed again for them.

    A sample exactly one pixel above or left of a map passes its location the gradient of one side, as mmcv's form for
    the CPU does; the compiled op passes none.
    """

    def attend(value, locations, weights):
        return ms_deform_attn_forward(
            value, value_spatial_shapes, value_level_start_index, locations, weights, im2col_step
        )

    inputs = [wide(x) for x in (value, sampling_locations, attention_weights)]
    for target, grad in zip((grad_value, grad_sampling_loc, grad_attn_weight), vjp(attend, inputs, wide(grad_output))):
        target.copy_(grad)


def spread(mask: Tensor, size: tuple[int, int], collect: bool) -> Tensor:
    """Attention between all places of a map, ``[B, H*W, H, W]``, from masks ``[B, h*w, H, W]`` centred on each place.

    A mask says how much each place around its centre matters. Of the result's two places the first is that of the
    mask's entry and the second the centre if ``collect``, else the other way round. What no mask reaches is 0.
    """
    height, width = mask.shape[2:]
    rows, row_valid = offsets(height, size[0], mask.device)
    columns, column_valid = offsets(width, size[1], mask.device)
    y, x = torch.arange(height, device=mask.device), torch.arange(width, device=mask.device)
    masks = mask.unflatten(1, size)
    # In the order y and x of the entry, y and x of the centre.
    found = masks[:, rows[:, None, :, None], columns[None, :, None, :], y[:, None], x]
    found = found * (row_valid[:, None, :, None] & column_valid[None, :, None, :])
    found = found.flatten(3).flatten(1, 2)
    return (found if collect else found.transpose(1, 2)).unflatten(2, (height, width))


def offsets(places: int, size: int, device) -> tuple[Tensor, Tensor]:
    """Index into a mask of ``size`` of each place (row) seen from each centre (column), and whether it has one."""
    place = torch.arange(places, device=device)
    index = place[:, None] - place + (size - 1) // 2
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
    """``spread`` of ``input`` into ``output``; ``psa_type`` is 0 to collect, 1 to distribute."""
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
    """Gradient of ``psamask_forward`` into ``grad_input``."""
    # The op is linear: the point at which it is differentiated does not matter.
    at = torch.zeros_like(grad_input)
    grad_input.copy_(vjp(lambda mask: spread(mask, (h_mask, w_mask), psa_type == 0), [at], grad_output)[0])
