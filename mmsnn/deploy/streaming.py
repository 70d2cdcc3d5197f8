"""Networks that run one time step per call, with membranes as input and output, for event cameras and other streams."""

import copy
import operator
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node

from mmsnn.layers import set_time_steps
from mmsnn.neurons import ILIF
from mmsnn.ops.neuron import decode

from .graph import ATEN, LIF, Graph, _drop, fold_norms, trace, unguarded
from .network import Network, check_encoder

TAU, V_INIT, RETURN_V = 4, 5, 6


def step_graph(model: nn.Module, sample: Tensor) -> GraphModule:
    """The graph of a single time step of ``model``, with folded norms and with shapes and modules in its nodes.

    Args:
        model: a task model or any network, which is not changed.
        sample: images ``[B, C, H, W]`` or event frames of one step ``[B, 1, C, H, W]``, with B of at least 2.

    Raises:
        ValueError: one graph cannot stand for all time steps, because a module treats them differently, spikes are
            drawn at random, or a neuron runs micro-steps.
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
    return module


def is_time_mean(node: Node) -> bool:
    """Whether a node of a `step_graph` is the mean over time of a readout."""
    if node.target is not ATEN.mean.dim or list(node.args[1]) != [0]:
        return False
    unfold = node.args[0]
    return unfold.target is ATEN.unflatten.int and unfold.args[1] == 0 and unfold.args[2][0] == 1


def lif_nodes(module: GraphModule) -> list[Node]:
    """The neurons of a graph, in the order in which they run."""
    return [node for node in module.graph.nodes if node.target is LIF]


def rest(node: Node) -> float:
    """The resting potential of an ``mmsnn.lif`` node, at which its membrane starts."""
    return decode(*node.args[2:4])[0].v_rest


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
        start = torch.full_like(args[0], rest(node))
        args[V_INIT], args[RETURN_V] = self.membranes.get(node, start), True
        out = LIF(*args)
        self.membranes[node] = out[1]
        return out


class Streaming(nn.Module):
    """A network that runs one time step per call and keeps nothing: its state is an argument and a result.

    ::

        stream = Streaming(model, torch.zeros(2, 3, 224, 224))
        state = stream.start(batch=1)
        for image in images:  # [1, 3, 224, 224]
            outputs, state = stream(image, state)

    After T steps the outputs equal those of ``model`` run on these steps at once. A readout's mean over time is the
    mean over the steps so far, so that there is a prediction after every step. ``start`` begins a new sequence.

    Args:
        model: a task model or any network, which is not changed.
        sample: one step of at least two streams, images ``[B, C, H, W]`` or event frames ``[B, 1, C, H, W]``.

    Attributes:
        graph: the step as a graph; its inputs are the step and the state.
        output_names: names of the outputs.
        state_names: names of the tensors of the state.

    Raises:
        ValueError: one graph cannot stand for all time steps (`step_graph`), or it cannot be traced.
    """

    def __init__(self, model: nn.Module, sample: Tensor):
        super().__init__()
        network = Network(model)
        set_time_steps(network, 1)
        self.graph = step_graph(model, sample)
        self.output_names = network.output_names(sample)
        self.sample = sample
        self.first: list[tuple[tuple[int, ...], float]] = []
        self.state_names: list[str] = []
        self._open()

    def _open(self) -> None:
        """Turn the membranes and the sums of readouts into inputs and outputs of the graph."""
        graph = self.graph.graph
        end = next(node for node in graph.nodes if node.op == 'output')
        last_input = [node for node in graph.nodes if node.op == 'placeholder'][-1]
        kept = []

        def state(name: str, shape: Sequence[int], value: float) -> Node:
            nonlocal last_input
            with graph.inserting_after(last_input):
                last_input = graph.placeholder(name)
            self.first.append((tuple(shape), value))
            self.state_names.append(name)
            return last_input

        for k, node in enumerate(lif_nodes(self.graph)):
            shape = node.meta['val'][0].shape[1:]
            args = list(node.args)
            args[V_INIT], args[RETURN_V] = state(f'v_{k}', shape, rest(node)), True
            node.args = tuple(args)
            with graph.inserting_after(node):
                kept.append(graph.call_function(operator.getitem, (node, 1)))
        means = [node for node in graph.nodes if is_time_mean(node)]
        steps = state('steps', (), 0.0)
        with graph.inserting_before(end):
            kept_steps = graph.call_function(torch.add, (steps, 1.0))
        for k, node in enumerate(means):
            before = state(f'sum_{k}', node.meta['val'].shape[1:], 0.0)
            x = node.args[0].args[0]
            with graph.inserting_before(node):
                total = graph.call_function(torch.add, (before, x))
                count = graph.call_function(torch.add, (steps, 1.0))
                # the number of steps is one per stream
                count = graph.call_function(torch.reshape, (count, (-1, *[1] * (node.meta['val'].dim() - 1))))
                mean = graph.call_function(torch.div, (total, count))
            node.replace_all_uses_with(mean)
            graph.erase_node(node)
            kept.append(total)
        # the state is returned in the order of the inputs: membranes, steps, sums
        kept.insert(len(kept) - len(means), kept_steps)
        (outputs,) = end.args
        end.args = ((*outputs, *kept),)
        graph.eliminate_dead_code()
        graph.lint()
        self.graph.recompile()

    def start(self, batch: int = 1) -> tuple[Tensor, ...]:
        """The state of ``batch`` streams before the first step: membranes at rest, no steps counted."""
        device = next((value.device for value in self.graph.state_dict().values()), self.sample.device)
        return tuple(torch.full((batch, *shape), value, device=device) for shape, value in self.first)

    def forward(self, step: Tensor, state: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Run one step ``[B, C, H, W]`` from a state; returns the outputs so far and the state after the step.

        Raises:
            ValueError: the state has the wrong number of tensors.
        """
        if len(state) != len(self.first):
            raise ValueError(f'state: this network keeps {len(self.first)} tensors between steps, got {len(state)}')
        out = self.graph(step, *state)
        return out[: len(self.output_names)], out[len(self.output_names) :]

    def as_graph(self) -> Graph:
        """The step as a graph for a file: inputs are the step and then the state, outputs the outputs and the state."""
        inputs = (self.sample, *self.start(len(self.sample)))
        program = trace(copy.deepcopy(self.graph), inputs)
        names = [*self.output_names, *[f'{name}_out' for name in self.state_names]]
        return Graph(program, inputs, ['inputs', *self.state_names], names, 0, 0)
