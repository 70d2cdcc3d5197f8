"""Translation of single nodes of the exported graph into NIR nodes."""

from types import ModuleType

import numpy as np
from torch.fx import Node

from mmsnn.ops.neuron import decode

from .graph import ATEN
from .streaming import TAU

# length of a time step in seconds, which readers of NIR assume
DT = 1e-4
# why NIR cannot express an operation, by its name in PyTorch
REASONS = {
    'max_pool2d': 'NIR has no max pooling: use average pooling',
    'max_pool2d_with_indices': 'NIR has no max pooling: use average pooling',
    'adaptive_max_pool2d': 'NIR has no max pooling: use average pooling',
    'upsample_nearest2d': 'NIR has no upsampling',
    'upsample_bilinear2d': 'NIR has no upsampling',
    'mul': "NIR has no products (AND, IAND, gates): use connect='ADD'",
    'matmul': 'NIR has no products of activations (attention)',
    'bmm': 'NIR has no products of activations (attention)',
    'cat': 'NIR has no concatenation',
    'relu': 'NIR has no ReLU: its only non-linear nodes are neurons',
    'relu_': 'NIR has no ReLU: its only non-linear nodes are neurons',
    'batch_norm': 'NIR has no batch norm, and there is no layer before this one into which it could be folded',
}


class Cannot(Exception):
    """NIR cannot express a node; the message gives the reason."""


class Nodes:
    """Translates single nodes of a graph; raises `Cannot` for what NIR cannot express.

    Args:
        nir: the imported package ``nir``.
        values: the values of all nodes of the graph for a sample.
    """

    def __init__(self, nir: ModuleType, values: dict):
        self.nir, self.values = nir, values

    def value(self, node: Node, index: int) -> np.ndarray | None:
        """An argument of ``node``, with tensors as arrays; None if it is missing."""
        part = node.args[index] if len(node.args) > index else None
        return self.values[part].detach().float().numpy() if isinstance(part, Node) else part

    def neuron(self, node: Node):
        """LIF or IF for an ``mmsnn.lif`` node."""
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
        # readers integrate tau dv/dt = v_leak - v + r x in Euler steps of length DT
        r = 1.0 if settings.decay_input else tau
        return self.nir.LIF(tau=full(tau * DT), r=full(r), v_leak=full(settings.v_rest), **threshold)

    def linear(self, node: Node):
        """Linear or, with a bias, Affine."""
        weight, bias = self.value(node, 1), self.value(node, 2)
        if self.values[node.args[0]].dim() != 2:
            raise Cannot('a linear layer whose input is not [B, features]')
        return self.nir.Linear(weight) if bias is None else self.nir.Affine(weight, bias)

    def convolution(self, node: Node):
        """Conv1d or Conv2d, with a bias of zeros where there is none."""
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
        """AvgPool2d for average pooling, adaptive average pooling, and means over height and width."""
        size, out = self.values[node.args[0]].shape[2:], self.values[node].shape[2:]
        if node.target is ATEN.avg_pool2d.default:
            kernel, stride, padding, ceil, count = [*node.args[1:6], *([], 0, False, True)[len(node.args) - 2 :]][:5]
            if ceil or len(node.args) > 6 or (np.any(padding) and not count):
                raise Cannot('average pooling with ceil_mode, divisor_override, or padding that is not counted')
            pair = [tuple(int(n) for n in np.broadcast_to(each, 2)) for each in (kernel, stride or kernel, padding)]
        elif node.target is ATEN.mean.dim:
            if sorted(d % self.values[node.args[0]].dim() for d in node.args[1]) != [2, 3]:
                raise Cannot('a mean over dimensions other than height and width')
            if not (len(node.args) > 2 and node.args[2]):
                raise Cannot('a mean without keepdim: use adaptive average pooling')
            pair = [tuple(size), tuple(size), (0, 0)]
        else:
            if any(a % b for a, b in zip(size, out)):
                raise Cannot(f'average pooling of {tuple(size)} to {tuple(out)}, whose windows overlap')
            kernel = tuple(a // b for a, b in zip(size, out))
            pair = [kernel, kernel, (0, 0)]
        return self.nir.AvgPool2d(*[np.array(each) for each in pair])
