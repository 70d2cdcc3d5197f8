"""Export to NIR (Pedersen et al., "Neuromorphic intermediate representation", Nature Communications 2024).

NIR describes a network at one instant, so the exported graph is that of a single time step. Operations that NIR cannot
express are left out and reported, and the parts between them become graphs with one input and one output, as readers
require. Users of a graph take the mean over time themselves. Operations after that mean are therefore exported only if
they are linear, so that their outputs can be averaged instead, and only if the network fits into one graph.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor, nn
from torch.fx import Node

from .extras import need
from .graph import ATEN, LIF
from .nir_nodes import REASONS, Cannot, Nodes
from .streaming import Steps, is_time_mean, step_graph

SHAPES = {
    ATEN.unflatten.int, ATEN.flatten.using_ints, ATEN.view.default, ATEN.reshape.default, ATEN.unsqueeze.default,
    ATEN.squeeze.dim, ATEN.transpose.int, ATEN.permute.default, ATEN.contiguous.default, ATEN.clone.default,
}  # fmt: skip
BEHIND = 'they act on the mean over time, which NIR cannot express: run them after taking the mean'


@dataclass(frozen=True)
class Refusal:
    """An operation that cannot be exported.

    Attributes:
        where: name of the module that contains it.
        operation: its name in PyTorch.
        reason: why it cannot be exported.
    """

    where: str
    operation: str
    reason: str

    def __str__(self) -> str:
        return f'{self.where or "the network"}: {self.operation}: {self.reason}'


@dataclass
class Part:
    """A NIR graph and the part of the network's graph that it represents.

    Attributes:
        graph: the `nir.NIRGraph`.
        source, sink: the nodes of the network's graph whose values are its input and output.
        neurons: number of neuron layers in it.
        whole: whether it extends from the network's input to its output.
        names: as keys, the names of the NIR nodes that lead to its output.
    """

    graph: object
    source: Node
    sink: Node
    neurons: int
    whole: bool
    names: dict[str, None] = field(default_factory=dict)


@dataclass
class _Stream:
    """A value that NIR can express.

    Attributes:
        origin: the node at which the part of this value begins.
        sources: names of the NIR nodes whose outputs add up to it.
        averaged: whether it comes after the mean over time.
    """

    origin: Node
    sources: frozenset[str]
    averaged: bool = False


class NirExport:
    """The NIR form of a network.

    Args:
        model: a task model or any network, which is not changed.
        sample: images ``[B, C, H, W]`` or one step of event frames ``[B, 1, C, H, W]``, with B of at least 2.

    Attributes:
        parts: the parts that contain neurons, in the order of the data flow.
        refusals: the operations that cannot be exported, with reasons.

    Raises:
        ImportError: nir is missing.
        ValueError: one graph cannot stand for all time steps (`step_graph`), or no layer of neurons can be exported.
    """

    def __init__(self, model: nn.Module, sample: Tensor):
        (self.nir,) = need('nir', 'nir')
        self.module = step_graph(model, sample)
        self.sample = sample
        self.values = Steps(self.module).run_step(sample)
        self.make = Nodes(self.nir, self.values)
        self._walk(behind_mean=True)
        refusals = self.refusals
        if not self.whole:
            # users who average over time also run the operations after the mean
            self._walk(behind_mean=False)
            count = sum(each.reason == BEHIND for each in self.refusals)
            if count:
                refusals.append(Refusal('', f'{count} operations', BEHIND))
        self.refusals = list(dict.fromkeys(refusals))
        if not self.parts:
            reasons = '; '.join(map(str, self.refusals[:4]))
            raise ValueError(f'no layer of neurons of this network can be exported to NIR: {reasons}')

    def _walk(self, behind_mean: bool) -> None:
        self.behind_mean = behind_mean
        self.nodes: dict[Node, tuple[str, object, frozenset[str]]] = {}
        self.streams: dict[Node, _Stream] = {}
        self.refusals: list[Refusal] = []
        for node in self.module.graph.nodes:
            self._visit(node)
        self.parts = self._parts()

    def _visit(self, node: Node) -> None:
        if node.op in ('get_attr', 'output') or not isinstance(self.values.get(node), (Tensor, tuple)):
            return
        if node.op == 'placeholder':
            self.streams[node] = _Stream(node, frozenset([node.name]))
            return
        inputs = [a for a in node.all_input_nodes if a in self.streams]
        if not inputs:
            # it depends on parameters alone
            return
        try:
            self.streams[node] = self._translate(node, inputs)
        except Cannot as error:
            operation = str(node.target).removeprefix('aten.').partition('.')[0]
            self.refusals.append(Refusal(where(node), operation, str(error)))
            if isinstance(self.values[node], Tensor):
                self.streams[node] = _Stream(
                    node, frozenset([node.name]), any(self.streams[a].averaged for a in inputs)
                )

    def _translate(self, node: Node, inputs: list[Node]) -> _Stream:
        first = self.streams[inputs[0]]
        if not self.behind_mean and any(self.streams[each].averaged for each in inputs):
            raise Cannot(BEHIND)
        if node.target is LIF:
            if first.averaged:
                raise Cannot('a neuron after the mean over time')
            return self._add(node, inputs[0], self.make.neuron(node))
        if 'getitem' in str(node.target):
            if node.args[1]:
                raise Cannot('NIR nodes have one output, and this is not the first of a tuple')
            return first
        if node.target in (ATEN.conv1d.default, ATEN.conv2d.default):
            return self._add(node, inputs[0], self.make.convolution(node))
        if node.target is ATEN.linear.default:
            return self._add(node, inputs[0], self.make.linear(node))
        if is_time_mean(node):
            return _Stream(first.origin, first.sources, True)
        if node.target is ATEN.add.Tensor:
            return self._sum(node, inputs)
        if node.target in (ATEN.avg_pool2d.default, ATEN.adaptive_avg_pool2d.default, ATEN.mean.dim):
            return self._add(node, inputs[0], self.make.pooling(node))
        if node.target in SHAPES:
            return self._reshape(node, inputs[0])
        name = str(node.target).removeprefix('aten.').partition('.')[0]
        raise Cannot(REASONS.get(name, 'NIR has no such operation'))

    def _add(self, node: Node, source: Node, made) -> _Stream:
        stream = self.streams[source]
        self.nodes[node] = node.name, made, stream.sources
        return _Stream(stream.origin, frozenset([node.name]), stream.averaged)

    def _sum(self, node: Node, inputs: list[Node]) -> _Stream:
        if len(inputs) != 2 or len(node.args) != 2 or node.kwargs:
            raise Cannot('NIR cannot add constants outside of layers')
        a, b = (self.streams[each] for each in inputs)
        if a.origin is not b.origin or a.averaged != b.averaged:
            raise Cannot('its inputs belong to different parts, because an operation between them cannot be exported')
        if a.sources & b.sources:
            raise Cannot('it adds a layer to itself, and NIR allows one edge between two nodes')
        if self.values[inputs[0]].shape != self.values[inputs[1]].shape:
            raise Cannot('NIR does not broadcast the smaller input')
        # a sum is expressed by two edges into the next node
        return _Stream(a.origin, a.sources | b.sources, a.averaged)

    def _reshape(self, node: Node, source: Node) -> _Stream:
        before, after = self.values[source].shape, self.values[node].shape
        stream = self.streams[source]
        if node.target in (ATEN.transpose.int, ATEN.permute.default):
            order = list(range(len(before)))
            if node.target is ATEN.transpose.int:
                a, b = node.args[1:3]
                order[a], order[b] = order[b], order[a]
            else:
                order = [d % len(before) for d in node.args[1]]
            moved = [d for d in order if before[d] > 1]
            if moved != sorted(moved):
                raise Cannot('NIR cannot permute dimensions')
            return stream
        # dimensions of size 1, such as the single time step, may appear and disappear
        if [n for n in before if n > 1] == [n for n in after if n > 1]:
            vanishes = len(after) < len(before) and len(after) == 2 and len(before) == 4
            if not vanishes:
                return stream
        if len(after) == 2 and after[0] == before[0]:
            made = self.nir.Flatten(dict(input=np.array(before[1:])), 0, -1)
            return self._add(node, source, made)
        raise Cannot(f'NIR cannot reshape {tuple(before[1:])} to {tuple(after[1:])}')

    def _parts(self) -> list[Part]:
        end = next(node for node in self.module.graph.nodes if node.op == 'output')
        parts = []
        for node in self.module.graph.nodes:
            stream = self.streams.get(node)
            # a part ends at an output of the network and where an operation that cannot be exported reads its value
            ends = (
                stream is not None
                and stream.origin is not node
                and any(
                    user is end or (user in self.streams and self.streams[user].origin is user) for user in node.users
                )
            )
            if ends and not any(p.source is stream.origin and p.names.keys() == stream.sources for p in parts):
                part = self._part(stream, node, end in node.users and stream.origin.op == 'placeholder')
                if part.neurons:
                    part.names = dict.fromkeys(stream.sources)
                    parts.append(part)
        return parts

    def _part(self, stream: _Stream, sink: Node, whole: bool) -> Part:
        known = {name: (made, sources) for name, made, sources in self.nodes.values()}
        nodes, edges, neurons = {}, [], 0
        first = stream.origin.name
        shape = np.array(self._shape(stream.origin))
        nodes['input'] = self.nir.Input(dict(input=shape))
        nodes['output'] = self.nir.Output(dict(output=np.array(self._shape(sink))))
        seen, target = set(), 'output'
        if len(stream.sources) > 1:
            # readers add up edges that meet in a layer, but not those that meet in an output: this layer adds them
            one = np.array([1, 1])
            flat = len(self._shape(sink)) == 1
            nodes['sum'] = (
                self.nir.Flatten(dict(input=np.array(self._shape(sink))), 0, -1)
                if flat
                else self.nir.AvgPool2d(one, one, np.array([0, 0]))
            )
            edges.append(('sum', 'output'))
            target = 'sum'
        wanted = [(name, target) for name in sorted(stream.sources)]
        while wanted:
            name, target = wanted.pop()
            edges.append(('input' if name == first else name, target))
            if name == first or name in seen:
                continue
            seen.add(name)
            made, sources = known[name]
            nodes[name] = made
            neurons += isinstance(made, (self.nir.LIF, self.nir.IF))
            wanted += [(source, name) for source in sorted(sources)]
        order = [
            'input',
            *[name for name, *_ in self.nodes.values() if name in nodes],
            *{'sum', 'output'} & nodes.keys(),
        ]
        graph = self.nir.NIRGraph({name: nodes[name] for name in order if name in nodes}, edges)
        return Part(graph, stream.origin, sink, neurons, whole)

    def _shape(self, node: Node) -> tuple[int, ...]:
        value = self.values[node]
        value = value[0] if isinstance(value, tuple) else value
        shape = tuple(value.shape[1:])
        # a step of event frames has a dimension for time, of size 1
        return shape[1:] if node.op == 'placeholder' and value.dim() == 5 else shape

    @property
    def whole(self) -> bool:
        """Whether one part represents the whole network, from its input to its output."""
        return len(self.parts) == 1 and self.parts[0].whole

    def save(self, path: Path) -> list[Path]:
        """Write a single part to ``path``, or several parts to numbered files beside it; returns the paths."""
        single = len(self.parts) == 1
        paths = [path if single else path.with_suffix(f'.{k}{path.suffix}') for k in range(1, len(self.parts) + 1)]
        for part, file in zip(self.parts, paths):
            self.nir.write(str(file), part.graph)
        return paths


def where(node: Node) -> str:
    """The name of the module that contains a node."""
    stack = node.meta.get('nn_module_stack') or {}
    names = [name for name, _ in stack.values()]
    return names[-1].removeprefix('model.').removeprefix('model') if names else ''
