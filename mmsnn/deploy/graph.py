"""``torch.export`` of a network with a dynamic batch, and norms folded into the layers in front of them."""

import copy
import inspect
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule, Node
from torch.fx.graph import CodeGen
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from mmsnn.ops import reference
from mmsnn.ops.neuron import decode

ATEN = torch.ops.aten
CONVOLUTIONS = (ATEN.conv1d.default, ATEN.conv2d.default, ATEN.conv3d.default)
LIF = torch.ops.mmsnn.lif.default
# older releases of torch may lack it
LATE = 'prefer_deferred_runtime_asserts_over_guards'
# what a graph in evaluation passes on as it is
NOTHING = (
    ATEN.dropout.default, ATEN.feature_dropout.default, ATEN.alpha_dropout.default, ATEN.detach.default,
    ATEN.detach_.default, ATEN.alias.default,
)  # fmt: skip


@dataclass(frozen=True)
class Graph:
    """A network as ``torch.export`` sees it.

    Attributes:
        program: the exported program, whose neurons are nodes ``mmsnn.lif``.
        inputs: that it was traced with.
        input_names: of its inputs.
        output_names: of its outputs.
        folded, left: number of batch norms folded into the layers in front of them, and of those that stand alone.
    """

    program: ExportedProgram
    inputs: tuple[Tensor, ...]
    input_names: list[str]
    output_names: list[str]
    folded: int
    left: int

    @property
    def module(self) -> GraphModule:
        """The program as a module that can be called, without the checks of its inputs."""
        return unguarded(self.program)


def export(network: nn.Module, sample: Tensor, output_names: list[str], dynamic: bool = True) -> Graph:
    """Trace ``network`` with ``sample`` and fold its batch norms.

    Args:
        network: takes one tensor and gives a tuple of tensors.
        sample: ``[B, ...]`` with B of 2 or more, since 1 would be taken for the only size.
        output_names: names of the outputs.
        dynamic: whether the batch may have any size.

    Raises:
        ImportError: torch is too old.
        ValueError: the network cannot be traced; the message holds torch's reason.
    """
    module = unguarded(trace(network, (sample,), dynamic))
    _drop(module)
    folded, left = fold_norms(module)
    return Graph(trace(module, (sample,), dynamic), (sample,), ['inputs'], output_names, folded, left)


def trace(module: nn.Module, inputs: tuple[Tensor, ...], dynamic: bool = True) -> ExportedProgram:
    """``torch.export`` of ``module`` without gradients; ``dynamic`` leaves the first dimension of all inputs open."""
    if LATE not in inspect.signature(torch.export.export).parameters:
        raise ImportError(f'mmsnn.deploy needs a later torch, whose export takes {LATE}; this is {torch.__version__}')
    batch = Dim('batch', min=1)
    shapes = tuple({0: batch} for _ in inputs) if dynamic else None
    try:
        with torch.no_grad():
            return torch.export.export(module, inputs, dynamic_shapes=shapes, strict=False, **{LATE: True})
    # torch raises many kinds, from its compiler as well as from what it traces
    except Exception as error:
        first = f'{type(error).__name__}: {error}'.strip().splitlines()[0]
        raise ValueError(
            f'torch.export cannot trace this network: {first}. Where the model looks at values or sizes in Python, '
            'write that in operations on tensors; a graph for one batch size alone needs no dynamic batch '
            '(--static-batch)'
        ) from error


def unguarded(program: ExportedProgram) -> GraphModule:
    """The program as a plain graph from tensors to a tuple of tensors, which does not check the sizes of its inputs."""
    module = program.module()
    for node in list(module.graph.nodes):
        if node.op == 'call_module' and not node.users and str(node.target).startswith('_guards'):
            module.graph.erase_node(node)
        elif node.op == 'output':
            node.args = (tuple(node.args[0]),)
    # that of the program packs and unpacks nested arguments
    module.graph.set_codegen(CodeGen())
    return GraphModule(module, module.graph)


def _drop(module: GraphModule) -> None:
    """Take out the nodes that do nothing in evaluation."""
    for node in list(module.graph.nodes):
        if node.target in NOTHING:
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
    module.recompile()


def fold_norms(module: GraphModule) -> tuple[int, int]:
    """Fold batch norms in evaluation into the convolution or linear layer in front, in place.

    Data flow decides, not the order in which modules were made: a norm goes where its input comes from such a layer
    that nobody else reads.

    Returns:
        How many were folded, and how many are left.
    """
    made: dict[tuple, tuple[str, str]] = {}
    folded = left = 0
    for norm in [node for node in module.graph.nodes if node.target is ATEN.batch_norm.default]:
        layer = norm.args[0]
        fuse = fuse_conv_bn_weights if layer.target in CONVOLUTIONS else fuse_linear_bn_weights
        # on more than two dimensions a norm acts on the second one, and a linear layer on the last
        known = layer.target in CONVOLUTIONS or (layer.target is ATEN.linear.default and layer.meta['val'].dim() == 2)
        parts = [_argument(layer, k) for k in (1, 2)] + list(norm.args[1:5])
        if not known or len(layer.users) > 1 or norm.args[5] or any(_is_computed(part) for part in parts):
            left += 1
            continue
        key = tuple(part and part.target for part in parts)
        if key not in made:
            weight, bias, gamma, beta, mean, var = (None if p is None else _value(module, p) for p in parts)
            gamma = torch.ones_like(mean) if gamma is None else gamma
            beta = torch.zeros_like(mean) if beta is None else beta
            eps = norm.args[7]
            made[key] = _store(module, f'folded_{len(made)}', *fuse(weight, bias, mean, var, eps, gamma, beta))
        with module.graph.inserting_before(layer):
            nodes = [module.graph.get_attr(name) for name in made[key]]
        layer.args = (layer.args[0], *nodes, *layer.args[3:])
        norm.replace_all_uses_with(layer)
        module.graph.erase_node(norm)
        folded += 1
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()
    return folded, left


def _argument(node: Node, index: int):
    return node.args[index] if len(node.args) > index else None


def _is_computed(part) -> bool:
    return isinstance(part, Node) and part.op != 'get_attr'


def _value(module: GraphModule, node: Node) -> Tensor:
    found = module
    for name in str(node.target).split('.'):
        found = getattr(found, name)
    return found.detach()


def _store(module: GraphModule, name: str, weight: Tensor, bias: Tensor) -> tuple[str, str]:
    names = f'{name}_weight', f'{name}_bias'
    for each, value in zip(names, (weight, bias)):
        module.register_buffer(each, value.detach().clone())
    return names


def plain_neurons(graph: Graph, dynamic: bool = True) -> ExportedProgram:
    """The program of ``graph`` with neurons in PyTorch's own operations, which loads where mmsnn is not installed."""
    module = copy.deepcopy(graph.module)
    for node in module.graph.nodes:
        if node.target is LIF:
            node.target = _plain_lif
    module.recompile()
    return trace(module, graph.inputs, dynamic)


def _plain_lif(x, T, kind, values, tau, v_init, return_v):
    settings, smooth = decode(kind, values)
    out = reference.lif_forward(x, T, settings, tau, v_init, return_v, smooth)
    return out if return_v else (out, None)
