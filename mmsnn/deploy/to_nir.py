"""Export to NIR (Pedersen et al., "Neuromorphic intermediate representation", Nature Communications 2024).

NIR describes a network at one instant, so the exported graph is that of a single time step. Operations that NIR cannot
express are left out and reported, and the parts between them become graphs with one input and one output, as readers
require. Users of a graph take the mean over time themselves. Operations after that mean are therefore exported only if
they are linear, so that their outputs can be averaged instead, and only if the network fits into one graph.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import Node

from .extras import need
from .graph import ATEN, CONVOLUTIONS, LIF
from .nir_nodes import REASONS, Cannot, Nodes, operation
from .nir_parts import Part, Refusal, Stream, ends_in
from .step_check import check_steps, near
from .steps import Steps, is_time_mean, lif_nodes, step_graph, where

SHAPES = {
    ATEN.unflatten.int, ATEN.flatten.using_ints, ATEN.view.default, ATEN.reshape.default, ATEN.unsqueeze.default,
    ATEN.squeeze.dim, ATEN.transpose.int, ATEN.permute.default, ATEN.contiguous.default, ATEN.clone.default,
}  # fmt: skip
BEHIND = 'they act on the mean over time, which NIR cannot express: run them after taking the mean'


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
        ValueError: one graph cannot stand for all time steps (`step_graph`, `check_steps`), or no layer of neurons can
            be exported.
    """

    def __init__(self, model: nn.Module, sample: Tensor):
        (self.nir,) = need('nir', 'nir')
        self.module = step_graph(model, sample)
        expected, steps = check_steps(model, sample, lambda: self.module, lif_nodes(self.module))
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
            reasons = '; '.join(map(str, self.refusals[:4])) or "no output depends on spikes of mmsnn's neurons"
            raise ValueError(f'no layer of neurons of this network can be exported to NIR: {reasons}')
        if self.whole:
            self._check_outputs(expected, steps)

    def _check_outputs(self, expected: tuple[Tensor, ...], steps: list[tuple[Tensor, ...]]) -> None:
        """Raise ValueError unless the outputs at T steps are those of the steps, or their means."""
        for whole, *parts in zip(expected, *steps, strict=True):
            if not near(torch.stack(parts).mean(0), whole) and not near(torch.cat(parts), whole):
                raise ValueError(
                    f'the mean of the outputs of {len(steps)} steps is not the output of the network, which combines '
                    'time steps in another way: NIR describes one step, so use mmsnn.layers.Readout'
                )

    def _walk(self, behind_mean: bool) -> None:
        self.behind_mean = behind_mean
        self.nodes: dict[Node, tuple[str, object, frozenset[str]]] = {}
        self.streams: dict[Node, Stream] = {}
        self.refusals: list[Refusal] = []
        for node in self.module.graph.nodes:
            self._visit(node)
        self.parts = self._parts()

    def _visit(self, node: Node) -> None:
        if node.op in ('get_attr', 'output') or not isinstance(self.values.get(node), (Tensor, tuple)):
            return
        if node.op == 'placeholder':
            self.streams[node] = Stream(node, frozenset([node.name]))
            return
        inputs = [a for a in node.all_input_nodes if a in self.streams]
        if not inputs:
            # it depends on parameters alone
            return
        try:
            self.streams[node] = self._translate(node, inputs)
        except Cannot as error:
            self.refusals.append(Refusal(where(node), operation(node), str(error)))
            if isinstance(self.values[node], Tensor):
                self.streams[node] = Stream(node, frozenset([node.name]), any(self.streams[a].averaged for a in inputs))

    def _translate(self, node: Node, inputs: list[Node]) -> Stream:
        first = self.streams[inputs[0]]
        if not self.behind_mean and any(self.streams[each].averaged for each in inputs):
            raise Cannot(BEHIND)
        if node.target is LIF:
            return self._add(node, inputs[0], self.make.neuron(node))
        if 'getitem' in str(node.target):
            if node.args[1]:
                raise Cannot('NIR nodes have one output, and this is not the first of a tuple')
            return first
        if node.target in CONVOLUTIONS and self.values[inputs[0]].dim() < 5:
            return self._add(node, inputs[0], self.make.convolution(node))
        if node.target is ATEN.linear.default:
            return self._add(node, inputs[0], self.make.linear(node))
        if is_time_mean(node):
            return Stream(first.origin, first.sources, True)
        if node.target is ATEN.add.Tensor:
            return self._sum(node, inputs)
        if node.target in (ATEN.avg_pool2d.default, ATEN.adaptive_avg_pool2d.default, ATEN.mean.dim):
            return self._add(node, inputs[0], self.make.pooling(node))
        if node.target in SHAPES:
            return self._reshape(node, inputs[0])
        raise Cannot(REASONS.get(operation(node), 'NIR has no such operation'))

    def _add(self, node: Node, source: Node, made) -> Stream:
        stream = self.streams[source]
        for what, of, types in (('input', source, made.input_type), ('output', node, made.output_type)):
            known, real = types and types[what], self._shape(of)
            # an adaptive pooling has no shape in nir until its graph is made
            if known is not None and tuple(known) != real:
                raise Cannot(f'the package nir takes its {what} for one of shape {tuple(map(int, known))}, not {real}')
        self.nodes[node] = node.name, made, stream.sources
        return Stream(stream.origin, frozenset([node.name]), stream.averaged)

    def _sum(self, node: Node, inputs: list[Node]) -> Stream:
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
        return Stream(a.origin, a.sources | b.sources, a.averaged)

    def _reshape(self, node: Node, source: Node) -> Stream:
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
            if ends and not any(ends_in(p, stream) for p in parts):
                try:
                    part = self._part(stream, node, end in node.users and stream.origin.op == 'placeholder')
                except Exception as error:  # nir may raise any exception
                    self.refusals.append(Refusal(self._modules(stream), 'NIRGraph', f'the package nir says: {error}'))
                    continue
                if part.neurons:
                    part.names = dict.fromkeys(stream.sources)
                    parts.append(part)
        return parts

    def _modules(self, stream: Stream) -> str:
        """The names of the modules between the beginning of a part and its end, of which only the ends are named."""
        first = where(stream.origin) or stream.origin.name
        return f'from {first} to ' + ', '.join(
            sorted(where(n) or n.name for n in self.nodes if n.name in stream.sources)
        )

    def _part(self, stream: Stream, sink: Node, whole: bool) -> Part:
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
        """The shape of a value without batch and time, which is of size 1."""
        value = self.values[node]
        shape = tuple((value[0] if isinstance(value, tuple) else value).shape)
        if node.op == 'placeholder' and len(shape) == 5:
            return shape[2:]
        # time comes before the batch, which is larger than 1
        return shape[2:] if shape[0] == 1 else shape[1:]

    @property
    def whole(self) -> bool:
        """Whether one part represents the whole network, from its input to all its outputs."""
        if len(self.parts) != 1 or not self.parts[0].whole:
            return False
        (outputs,) = next(node for node in self.module.graph.nodes if node.op == 'output').args
        return all(node in self.streams and ends_in(self.parts[0], self.streams[node]) for node in outputs)

    def save(self, path: Path) -> list[Path]:
        """Write a single part to ``path``, or several parts to numbered files beside it; returns the paths."""
        single = len(self.parts) == 1
        paths = [path if single else path.with_suffix(f'.{k}{path.suffix}') for k in range(1, len(self.parts) + 1)]
        for part, file in zip(self.parts, paths):
            self.nir.write(str(file), part.graph)
        return paths
