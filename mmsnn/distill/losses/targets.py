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
    # a handful of operations a batch: three a sample would take a GPU longer than a small student's forward pass
    scores, labels = {}, {}
    for i, sample in enumerate(data_samples):
        score, label = (getattr(sample, key, None) for key in ('gt_score', 'gt_label'))
        if score is not None:
            if score.shape != (num_classes,):
                raise ValueError(
                    f'gt_score of data sample {i} has shape {tuple(score.shape)}, the logits {num_classes}'
                )
            scores[i] = score
            continue
        if label is None:
            raise ValueError(f'data sample {i} has neither gt_label nor gt_score: this loss is for classification')
        if label.numel() != 1:
            raise ValueError(f'data sample {i} has {label.numel()} labels: this loss needs one per image, or gt_score')
        labels[i] = label if label.ndim == 1 else label.reshape(1)
    rows = []
    if scores:
        rows.append(torch.stack(list(scores.values())).to(like))
    if labels:
        index = torch.cat(list(labels.values())).to(like.device)
        rows.append(like.new_zeros(len(index), num_classes).scatter_(1, index[:, None], 1.0))
    if len(rows) == 1:
        return rows[0]
    order = sorted(range(len(data_samples)), key=[*scores, *labels].__getitem__)
    return torch.cat(rows)[order]


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """``-sum_k target_k log softmax(logits)_k`` over the last dimension; the others stay."""
    return -(target * logits.float().log_softmax(-1)).sum(-1)
