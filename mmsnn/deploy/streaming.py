"""Networks that run one time step per call, with membranes as input and output, for event cameras and other streams."""

import copy
import operator
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.fx import Node

from mmsnn.layers import set_time_steps

from .graph import ATEN, Graph, trace
from .network import Network
from .step_check import check_steps, near
from .steps import REMEDY, RETURN_V, V_INIT, is_time_mean, lif_nodes, rest, step_graph, where


class Streaming(nn.Module):
    """A network that runs one time step per call and keeps nothing: its state is an argument and a result.

    ::

        stream = Streaming(model, torch.zeros(2, 3, 224, 224))
        state = stream.start(batch=1)
        for image in images:  # [1, 3, 224, 224]
            outputs, state = stream(image, state)

    After T steps the outputs equal those of ``model`` run on these steps at once; outputs that keep their time steps
    come step by step. A readout's mean over time is the mean over the steps so far, so that there is a prediction after
    every step. ``start`` begins a new sequence. That all this holds is tried on random frames before a network is
    accepted (`mmsnn.deploy.step_check`).

    Args:
        model: a task model or any network, which is not changed.
        sample: one step of at least two streams, images ``[B, C, H, W]`` or event frames ``[B, 1, C, H, W]``.

    Attributes:
        graph: the step as a graph; its inputs are the step and the state.
        output_names: names of the outputs.
        state_names: names of the tensors of the state.
        first: for each tensor of the state, the shape of one stream's part and the value at which it starts.

    Raises:
        ValueError: one graph cannot stand for all time steps (`step_graph`), it cannot be traced, a neuron starts at a
            potential of its own, or T steps do not come to the same as the network; the message names the module.
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
        self._refuse()
        self._open()
        self._check(model)

    def _refuse(self) -> None:
        for node in lif_nodes(self.graph):
            if node.args[V_INIT] is not None:
                raise ValueError(
                    f'{where(node) or "a neuron of the network"} starts at a potential of its own (v_init), and a '
                    f'stream starts all membranes at rest: leave v_init out, or {REMEDY}'
                )
        for node in self.graph.graph.nodes:
            if node.target is ATEN.mean.dim and list(node.args[1]) == [0] and not is_time_mean(node):
                raise ValueError(
                    f'{where(node) or "the network"} takes a mean over the first dimension in a form that is not known '
                    f'as a mean over time: use mmsnn.layers.Readout or unfold(x, T).mean(0), or {REMEDY}'
                )

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
            shape = self._of_one_stream(node, node.meta['val'][0])
            membrane = state(f'v_{k}', shape, rest(node))
            with graph.inserting_before(node):
                membrane = graph.call_function(torch.reshape, (membrane, (-1,)))
            args = list(node.args)
            args[V_INIT], args[RETURN_V] = membrane, True
            node.args = tuple(args)
            with graph.inserting_after(node):
                after = graph.call_function(operator.getitem, (node, 1))
            with graph.inserting_after(after):
                kept.append(graph.call_function(torch.reshape, (after, (-1, *shape))))
        means = [node for node in graph.nodes if is_time_mean(node)]
        steps = state('steps', (), 0.0)
        with graph.inserting_before(end):
            kept_steps = graph.call_function(torch.add, (steps, 1.0))
        for k, node in enumerate(means):
            shape = self._of_one_stream(node, node.meta['val'])
            before = state(f'sum_{k}', shape, 0.0)
            x = node.args[0].args[0]
            with graph.inserting_before(node):
                x = graph.call_function(torch.reshape, (x, (-1, *shape)))
                total = graph.call_function(torch.add, (before, x))
                count = graph.call_function(torch.add, (steps, 1.0))
                # the number of steps is one per stream
                count = graph.call_function(torch.reshape, (count, (-1, *[1] * len(shape))))
                mean = graph.call_function(torch.div, (total, count))
                mean = graph.call_function(torch.reshape, (mean, (-1, *node.meta['val'].shape[1:])))
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

    def _of_one_stream(self, node: Node, value: Tensor) -> tuple[int, ...]:
        """The shape of one stream's part of ``value``, a tensor of one step whose first dimension may hold more."""
        shape = [n if isinstance(n, int) else n.node.hint for n in value.shape]
        # time and streams may be two dimensions
        if len(shape) > 1 and shape[0] == 1:
            shape = shape[1:]
        each, left = divmod(shape[0], len(self.sample))
        if left:
            raise ValueError(
                f'{where(node) or "the network"} keeps a state {tuple(shape)} for {len(self.sample)} streams, of which '
                f'no part belongs to a single stream: {REMEDY}'
            )
        # tokens or windows of an image may be folded into the first dimension
        return tuple(shape[1:]) if each == 1 else (each, *shape[1:])

    def _check(self, model: nn.Module) -> None:
        """Raise ValueError unless T steps come to the same as the network at T."""
        expected, steps = check_steps(model, self.sample, self._runner, lif_nodes(self.graph))
        if len(expected) != len(steps[-1]):
            raise ValueError(
                f'the network returns {len(expected)} tensors at T={len(steps)} and {len(steps[-1])} at T=1, so it '
                f'cannot run step by step: {REMEDY}'
            )
        for name, whole, *parts in zip(self.output_names, expected, *steps):
            # an output without a readout keeps its time steps
            if not near(parts[-1], whole) and not near(torch.cat([part.reshape(-1) for part in parts]), whole.ravel()):
                raise ValueError(
                    f'{name}: run step by step, this output is not that of the network at T={len(steps)}, which '
                    'combines time steps in another way than by the mean: use mmsnn.layers.Readout or '
                    f'unfold(x, T).mean(0), or {REMEDY}'
                )

    def _runner(self) -> Callable[[Tensor], tuple[Tensor, ...]]:
        state = self.start(len(self.sample))

        def run(step: Tensor) -> tuple[Tensor, ...]:
            nonlocal state
            outputs, state = self(step, state)
            return outputs

        return run

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
