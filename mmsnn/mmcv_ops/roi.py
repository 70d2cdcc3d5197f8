"""Pooling of regions of interest. Rois are ``[R, 5]``, as image index and box; feature maps are ``[B, C, H, W]``."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .common import torchvision_ops, vjp, wide

__all__ = [
    'roi_align_forward',
    'roi_align_backward',
    'roi_pool_forward',
    'roi_pool_backward',
    'deform_roi_pool_forward',
    'deform_roi_pool_backward',
]


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Writes RoIAlign (He et al., ICCV 2017) of ``input`` ``[B, C, H, W]`` into ``output`` ``[R, C, h, w]``.

    Raises:
        RuntimeError: ``pool_mode`` is 0 for the maximum; torchvision only has the average.
    """
    if pool_mode == 0:
        raise RuntimeError("RoIAlign with pool_mode='max' needs a compiled mmcv; mmsnn replaces 'avg' only.")
    torchvision_ops()
    x = wide(input)
    sampling = (spatial_scale, aligned_height, aligned_width, sampling_ratio, aligned)
    output.copy_(torch.ops.torchvision.roi_align(x, rois.to(x.dtype), *sampling))


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Writes the gradient of ``roi_align_forward`` for ``input`` into ``grad_input`` ``[B, C, H, W]``."""
    torchvision_ops()
    grad = wide(grad_output)
    bins = (spatial_scale, aligned_height, aligned_width)
    grad_input.copy_(
        torch.ops.torchvision._roi_align_backward(
            grad, rois.to(grad.dtype), *bins, *grad_input.shape, sampling_ratio, aligned
        )
    )


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """RoIPool (Girshick, ICCV 2015): writes the maxima of bins into ``output`` ``[R, C, h, w]``.

    The flat index of each maximum in its map goes into ``argmax``. Bins extend from the floor of their lower to the
    ceiling of their upper edge, as in mmcv; torchvision rounds the roi first. An empty bin gives 0 and index -1.
    """
    x, (height, width) = wide(input), input.shape[2:]
    rois = wide(rois)
    rows = bin_edges(rois[:, 2], rois[:, 4], spatial_scale, pooled_height, height)
    columns = bin_edges(rois[:, 1], rois[:, 3], spatial_scale, pooled_width, width)
    for i, image in enumerate(rois[:, 0].long().tolist()):
        (y, y_valid), (x_, x_valid) = windows(rows[i], x.device), windows(columns[i], x.device)
        valid = y_valid[:, None, :, None] & x_valid[:, None, :]
        # [C, h, w, rows of a bin, columns of a bin]
        pixels = x[image][:, y.clamp(max=height - 1)[:, None, :, None], x_.clamp(max=width - 1)[:, None, :]]
        best, at = pixels.masked_fill(~valid, -torch.inf).flatten(-2).max(-1)
        index = (y[:, None, :, None] * width + x_[:, None, :]).flatten(-2).expand(*at.shape, -1)
        empty = ~valid.flatten(-2).any(-1)
        output[i] = best.masked_fill(empty, 0)
        argmax[i] = index.gather(-1, at[..., None])[..., 0].masked_fill(empty, -1)


def bin_edges(low: Tensor, high: Tensor, scale: float, bins: int, size: int) -> Tensor:
    """First row of each bin and the row after its last, ``[R, bins, 2]``; rois include ``low`` and ``high``."""
    start, end = low * scale, (high + 1) * scale
    step = ((end - start) / bins)[:, None]
    number = torch.arange(bins, device=low.device)
    first = (number * step + start[:, None]).floor()
    last = torch.where(step > 0, ((number + 1) * step + start[:, None]).ceil(), first)
    return torch.stack([first, last], dim=-1).clamp(0, size).long().cpu()


def windows(edges: Tensor, device) -> tuple[Tensor, Tensor]:
    """Row indices of each bin, ``[bins, longest]``, and a mask of those that belong to it."""
    first, last = edges.unbind(-1)
    index = first[:, None] + torch.arange(max(1, int((last - first).max())))
    return index.to(device), (index < last[:, None]).to(device)


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Adds the gradient of ``roi_pool_forward`` to ``grad_input`` ``[B, C, H, W]`` at the positions of the maxima."""
    grad = wide(grad_output)
    plane = rois[:, :1].long() * grad_input.size(1) + torch.arange(grad_input.size(1), device=rois.device)
    index = plane[:, :, None, None] * grad_input[0, 0].numel() + argmax
    pooled = argmax >= 0
    total = wide(grad_input).flatten().index_add(0, index[pooled], grad[pooled])
    grad_input.copy_(total.view(grad_input.shape))


def deform_pool(
    input: Tensor, offset: Tensor, rois: Tensor, bins: tuple[int, int], scale: float, ratio: int, gamma: float
) -> Tensor:
    """RoIAlign, ``[R, C, h, w]``, with bins shifted by ``offset`` ``[R, 2, h, w]`` in x and y, unless that is empty.

    Offsets are in units of ``gamma`` times the roi's size. ``ratio`` is the number of samples in each direction; 0
    means one per pixel.
    """
    height, width = input.shape[2:]
    start = rois[:, 1:3] * scale - 0.5
    size = rois[:, 3:5] * scale - 0.5 - start
    step = size / size.new_tensor(bins[::-1])
    grid = step.ceil().long().clamp(min=0) if ratio <= 0 else torch.full_like(step, ratio, dtype=torch.long)
    corner = start[:, :, None, None].expand(-1, -1, *bins)
    if offset.numel():
        corner = corner + gamma * size[:, :, None, None] * offset
    out = input.new_zeros(len(rois), input.size(1), *bins)
    kinds, kind = torch.cat([rois[:, :1].long(), grid], dim=1).unique(dim=0, return_inverse=True)
    indices, pools = [], []
    # Rois of one image with the same number of samples are pooled at once.
    for number, (image, columns, rows) in enumerate(kinds.tolist()):
        if not rows * columns:
            continue
        chosen = (kind == number).nonzero()[:, 0]
        x = positions(corner[chosen, 0], step[chosen, 0], columns, axis=2)[..., None, :]
        y = positions(corner[chosen, 1], step[chosen, 1], rows, axis=1)[..., None]
        x, y = torch.broadcast_tensors(x, y)
        inside = (x >= -1) & (x <= width) & (y >= -1) & (y <= height)
        # grid_sample takes coordinates from -1 to 1 instead of pixels.
        at = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1).flatten(0, 2).flatten(1, 2)
        samples = F.grid_sample(input[image, None], at[None], 'bilinear', 'border', align_corners=False)[0]
        pooled = (samples * inside.flatten(0, 2).flatten(1)).mean(-1).unflatten(1, (len(chosen), *bins))
        indices.append(chosen)
        pools.append(pooled.transpose(0, 1))
    return out.index_copy(0, torch.cat(indices), torch.cat(pools)) if indices else out


def positions(corner: Tensor, step: Tensor, samples: int, axis: int) -> Tensor:
    """Coordinates along one axis of the samples in each bin, ``[R, h, w, samples]``; the first bin is at ``corner``."""
    shape = [-1 if i == axis else 1 for i in range(4)]
    number = torch.arange(corner.size(axis), device=corner.device).view(shape)
    within = (torch.arange(samples, dtype=corner.dtype, device=corner.device) + 0.5) / samples
    return corner[..., None] + step[:, None, None, None] * (number + within)


def deform_roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Writes deformable RoI pooling (Dai et al., ICCV 2017), ``deform_pool``, into ``output`` ``[R, C, h, w]``."""
    bins = pooled_height, pooled_width
    output.copy_(deform_pool(wide(input), wide(offset), wide(rois), bins, spatial_scale, sampling_ratio, gamma))


def deform_roi_pool_backward(
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Writes the gradients of ``deform_roi_pool_forward`` for input and offset into ``grad_input``, ``grad_offset``.

    Beyond the centres of the outermost pixels a sample does not change with its position, and so its offset gets no
    gradient; mmcv's kernel gives it one.
    """
    settings = (wide(rois), (pooled_height, pooled_width), spatial_scale, sampling_ratio, gamma)
    grads = vjp(lambda *inputs: deform_pool(*inputs, *settings), [wide(input), wide(offset)], wide(grad_output))
    grad_input.copy_(grads[0])
    grad_offset.copy_(grads[1])
