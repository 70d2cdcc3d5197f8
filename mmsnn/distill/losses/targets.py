"""Classification labels as probabilities, and the cross-entropy with them."""

import torch
from torch import Tensor


def soft_targets(data_samples: list | None, num_classes: int, like: Tensor) -> Tensor:
    """Target probabilities ``[B, K]`` of mmpretrain's data samples, on the device and in the type of ``like``.

    They are ``gt_score`` (mixup, CutMix) where a sample has it, and ``gt_label`` as one-hot otherwise.

    Raises:
        ValueError: there are no samples, or a sample has neither, several labels, or scores for another number of
            classes.
    """
    if not data_samples:
        raise ValueError('this loss needs labels, and there are no data samples')
    return torch.stack([_target(sample, i, num_classes, like) for i, sample in enumerate(data_samples)])


def _target(sample, i: int, num_classes: int, like: Tensor) -> Tensor:
    score, label = (getattr(sample, key, None) for key in ('gt_score', 'gt_label'))
    if score is not None:
        if score.shape != (num_classes,):
            raise ValueError(f'gt_score of data sample {i} has shape {tuple(score.shape)}, the logits {num_classes}')
        return score.to(like)
    if label is None:
        raise ValueError(f'data sample {i} has neither gt_label nor gt_score: this loss is for classification')
    if label.numel() != 1:
        raise ValueError(f'data sample {i} has {label.numel()} labels: this loss needs one per image, or gt_score')
    return like.new_zeros(num_classes).scatter_(0, label.to(like.device).reshape(1), 1.0)


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """``-sum_k target_k log softmax(logits)_k`` over the last dimension; the others stay."""
    return -(target * logits.float().log_softmax(-1)).sum(-1)
