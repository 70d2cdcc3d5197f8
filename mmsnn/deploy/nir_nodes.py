"""Translation of single nodes of the exported graph into NIR nodes."""

from types import ModuleType

import numpy as np
from torch.fx import Node

from mmsnn.ops.neuron import decode

from .graph import ATEN, arguments

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


def operation(node: Node) -> str:
    """The name of a node's operation in PyTorch or mmsnn, without its overload."""
    return getattr(node.target, '__name__', str(node.target)).partition('.')[0]


class Nodes:
    """Translates single nodes of a graph; raises `Cannot` for what NIR cannot express.

    Args:
        nir: the imported package ``nir``.
        values: the values of all nodes of the graph for a sample.
    """

    def __init__(self, nir: ModuleType, values: dict):
        self.nir, self.values = nir, values

    def given(self, node: Node) -> dict[str, object]:
        """The arguments of ``node`` by name, with tensors as arrays, apart from its input."""
        given = arguments(node)
        source = node.args[0]
        return {
            name: self.values[part].detach().float().numpy() if isinstance(part, Node) and part is not source else part
            for name, part in given.items()
        }

    def neuron(self, node: Node):
        """LIF or IF for an ``mmsnn.lif`` node."""
        given = self.given(node)
        settings, _ = decode(given['kind'], given['values'])
        if settings.rounds:
            raise Cannot('NIR has no neurons that fire integers (I-LIF)')
        if settings.v_reset is None:
            raise Cannot('NIR has no soft reset: train with v_reset=0.0')
        if given['v_init'] is not None:
            raise Cannot('NIR has no neuron with an initial potential of its own (v_init)')
        shape = self.values[node][0].shape[1:]
        tau = settings.tau if given['tau'] is None else float(given['tau'].reshape(-1)[0])

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
        given = self.given(node)
        weight, bias = given['weight'], given['bias']
        if self.values[node.args[0]].dim() != 2:
            raise Cannot('a linear layer whose input is not [B, features]')
        return self.nir.Linear(weight) if bias is None else self.nir.Affine(weight, bias)

    def convolution(self, node: Node):
        """Conv1d or Conv2d, with a bias of zeros where there is none."""
        given = self.given(node)
        weight, bias, size = given['weight'], given['bias'], tuple(self.values[node.args[0]].shape[2:])
        if len(set(weight.shape[2:])) > 1 and given['padding'] != 'same':
            raise Cannot('the package nir takes every kernel for one as wide as it is high: use square kernels')
        stride, padding, dilation = (_every(given[name], size) for name in ('stride', 'padding', 'dilation'))
        bias = np.zeros(len(weight), np.float32) if bias is None else bias
        # readers take ungrouped convolutions only
        weight = _ungrouped(weight, given['groups'])
        if len(size) == 1:
            padding = padding if isinstance(padding, str) else padding[0]
            return self.nir.Conv1d(size[0], weight, stride[0], padding, dilation[0], 1, bias)
        return self.nir.Conv2d(size, weight, stride, padding, dilation, 1, bias)

    def pooling(self, node: Node):
        """AvgPool2d for average pooling, adaptive average pooling, and means over height and width."""
        given = self.given(node)
        size, out = self.values[node.args[0]].shape[2:], self.values[node].shape[2:]
        if node.target is ATEN.avg_pool2d.default:
            counted = given['count_include_pad'] or not np.any(given['padding'])
            if given['ceil_mode'] or given['divisor_override'] is not None or not counted:
                raise Cannot('average pooling with ceil_mode, divisor_override, or padding that is not counted')
            kernel = given['kernel_size']
            pair = [_every(each, size) for each in (kernel, given['stride'] or kernel, given['padding'])]
        elif node.target is ATEN.mean.dim:
            if sorted(d % self.values[node.args[0]].dim() for d in given['dim']) != [2, 3]:
                raise Cannot('a mean over dimensions other than height and width')
            if not given['keepdim']:
                raise Cannot('a mean without keepdim: use adaptive average pooling')
            pair = [tuple(size), tuple(size), (0, 0)]
        else:
            if any(a % b for a, b in zip(size, out)):
                raise Cannot(f'average pooling of {tuple(size)} to {tuple(out)}, whose windows overlap')
            kernel = tuple(a // b for a, b in zip(size, out))
            pair = [kernel, kernel, (0, 0)]
        return self.nir.AvgPool2d(*[np.array(each) for each in pair])


def _every(value: int | list[int] | str, size: tuple[int, ...]) -> tuple[int, ...] | str:
    """A setting for every dimension of ``size``, of which PyTorch may hold one number for all; words stay."""
    return value if isinstance(value, str) else tuple(int(n) for n in np.broadcast_to(value, len(size)))


def _ungrouped(weight: np.ndarray, groups: int) -> np.ndarray:
    """The weight of a convolution in one group that gives the same: zeros connect the groups."""
    outputs, inputs = len(weight) // groups, weight.shape[1]
    full = np.zeros((len(weight), inputs * groups, *weight.shape[2:]), weight.dtype)
    for k in range(groups):
        rows = slice(k * outputs, (k + 1) * outputs)
        full[rows, k * inputs : (k + 1) * inputs] = weight[rows]
    return full
