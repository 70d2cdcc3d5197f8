"""The graph of a single time step, and what it must be like to stand for all time steps."""

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node

from mmsnn.layers import set_time_steps
from mmsnn.neurons import ILIF, Neuron
from mmsnn.ops.neuron import decode

from .graph import ATEN, LIF, _drop, fold_norms, trace, unguarded
from .network import Network, check_encoder

# places of arguments of mmsnn.lif
V_INIT, RETURN_V = 5, 6
# what users can do about a network that does not run step by step
REMEDY = 'export all T steps instead (mmsnn.deploy.export, or the tool without --streaming)'


def step_graph(model: nn.Module, sample: Tensor) -> GraphModule:
    """The graph of a single time step of ``model``, with folded norms and with shapes and modules in its nodes.

    Args:
        model: a task model or any network, which is not changed.
        sample: images ``[B, C, H, W]`` or event frames of one step ``[B, 1, C, H, W]``, with B of at least 2.

    Raises:
        ValueError: one graph cannot stand for all time steps, because a module treats them differently, spikes are
            drawn at random, a neuron runs micro-steps or has an equation of its own, or a neuron follows a mean over
            time. `mmsnn.deploy.step_check` finds the other reasons.
    """
    check_encoder(model, 'a network that runs step by step')
    for name, module in model.named_modules():
        if getattr(module, 'mixes_time', False):
            raise ValueError(
                f'{name} ({type(module).__name__}) treats time steps differently, so one step cannot stand for all: '
                'use a batch norm that does not depend on time, or export all T steps'
            )
        if isinstance(module, ILIF) and module.expanded:
            raise ValueError(f'{name} runs micro-steps: deploy the network as it was before expand_levels')
    network = Network(model)
    set_time_steps(network, 1)
    module = unguarded(trace(network, (sample,)))
    _drop(module)
    fold_norms(module)
    _check_neurons(network, module)
    _check_means(module)
    return module


def _check_neurons(network: nn.Module, module: GraphModule) -> None:
    """Raise ValueError for a neuron whose membrane is not in the graph, because it is not computed by ``mmsnn.lif``."""
    with_membrane = {name for node in lif_nodes(module) for name in modules_of(node)}
    for node in module.graph.nodes:
        for name in modules_of(node):
            neuron = network.get_submodule(name)
            if isinstance(neuron, Neuron) and name not in with_membrane:
                raise ValueError(
                    f'{where(node)} ({type(neuron).__name__}) computes its spikes by an equation of its own and not by '
                    f'mmsnn.ops.lif, so its state cannot be carried from one step to the next: {REMEDY}, or take one '
                    "of mmsnn's neurons"
                )
        if node.target is torch.ops.mmsnn.bn_lif.default:
            raise ValueError(
                f'{where(node) or "the network"} calls mmsnn.ops.bn_lif, whose membrane does not stay between steps: '
                'call the norm and mmsnn.ops.lif one after the other'
            )
        if node.target is LIF and node.args[1] != 1:
            raise ValueError(
                f'{where(node) or "the network"} calls mmsnn.ops.lif with a fixed number of time steps, '
                f'{node.args[1]}: pass it the T of a module that set_time_steps reaches (readout.T), or {REMEDY}'
            )


def _check_means(module: GraphModule) -> None:
    """Raise ValueError for a neuron that follows a mean over time, which is known only after the last step."""
    behind = set()
    for node in module.graph.nodes:
        if is_time_mean(node) or not behind.isdisjoint(node.all_input_nodes):
            behind.add(node)
            if node.target is LIF:
                raise ValueError(
                    f'{where(node) or "a neuron"} follows a mean over time, which is known only after the last step, '
                    f'so it cannot run step by step: {REMEDY}'
                )


def is_time_mean(node: Node) -> bool:
    """Whether a node of a `step_graph` is the mean over time of a readout, without the dimension of time."""
    if node.target is not ATEN.mean.dim or list(node.args[1]) != [0] or (len(node.args) > 2 and node.args[2]):
        return False
    unfold = node.args[0]
    return unfold.target is ATEN.unflatten.int and unfold.args[1] == 0 and unfold.args[2][0] == 1


def lif_nodes(module: GraphModule) -> list[Node]:
    """The neurons of a graph, in the order in which they run."""
    return [node for node in module.graph.nodes if node.target is LIF]


def rest(node: Node) -> float:
    """The resting potential of an ``mmsnn.lif`` node, at which its membrane starts."""
    return decode(*node.args[2:4])[0].v_rest


def modules_of(node: Node) -> list[str]:
    """The names of the modules that contain a node, from the outside to the inside."""
    stack = node.meta.get('nn_module_stack') or {}
    # a later call of the same module has a number behind its name; torch.export invents a module where none is known
    names = [name.partition('@')[0] for name, _ in stack.values()]
    return [name for name in names if not name.startswith('_empty_nn_module_stack')]


def where(node: Node) -> str:
    """The name of the module that contains a node, as the users' network knows it; empty for the network itself."""
    names = modules_of(node)
    return names[-1].removeprefix('model').removeprefix('.') if names else ''


class Steps(Interpreter):
    """Runs a `step_graph` one time step after another, and keeps the membranes and all values of the last step."""

    def __init__(self, module: GraphModule):
        super().__init__(module, garbage_collect_values=False)
        self.membranes: dict[Node, Tensor] = {}

    def run_step(self, x: Tensor) -> dict[Node, object]:
        """Run the step ``x``; returns the values of all nodes."""
        with torch.no_grad():
            self.run(x)
        return dict(self.env)

    def run_node(self, node: Node):
        if node.target is not LIF:
            if getattr(getattr(node.target, '_schema', None), 'is_mutable', False):
                # an in-place operation works on a copy, because the value before it is returned, too
                source = node.args[0]
                self.env[source], original = self.env[source].clone(), self.env[source]
                out = super().run_node(node)
                self.env[source] = original
                return out
            return super().run_node(node)
        args, _ = self.fetch_args_kwargs_from_env(node)
        args = list(args)
        if node in self.membranes:
            args[V_INIT] = self.membranes[node]
        args[RETURN_V] = True
        out = LIF(*args)
        self.membranes[node] = out[1]
        return out
