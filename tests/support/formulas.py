"""The formulas that losses are checked against, number by number and in double precision; and fixed tensors."""

import math
from types import SimpleNamespace

import torch

# float32 inside, whatever comes in
approx = {'rel': 1e-5, 'abs': 1e-6}


def softmax(values, tau=1.0):
    exps = [math.exp(v / tau) for v in values]
    return [e / sum(exps) for e in exps]


def kl(teacher, student, tau):
    """tau^2 * KL(teacher || student) of two lists of logits."""
    p, q = softmax(teacher, tau), softmax(student, tau)
    return tau**2 * sum(a * math.log(a / b) for a, b in zip(p, q))


def soft_ce(target, logits):
    """Cross-entropy of a list of logits with a list of probabilities."""
    return -sum(p * math.log(q) for p, q in zip(target, softmax(logits)))


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def maps(*shape):
    return torch.randn(*shape, dtype=torch.float64) * 2


def wave(*shape, phase=0.0):
    """The same tensor everywhere."""
    n = torch.Size(shape).numel()
    return (2 * torch.sin(0.7 * torch.arange(n, dtype=torch.float64) + phase)).view(shape)


def samples(*labels):
    """Data samples as mmpretrain's, with a label (int) or with scores (list)."""
    return [
        SimpleNamespace(gt_score=torch.tensor(y))
        if isinstance(y, list)
        else SimpleNamespace(gt_label=torch.tensor([y]))
        for y in labels
    ]


def one_hot(label, classes):
    return [float(k == label) for k in range(classes)]
