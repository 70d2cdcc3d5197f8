"""What an export to NIR consists of: graphs, the values between them, and what had to stay outside."""

from dataclasses import dataclass, field

from torch.fx import Node


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
class Stream:
    """A value that NIR can express.

    Attributes:
        origin: the node at which the part of this value begins.
        sources: names of the NIR nodes whose outputs add up to it.
        averaged: whether it comes after the mean over time.
    """

    origin: Node
    sources: frozenset[str]
    averaged: bool = False


def ends_in(part: Part, stream: Stream) -> bool:
    """Whether the output of ``part`` is ``stream``."""
    return part.source is stream.origin and part.names.keys() == stream.sources
