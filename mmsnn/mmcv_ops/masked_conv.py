"""Convolution at chosen places of one image, as guided anchoring does in tests (Wang et al., CVPR 2019), in PyTorch."""

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
    """Patches of ``im`` ``[1, C, H, W]`` under the kernel at M places, into ``col`` ``[C * kernel places, M]``."""
    padded = F.pad(im[0], (pad_w, pad_w, pad_h, pad_h))
    rows = torch.arange(kernel_h, device=im.device)[:, None, None] + mask_h_idx
    columns = torch.arange(kernel_w, device=im.device)[:, None] + mask_w_idx
    col.copy_(padded[:, rows, columns].view(col.shape))


def masked_col2im_forward(
    col: Tensor, mask_h_idx: Tensor, mask_w_idx: Tensor, im: Tensor, height: int, width: int, channels: int
) -> None:
    """Puts ``col`` ``[C, M]`` at its M places of ``im`` ``[1, C, H, W]``; the others stay."""
    im[0, :, mask_h_idx, mask_w_idx] = col
