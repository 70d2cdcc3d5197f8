"""Nodes of NIR from nodes of the exported graph."""

from types import ModuleType

import numpy as np
from torch.fx import Node

from mmsnn.ops.neuron import decode

from .graph import ATEN
from .streaming import TAU

# seconds of a time step, which the readers assume
DT = 1e-4
# why an operation does not go, by its name in PyTorch
REASONS = {
    'max_pool2d': 'NIR has no max pooling: take average pooling',
    'max_pool2d_with_indices': 'NIR has no max pooling: take average pooling',
    'adaptive_max_pool2d': 'NIR has no max pooling: take average pooling',
    'upsample_nearest2d': 'NIR has no upsampling',
    'upsample_bilinear2d': 'NIR has no upsampling',
    'mul': "NIR has no products (AND, IAND, gates): take connect='ADD'",
    'matmul': 'NIR has no products of activations (attention)',
    'bmm': 'NIR has no products of activations (attention)',
    'cat': 'NIR has no concatenation',
    'relu': 'NIR has no ReLU: only neurons are non-linear there',
    'relu_': 'NIR has no ReLU: only neurons are non-linear there',
    'batch_norm': 'this batch norm has no layer in front into which it could be folded',
}


class Cannot(Exception):
    """Why a node does not go into NIR."""


class Nodes:
    """Translates single nodes.

    Args:
        nir: the package.
        values: of all nodes of the graph, for a sample.
    """

    def __init__(self, nir: ModuleType, values: dict):
        self.nir, self.values = nir, values

    def value(self, node: Node, index: int) -> np.ndarray | None:
        """An argument of ``node``, a tensor as an array."""
        part = node.args[index] if len(node.args) > index else None
        return self.values[part].detach().float().numpy() if isinstance(part, Node) else part

    def neuron(self, node: Node):
        """LIF or IF of a node ``mmsnn.lif``."""
        kind, values = node.args[2:4]
        settings, _ = decode(kind, values)
        if settings.rounds:
            raise Cannot('NIR has no neurons that fire integers (I-LIF)')
        if settings.v_reset is None:
            raise Cannot('NIR has no soft reset: train with v_reset=0.0')
        shape = self.values[node][0].shape[1:]
        learned = self.value(node, TAU)
        tau = settings.tau if learned is None else float(learned.reshape(-1)[0])

        def full(value: float) -> np.ndarray:
            return np.full(shape, value, np.float32)

        threshold = dict(v_threshold=full(settings.v_threshold), v_reset=full(settings.v_reset))
        if tau is None:
            return self.nir.IF(r=full(1 / DT), **threshold)
        # tau dv/dt = v_leak - v + r x, in Euler's steps of DT
        r = 1.0 if settings.decay_input else tau
        return self.nir.LIF(tau=full(tau * DT), r=full(r), v_leak=full(settings.v_rest), **threshold)

    def linear(self, node: Node):
        """Linear or Affine."""
        weight, bias = self.value(node, 1), self.value(node, 2)
        if self.values[node.args[0]].dim() != 2:
            raise Cannot('a linear layer of more than one dimension')
        return self.nir.Linear(weight) if bias is None else self.nir.Affine(weight, bias)

    def convolution(self, node: Node):
        """Conv1d or Conv2d; without a bias, one of zeros."""
        weight, bias = self.value(node, 1), self.value(node, 2)
        stride, padding, dilation, groups = [*node.args[3:], *(1, 0, 1, 1)[len(node.args) - 3 :]]
        bias = np.zeros(len(weight), np.float32) if bias is None else bias
        size = tuple(self.values[node.args[0]].shape[2:])

        def every(n):
            return tuple(n) if len(n := list(np.atleast_1d(n))) > 1 else tuple(n) * len(size)

        stride, padding, dilation = ([int(n) for n in every(each)] for each in (stride, padding, dilation))
        if len(size) == 1:
            return self.nir.Conv1d(size[0], weight, stride[0], padding[0], dilation[0], groups, bias)
        return self.nir.Conv2d(size, weight, tuple(stride), tuple(padding), tuple(dilation), groups, bias)

    def pooling(self, node: Node):
        """AvgPool2d of average pooling, of adaptive pooling and of means over height and width."""
        size, out = self.values[node.args[0]].shape[2:], self.values[node].shape[2:]
        if node.target is ATEN.avg_pool2d.default:
            kernel, stride, padding, ceil, whole = [*node.args[1:6], *([], 0, False, True)[len(node.args) - 2 :]][:5]
            if ceil or len(node.args) > 6 or (np.any(padding) and not whole):
                raise Cannot('average pooling whose border counts otherwise than inside')
            pair = [tuple(int(n) for n in np.broadcast_to(each, 2)) for each in (kernel, stride or kernel, padding)]
        elif node.target is ATEN.mean.dim:
            if sorted(d % self.values[node.args[0]].dim() for d in node.args[1]) != [2, 3]:
                raise Cannot('a mean over other dimensions than height and width')
            if not (len(node.args) > 2 and node.args[2]):
                raise Cannot('a mean that drops height and width: take adaptive average pooling')
            pair = [tuple(size), tuple(size), (0, 0)]
        else:
            if any(a % b for a, b in zip(size, out)):
                raise Cannot(f'average pooling of {tuple(size)} to {tuple(out)}, whose windows overlap')
            kernel = tuple(a // b for a, b in zip(size, out))
            pair = [kernel, kernel, (0, 0)]
        return self.nir.AvgPool2d(*[np.array(each) for each in pair])
