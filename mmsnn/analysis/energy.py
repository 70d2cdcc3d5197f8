"""Synaptic operations and energy of a whole model, including neck and head, compared with its ANN twin."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

from rich.table import Table
from torch import Tensor, nn

from mmsnn.layers import TimeAware, get_time_steps
from mmsnn.layers.fan_out import COUNTED, LARGEST_INTEGER, accumulations, dense_macs
from mmsnn.neurons import FiringRates, Neuron, SpikeCounter

from .forward import Batch, as_batches, flop_counter, images_in, run, watching
from .hardware import AC_PJ, ANALOG_BITS, INTEGER_BITS, MAC_PJ, SPIKE_BITS, Comparison, compare
from .products import Products

SPIKE = 'spike AC'
INTEGER = 'integer AC'
ANALOG = 'analog MAC'
BITS = {SPIKE: SPIKE_BITS, INTEGER: INTEGER_BITS, ANALOG: ANALOG_BITS}
ATTENTION = 'products of attention'

# Attributes that a report sums over layers, with their headings and scales in the table.
SUMMED = dict(
    acs=('ACs (M)', 1e-6),
    macs=('MACs (M)', 1e-6),
    twin_macs=('twin (M)', 1e-6),
    energy_uj=('µJ', 1),
    twin_energy_uj=('twin µJ', 1),
)


@dataclass(frozen=True)
class LayerEnergy:
    """One convolution or linear layer, per image and over all its calls and time steps.

    Attributes:
        name: name in ``model.named_modules()``.
        rule: ``spike AC``, ``integer AC`` or ``analog MAC``; see `count_energy`.
        density: share of the layer's inputs that are not 0. It is 0 if the layer never got a spike; the layer then
            costs nothing, but also does nothing.
        acs, macs: numbers of accumulations and of multiply-accumulates; one of them is 0.
        twin_macs: MACs of the ANN twin, which runs this layer on dense inputs for one time step.
        inputs, twin_inputs: number of input elements over all time steps, and in the twin.
    """

    name: str
    rule: str
    density: float
    acs: float
    macs: float
    twin_macs: float
    inputs: float = 0
    twin_inputs: float = 0

    @property
    def input_bits(self) -> int:
        """Bits of one element of the input in memory."""
        return BITS[self.rule]

    @property
    def energy_uj(self) -> float:
        """Energy in microjoules."""
        return (self.acs * AC_PJ + self.macs * MAC_PJ) * 1e-6

    @property
    def twin_energy_uj(self) -> float:
        """Energy of the ANN twin's layer in microjoules."""
        return self.twin_macs * MAC_PJ * 1e-6


@dataclass(frozen=True)
class EnergyReport:
    """The result of `count_energy`; all numbers are means per image.

    Attributes:
        layers: the layers in the order of their first calls, followed by one entry for all products of spikes in
            attention.
        images: number of images counted.
        T: time steps of the model.
        neuron_updates: neurons x time steps, which are reported but are not part of the energy.
        uncounted_macs: dense MACs outside of convolutions and linear layers that are not products of spikes: products
            of an ANN's queries and keys, and deformable convolutions, which interpolate spikes. They are part of
            neither energy.
        firing_rates: firing rates of the neurons; empty for an ANN.
        remark: a further remark on the figures, for instance that the weights are random.
        levels: largest integer that a neuron emits (I-LIF's D).
    """

    layers: list[LayerEnergy]
    images: int
    T: int
    neuron_updates: float
    uncounted_macs: float
    firing_rates: FiringRates
    remark: str = ''
    levels: int = 1

    def total(self, what: str) -> float:
        """Sum of an attribute of `LayerEnergy` over all layers."""
        return sum(getattr(layer, what) for layer in self.layers)

    @property
    def ratio(self) -> float:
        """Energy as a share of the ANN twin's."""
        return self.total('energy_uj') / self.total('twin_energy_uj')

    @property
    def comparison(self) -> Comparison | None:
        """The comparison that includes memory accesses and a quantised ANN; None for an ANN."""
        return compare(self, self.levels) if self.firing_rates else None

    def as_dict(self) -> dict:
        """All results in a form that JSON can hold."""
        return dict(
            images=self.images,
            T=self.T,
            **{key: self.total(key) for key in SUMMED},
            ratio=self.ratio,
            neuron_updates=self.neuron_updates,
            uncounted_macs=self.uncounted_macs,
            picojoules=dict(mac=MAC_PJ, ac=AC_PJ),
            comparison=self.comparison and self.comparison.as_dict(),
            silent_layers=self.firing_rates.silent,
            remark=self.remark,
            layers=[asdict(v) | dict(energy_uj=v.energy_uj, twin_energy_uj=v.twin_energy_uj) for v in self.layers],
        )

    def table(self) -> Table:
        """The report for ``rich.print``: operations in millions, energy in microjoules, per image."""
        notes = [
            f'45 nm: {MAC_PJ} pJ per MAC, {AC_PJ} pJ per AC. Energy {self.ratio:.3f} of the ANN twin. Not counted: '
            f'norms (folded into convolutions), {self.neuron_updates / 1e6:.3f} M neuron updates, and '
            f'{self.uncounted_macs / 1e6:.3f} M dense MACs outside convolution and linear layers (products of '
            'analog values).'
        ]
        if self.firing_rates.warning():
            notes.append(f'A layer may cost nothing because it does nothing: {self.firing_rates.warning()}')
        table = Table(
            title=f'Synaptic operations per image, T={self.T}, mean of {self.images} images',
            caption=' '.join(filter(None, [*notes, self.remark])),
            caption_justify='left',
            show_footer=True,
        )
        table.add_column('layer', 'total', overflow='fold', min_width=20)
        table.add_column('rule', no_wrap=True)
        table.add_column('density', justify='right', min_width=7)

        def cell(holder, key):
            value = self.total(key) if holder is self else getattr(holder, key)
            return f'{value * SUMMED[key][1]:.3f}'

        for key, (title, _) in SUMMED.items():
            table.add_column(title, cell(self, key), justify='right', no_wrap=True)
        for layer in self.layers:
            density = f'{layer.density:.3f}' if layer.density else 'silent'
            table.add_row(layer.name, layer.rule, density, *(cell(layer, key) for key in SUMMED))
        return table


@dataclass
class _Tally:
    """Sums over the calls of one layer; the rule is known only after the last call."""

    amplitudes: set = field(default_factory=set)
    two_valued: bool = True
    integer: bool = True
    folded: bool = True
    spikes: float = 0
    units: float = 0
    dense: int = 0
    twin: float = 0
    nonzero: int = 0
    inputs: int = 0
    twin_inputs: float = 0

    def add(self, layer: nn.Module, x: Tensor, output: Tensor, steps: int, folded: bool) -> None:
        size = x.abs()
        peak = size.max()
        on = x != 0
        # A NaN is not 0, and makes the layer analog.
        if peak != 0:
            amplitude = x.flatten()[size.argmax()]
            self.amplitudes.add(amplitude.item())
            self.two_valued &= len(self.amplitudes) == 1 and bool((x[on] == amplitude).all())
            self.integer &= bool(peak <= LARGEST_INTEGER) and bool((x == x.round()).all())
        self.folded &= folded
        dense = dense_macs(layer, x, output)
        self.dense += dense
        self.twin += dense / steps
        self.nonzero += int(on.sum())
        self.inputs += x.numel()
        self.twin_inputs += x.numel() / steps
        if self.two_valued:
            self.spikes += accumulations(layer, on, output).item()
        if self.integer:
            self.units += accumulations(layer, size, output).item()

    def result(self, name: str, images: int) -> LayerEnergy:
        # If all inputs were 0, the layer counts as spiking if it ran on folded time steps.
        spiking = self.two_valued and (self.amplitudes or self.folded)
        rule = SPIKE if spiking else INTEGER if self.integer and self.amplitudes else ANALOG
        acs = {SPIKE: self.spikes, INTEGER: self.units, ANALOG: 0}[rule]
        macs = self.dense if rule == ANALOG else 0
        given = self.inputs / images, self.twin_inputs / images
        density = self.nonzero / self.inputs
        return LayerEnergy(name, rule, density, acs / images, macs / images, self.twin / images, *given)


def count_energy(model: nn.Module, inputs: Batch | Iterable[Batch]) -> EnergyReport:
    """Count the synaptic operations and the energy per image, by the actual inputs of each layer.

    - Inputs with two values, 0 and another one: ``spike AC``, one accumulation for each output that a spike reaches.
    - Other integers (SEW's sums, I-LIF): ``integer AC``, as many accumulations as their absolute values.
    - Anything else (images, firing rates after the readout, ReLU features): ``analog MAC``, all dense MACs.

    One rule applies to all calls of a layer over all inputs. Integers above 127 count as analog (8-bit images). A layer
    whose inputs are all 0 counts as spiking on ``[T*B, ...]`` (at T=1 in a spiking network, everywhere) and as analog
    on ``[B, ...]``. Layers that run on ``[B, ...]`` are counted once per image, and those on ``[T*B, ...]`` T times.
    Norms are assumed to be folded into convolutions, and biases to cost nothing.

    The ANN twin runs every layer once on dense inputs: the dense MACs of a call are divided by T if its first dimension
    is T*B, or a linear layer's first two are T and B.

    Products of spikes in attention count as accumulations, as in papers (`Products`), and as MACs in the twin; they
    share one row. The report's ``comparison`` includes memory accesses and a quantised ANN.

    Other counters may give other numbers: here a layer after average pooling gets fractions and costs all its dense
    MACs, and sums of spikes above 1 (SEW) are not analog.

    Args:
        model: any model, spiking or not; it runs in eval mode, and its modes are restored.
        inputs: images ``[B, C, H, W]``, event frames ``[B, T, C, H, W]``, a batch of a data loader (which goes through
            ``model.test_step``), or an iterable of either.

    Raises:
        TypeError: an input has another form.
        ValueError: spiking modules have different T, there are no inputs, or no convolution or linear layer was called.
    """
    T = get_time_steps(model)
    spiking = any(isinstance(m, TimeAware) for m in model.modules())
    tallies: dict[str, _Tally] = {}
    images = batch_size = 0

    def record(name, module, x, output):
        if x.numel():
            apart = isinstance(module, nn.Linear) and x.dim() > 2 and x.shape[:2] == (T, batch_size)
            in_time = spiking and (x.shape[0] == T * batch_size or apart)
            tallies.setdefault(name, _Tally()).add(module, x, output, T if in_time else 1, in_time)

    flops, products = flop_counter(), Products(model)
    with watching(model, COUNTED, record), SpikeCounter(model) as spikes, flops, products:
        for batch in as_batches(inputs):
            batch_size = images_in(batch)
            images += batch_size
            run(model, batch)
    if not tallies:
        raise ValueError(f'no convolution or linear layer of {type(model).__name__} was called: nothing to count')
    layers = [tally.result(name, images) for name, tally in tallies.items()]
    if products.spiking_macs:
        layers.append(_attention(products, images, T))
    uncounted = flops.get_total_flops() / 2 - sum(t.dense for t in tallies.values()) - products.spiking_macs
    levels = max((m.settings.levels for m in model.modules() if isinstance(m, Neuron)), default=1)
    rates = spikes.rates()
    updates = sum(layer.updates for layer in rates.layers.values())
    return EnergyReport(layers, images, T, updates / images, max(uncounted, 0) / images, rates, levels=levels)


def _attention(products: Products, images: int, T: int) -> LayerEnergy:
    inputs = products.inputs / images
    return LayerEnergy(
        ATTENTION, SPIKE, products.spikes / products.inputs, products.acs / images, 0,
        products.spiking_macs / T / images, inputs, inputs / T,
    )  # fmt: skip
