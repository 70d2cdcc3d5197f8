"""Spike-element-wise ResNet (Fang et al., "Deep Residual Learning in Spiking Neural Networks", NeurIPS 2021)."""

from torch import Tensor

from mmsnn.registry import MODELS

from .cifar_resnet import ShortcutA
from .residual import SpikingBlock
from .resnet import SpikingResNet

CONNECT = {
    'ADD': lambda shortcut, branch: shortcut + branch,
    'AND': lambda shortcut, branch: shortcut * branch,
    'IAND': lambda shortcut, branch: shortcut * (1 - branch),
}


class SEWBlock(SpikingBlock):
    """A block with a neuron after every norm, also in the shortcut; it combines the spikes of branch and shortcut."""

    def __init__(self, *args, connect: str, make_neuron, **kwargs):
        def one_kind(joint=False):
            return make_neuron()

        super().__init__(*args, make_neuron=one_kind, **kwargs)
        self.connect = connect
        # The output of a shortcut without parameters is spikes already.
        if self.downsample is not None and not isinstance(self.downsample, ShortcutA):
            self.downsample_neuron = make_neuron()

    def block(self, x: Tensor) -> Tensor:
        if self.plugin_names[-1]:
            spikes = self.last_neuron(self.normed(x))
        else:
            spikes = self.last_neuron.after_norm(self.last_norm, self.residual(x))
        branch = self.drop_path(spikes)
        shortcut = x if self.downsample is None else self._shorten(x)
        return CONNECT[self.connect](shortcut=shortcut, branch=branch)

    def _shorten(self, x: Tensor) -> Tensor:
        if isinstance(self.downsample, ShortcutA):
            return self.downsample(x)
        return self.downsample_neuron.after_norm(self.downsample, x)


@MODELS.register_module()
class SEWResNet(SpikingResNet):
    """SEW-ResNet. Takes the arguments of `SpikingResNet` and ``connect``.

    With ADD, the output of a stage is an integer between 0 and its number of blocks plus one. IAND is
    ``shortcut * (1 - branch)`` at every depth; in SpikingJelly's bottleneck the two are exchanged.

    Args:
        connect: how a block combines shortcut and branch: ``ADD``, ``AND`` or ``IAND``.

    Raises:
        ValueError: ``connect`` is unknown; ``zero_init_residual`` is set with AND, which would silence the network
            permanently; ``drop_path_rate`` is set without ADD; or ``joint_neuron`` is given.
    """

    def __init__(self, depth: int, T: int = 4, neuron: dict | None = None, connect: str = 'ADD', **kwargs):
        if connect not in CONNECT:
            raise ValueError(f'backbone.connect must be one of {", ".join(CONNECT)}, got {connect!r}')
        if connect == 'AND' and kwargs.get('zero_init_residual'):
            raise ValueError(
                "backbone.zero_init_residual=True silences every block with connect='AND': set it to False"
            )
        if connect != 'ADD' and kwargs.get('drop_path_rate'):
            raise ValueError(
                f"backbone.drop_path_rate goes with connect='ADD' alone, got {connect!r}: set it to 0 (inherited?)"
            )
        if kwargs.get('joint_neuron'):
            raise ValueError('backbone.joint_neuron belongs to SpikingResNet: in SEW no neuron follows the addition')
        self.connect = connect
        super().__init__(depth, T, neuron, **kwargs)

    @property
    def block_bits(self) -> int:
        """Bits per element to store a block's output: 8 for sums, 1 for spikes."""
        return 8 if self.connect == 'ADD' else 1

    def block_type(self, **kwargs) -> SEWBlock:
        """A block with this network's connection."""
        return SEWBlock(connect=self.connect, **kwargs)
