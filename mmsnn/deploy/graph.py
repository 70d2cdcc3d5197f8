"""``torch.export`` of a network with a dynamic batch and with its norms folded into the layers before them."""

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
# the second overload of each takes its padding as a word
CONVOLUTIONS = (
    ATEN.conv1d.default, ATEN.conv2d.default, ATEN.conv3d.default,
    ATEN.conv1d.padding, ATEN.conv2d.padding, ATEN.conv3d.padding,
)  # fmt: skip
LIF = torch.ops.mmsnn.lif.default
# an argument of torch.export.export that older releases lack
LATE = 'prefer_deferred_runtime_asserts_over_guards'
# operations that return their input unchanged in evaluation mode
NOTHING = (
    ATEN.dropout.default, ATEN.feature_dropout.default, ATEN.alpha_dropout.default, ATEN.detach.default,
    ATEN.detach_.default, ATEN.alias.default,
)  # fmt: skip


@dataclass(frozen=True)
class Graph:
    """A network as ``torch.export`` sees it.

    Attributes:
        program: the exported program, in which neurons are ``mmsnn.lif`` nodes.
        inputs: the inputs that it was traced with.
        input_names: names of its inputs.
        output_names: names of its outputs.
        folded, left: number of batch norms folded into the layers before them, and number of those that remain.
    """

    program: ExportedProgram
    inputs: tuple[Tensor, ...]
    input_names: list[str]
    output_names: list[str]
    folded: int
    left: int

    @property
    def module(self) -> GraphModule:
        """The program as a callable module that does not check the sizes of its inputs."""
        return unguarded(self.program)


def export(network: nn.Module, sample: Tensor, output_names: list[str], dynamic: bool = True) -> Graph:
    """Trace ``network`` with ``sample`` and fold its batch norms.

    Args:
        network: takes one tensor and returns a tuple of tensors.
        sample: ``[B, ...]``; a dynamic batch needs B of at least 2, because torch.export takes 1 as a fixed size.
        output_names: names of the outputs.
        dynamic: whether the graph accepts a batch of any size.

    Raises:
        ImportError: torch is too old.
        ValueError: the network cannot be traced; the message gives torch's reason.
    """
    module = unguarded(trace(network, (sample,), dynamic))
    _drop(module)
    folded, left = fold_norms(module)
    return Graph(trace(module, (sample,), dynamic), (sample,), ['inputs'], output_names, folded, left)


def trace(module: nn.Module, inputs: tuple[Tensor, ...], dynamic: bool = True) -> ExportedProgram:
    """``torch.export`` of ``module`` without gradients; with ``dynamic`` the first dimension of all inputs is free."""
    if LATE not in inspect.signature(torch.export.export).parameters:
        raise ImportError(f'mmsnn.deploy needs a later torch, whose export takes {LATE}; this is {torch.__version__}')
    batch = Dim('batch', min=1)
    shapes = tuple({0: batch} for _ in inputs) if dynamic else None
    try:
        with torch.no_grad():
            return torch.export.export(module, inputs, dynamic_shapes=shapes, strict=False, **{LATE: True})
    # tracing may raise any exception, from torch's compiler or from the traced code
    except Exception as error:
        first = f'{type(error).__name__}: {error}'.strip().splitlines()[0]
        raise ValueError(
            f'torch.export cannot trace this network: {first}. A sample for a dynamic batch must hold at least two '
            'inputs; Python code that depends on values or sizes of tensors must be written as tensor operations. '
            'Where one batch size is enough, export without a dynamic batch (--static-batch)'
        ) from error


def unguarded(program: ExportedProgram) -> GraphModule:
    """The program as a plain graph from tensors to a tuple of tensors that does not check the sizes of its inputs."""
    module = program.module()
    for node in list(module.graph.nodes):
        if node.op == 'call_module' and not node.users and str(node.target).startswith('_guards'):
            module.graph.erase_node(node)
        elif node.op == 'output':
            node.args = (tuple(node.args[0]),)
    # the program's own code generator packs and unpacks nested arguments
    module.graph.set_codegen(CodeGen())
    return GraphModule(module, module.graph)


def _drop(module: GraphModule) -> None:
    """Remove the nodes that do nothing in evaluation mode."""
    for node in list(module.graph.nodes):
        if node.target in NOTHING:
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
    module.recompile()


def fold_norms(module: GraphModule) -> tuple[int, int]:
    """Fold batch norms in evaluation mode into the convolution or linear layer before them, in place.

    The data flow decides, not the order in which modules were created: a norm is folded if its input is the output of
    such a layer and nothing else reads that output.

    Returns:
        Number of norms that were folded, and number of norms that remain.
    """
    stored: dict[tuple, tuple[str, str]] = {}
    folded = left = 0
    for norm in [node for node in module.graph.nodes if node.target is ATEN.batch_norm.default]:
        layer = norm.args[0]
        fuse = fuse_conv_bn_weights if layer.target in CONVOLUTIONS else fuse_linear_bn_weights
        # with more than two dimensions a norm acts on the second dimension, but a linear layer on the last
        known = layer.target in CONVOLUTIONS or (layer.target is ATEN.linear.default and layer.meta['val'].dim() == 2)
        given = arguments(layer)
        parts = [given.get(name) for name in ('weight', 'bias')] + list(norm.args[1:5])
        if not known or len(layer.users) > 1 or norm.args[5] or any(_is_computed(part) for part in parts):
            left += 1
            continue
        key = tuple(part and part.target for part in parts)
        if key not in stored:
            weight, bias, gamma, beta, mean, var = (None if p is None else _value(module, p) for p in parts)
            gamma = torch.ones_like(mean) if gamma is None else gamma
            beta = torch.zeros_like(mean) if beta is None else beta
            eps = norm.args[7]
            stored[key] = _store(module, f'folded_{len(stored)}', *fuse(weight, bias, mean, var, eps, gamma, beta))
        with module.graph.inserting_before(layer):
            nodes = [module.graph.get_attr(name) for name in stored[key]]
        layer.args = (layer.args[0], *nodes, *layer.args[3:])
        layer.kwargs = {name: value for name, value in layer.kwargs.items() if name not in ('weight', 'bias')}
        norm.replace_all_uses_with(layer)
        module.graph.erase_node(norm)
        folded += 1
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()
    return folded, left


def arguments(node: Node) -> dict[str, object]:
    """The arguments of an operation by the names in its schema, with the defaults of those that the node leaves out.

    They are empty for what is no operation of PyTorch or mmsnn: inputs, parameters, Python functions.
    """
    schema = getattr(node.target, '_schema', None)
    known = [] if schema is None else schema.arguments
    given = dict(zip((each.name for each in known), node.args)) | dict(node.kwargs)
    return {each.name: given.get(each.name, each.default_value) for each in known}


def _is_computed(part) -> bool:
    return isinstance(part, Node) and part.op != 'get_attr'


def _value(module: GraphModule, node: Node) -> Tensor:
    value = module
    for name in str(node.target).split('.'):
        value = getattr(value, name)
    return value.detach()


def _store(module: GraphModule, name: str, weight: Tensor, bias: Tensor) -> tuple[str, str]:
    names = f'{name}_weight', f'{name}_bias'
    for each, value in zip(names, (weight, bias)):
        module.register_buffer(each, value.detach().clone())
    return names


def plain_neurons(graph: Graph, dynamic: bool = True) -> ExportedProgram:
    """The program of ``graph`` with neurons in PyTorch's own operations; it loads where mmsnn is not installed."""
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
