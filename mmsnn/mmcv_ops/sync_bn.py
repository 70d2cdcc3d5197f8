"""The local parts of ``MMSyncBN``, mmcv's batch norm over several processes; mmcv exchanges sums between them.

Activations are ``[N, C, S]``; the statistics and the normalised activations ``norm`` are float32.
"""

from torch import Tensor

__all__ = [
    'sync_bn_forward_mean',
    'sync_bn_forward_var',
    'sync_bn_forward_output',
    'sync_bn_backward_param',
    'sync_bn_backward_data',
]


def sync_bn_forward_mean(input: Tensor, mean: Tensor) -> None:
    """Writes the mean of each channel into ``mean`` ``[C]``."""
    mean.copy_(input.float().mean((0, 2)))


def sync_bn_forward_var(input: Tensor, mean: Tensor, var: Tensor) -> None:
    """Writes the mean squared distance of each channel from ``mean`` into ``var`` ``[C]``."""
    var.copy_((input.float() - mean[:, None]).square().mean((0, 2)))


def sync_bn_forward_output(
    input: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    norm: Tensor,
    std: Tensor,
    output: Tensor,
    eps: float,
    momentum: float | Tensor,
    group_size: int,
) -> None:
    """Writes ``std`` ``[C]``, ``norm`` and ``output``, and updates the running statistics by ``momentum``."""
    std.copy_((var + eps).sqrt())
    norm.copy_((input.float() - mean[:, None]) / std[:, None])
    output.copy_(norm if weight is None else norm * weight[:, None] + bias[:, None])
    if running_mean is not None:
        count = input.size(0) * input.size(2) * group_size
        running_mean.lerp_(mean, float(momentum))
        running_var.lerp_(var * count / (count - 1) if count > 1 else var, float(momentum))


def sync_bn_backward_param(grad_output: Tensor, norm: Tensor, grad_weight: Tensor, grad_bias: Tensor) -> None:
    """Writes the gradients for weight and bias ``[C]`` that come from this process's activations."""
    grad = grad_output.float()
    grad_weight.copy_((grad * norm).sum((0, 2)))
    grad_bias.copy_(grad.sum((0, 2)))


def sync_bn_backward_data(
    grad_output: Tensor,
    weight: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    norm: Tensor,
    std: Tensor,
    grad_input: Tensor,
) -> None:
    """Writes the gradient for the activations, given ``grad_weight`` and ``grad_bias`` averaged over the processes."""
    count = grad_output.size(0) * grad_output.size(2)
    through_statistics = (grad_weight[:, None] * norm + grad_bias[:, None]) / count
    grad_input.copy_((grad_output.float() - through_statistics) * (weight / std)[:, None])
