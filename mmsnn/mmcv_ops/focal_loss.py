"""Focal losses (Lin et al., ICCV 2017) in PyTorch."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .common import vjp, wide

__all__ = [
    'sigmoid_focal_loss_forward',
    'sigmoid_focal_loss_backward',
    'softmax_focal_loss_forward',
    'softmax_focal_loss_backward',
]


def sigmoid_focal(logits: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float) -> Tensor:
    """Focal loss (Lin et al., ICCV 2017) of each class against the rest, ``[N, C]``, unreduced.

    ``target`` ``[N]`` holds class indices, C for background; ``weight`` is empty or ``[C]``, indexed by the target.
    mmcv's kernel takes logarithms of rounded probabilities and gives 87 for a wrong logit of 20; this gives 20.
    """
    logits = wide(logits)
    # `right` is the logit of the correct answer to each binary problem.
    positive = target[:, None] == torch.arange(logits.size(1), device=target.device)
    right = torch.where(positive, logits, -logits)
    balance = torch.where(positive, alpha, 1 - alpha)
    # (1 - p)^gamma is computed by its logarithm, whose gradient is finite at p = 1, too.
    loss = -balance * torch.exp(gamma * F.logsigmoid(-right)) * F.logsigmoid(right)
    return loss * weight.index_select(0, target)[:, None] if weight.numel() else loss


def softmax_focal(logits: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float) -> Tensor:
    """Focal loss of a softmax, ``[N]``, unreduced, from ``logits`` ``[N, C]``; it is 0 for a negative target."""
    logits = wide(logits)
    label = target.clamp(min=0)
    log_p = F.log_softmax(logits, dim=1).gather(1, label[:, None])[:, 0]
    loss = -alpha * (1 - log_p.exp()) ** gamma * log_p
    loss = loss * weight[label] if weight.numel() else loss
    return loss * (target >= 0)


def gradient(loss, logits: Tensor, *args) -> Tensor:
    """Gradient of the sum of ``loss(logits, *args)`` with respect to ``logits``."""
    return vjp(lambda x: loss(x, *args).sum(), [logits])[0]


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Writes ``sigmoid_focal`` into ``output`` ``[N, C]``."""
    output.copy_(sigmoid_focal(input, target, weight, gamma, alpha))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Writes the gradient of ``sigmoid_focal`` into ``grad_input`` ``[N, C]``."""
    grad_input.copy_(gradient(sigmoid_focal, input, target, weight, gamma, alpha))


def logits_of(softmax: Tensor) -> Tensor:
    """Logits with this ``softmax`` ``[N, C]``, because mmcv passes probabilities only."""
    return wide(softmax).clamp_min(torch.finfo(torch.float32).tiny).log()


def softmax_focal_loss_forward(
    softmax: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Writes ``softmax_focal`` into ``output`` ``[N]``, from probabilities ``[N, C]``."""
    output.copy_(softmax_focal(logits_of(softmax), target, weight, gamma, alpha))


def softmax_focal_loss_backward(
    softmax: Tensor, target: Tensor, weight: Tensor, buff: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Writes the gradient of ``softmax_focal`` for the logits into ``grad_input`` ``[N, C]``; ``buff`` is not used."""
    grad_input.copy_(gradient(softmax_focal, logits_of(softmax), target, weight, gamma, alpha))
