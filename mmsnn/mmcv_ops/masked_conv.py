"""Convolution at selected positions of one image, which guided anchoring (Wang et al., CVPR 2019) uses in tests."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ['masked_im2col_forward', 'masked_col2im_forward']


def masked_im2col_forward(
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Writes the patches of ``im`` ``[1, C, H, W]`` at M positions into ``col`` ``[C * kernel_h * kernel_w, M]``."""
    padded = F.pad(im[0], (pad_w, pad_w, pad_h, pad_h))
    rows = torch.arange(kernel_h, device=im.device)[:, None, None] + mask_h_idx
    columns = torch.arange(kernel_w, device=im.device)[:, None] + mask_w_idx
    col.copy_(padded[:, rows, columns].view(col.shape))


def masked_col2im_forward(
    col: Tensor, mask_h_idx: Tensor, mask_w_idx: Tensor, im: Tensor, height: int, width: int, channels: int
) -> None:
    """Writes ``col`` ``[C, M]`` to its M positions of ``im`` ``[1, C, H, W]``; other positions are unchanged."""
    im[0, :, mask_h_idx, mask_w_idx] = col
