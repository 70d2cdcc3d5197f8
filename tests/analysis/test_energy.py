import io
import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from torch import nn

from mmsnn.analysis import count_energy
from mmsnn.analysis.energy import AC_PJ, ANALOG, INTEGER, MAC_PJ, SPIKE
from mmsnn.layers import DirectEncoder, Readout
from mmsnn.layers.fan_out import accumulations
from mmsnn.neurons import IF


class Given(nn.Module):
    """Runs its layer on one input after the other, whatever images come in."""

    def __init__(self, layer, *inputs, T=1):
        super().__init__()
        self.time = DirectEncoder(T)
        self.layer = layer
        self.inputs = inputs

    def forward(self, images):
        for x in self.inputs:
            self.layer(x)


def only(layer, *inputs, T=1, images=1):
    (found,) = count_energy(Given(layer, *inputs, T=T), torch.zeros(images, 1)).layers
    return found


def test_constants_are_those_of_45_nm():
    assert (MAC_PJ, AC_PJ) == (4.6, 0.9)


def test_linear_on_spikes():
    # three spikes, each to four outputs; two images of one step
    x = torch.tensor([[1.0, 0, 1], [0, 1, 0]])
    found = only(nn.Linear(3, 4), x, images=2)
    assert (found.rule, found.acs, found.macs, found.twin_macs, found.density) == (SPIKE, 6, 0, 12, 0.5)
    assert found.energy_uj == pytest.approx(6 * 0.9e-6)
    assert found.twin_energy_uj == pytest.approx(12 * 4.6e-6)


def test_folded_time_is_counted_every_step_and_by_the_twin_once():
    # one image, two steps: the same three spikes now belong to one image
    found = only(nn.Linear(3, 4), torch.tensor([[1.0, 0, 1], [0, 1, 0]]), T=2)
    assert (found.acs, found.twin_macs) == (12, 12)


@pytest.mark.parametrize('images', [1, 3])
def test_linear_layers_on_steps_and_images_apart(images):
    """``[T, B, features]`` counts as ``[T*B, features]``, for any number of images."""
    x = torch.tensor([[1.0, 0, 1], [0, 1, 0]])[:, None].repeat(1, images, 1)
    found = only(nn.Linear(3, 4), x, T=2, images=images)
    assert (found.rule, found.acs, found.twin_macs, found.inputs) == (SPIKE, 12, 12, 6)


def test_spikes_of_another_height_are_spikes():
    # a constant factor belongs to the weights: expanded ILIF emits 0 and D
    assert only(nn.Linear(3, 4), torch.tensor([[2.5, 0, 2.5]])).acs == 8
    assert only(nn.Linear(3, 4), torch.tensor([[-1.0, 0, 0]])).acs == 4


def test_integers_cost_their_value():
    found = only(nn.Linear(3, 4), torch.tensor([[3.0, 0, 1], [0, 2, 0]]), T=2)
    assert (found.rule, found.acs, found.macs, found.twin_macs) == (INTEGER, 6 * 4, 0, 12)
    # ternary spikes: a subtraction costs what an addition costs
    assert only(nn.Linear(3, 4), torch.tensor([[1.0, 0, -1]])).acs == 8


@pytest.mark.parametrize('x', [[0.5, 0, 1], [1.0, 255, 0], [float('nan'), 1, 0]])
def test_everything_else_is_dense(x):
    found = only(nn.Linear(3, 4), torch.tensor([x]))
    assert (found.rule, found.acs, found.macs) == (ANALOG, 0, 12)


def test_silence_costs_nothing_where_there_is_time():
    found = only(nn.Linear(3, 4), torch.zeros(2, 3), T=2)
    assert (found.rule, found.acs, found.macs, found.twin_macs) == (SPIKE, 0, 0, 12)
    assert only(nn.Linear(3, 4), torch.zeros(1, 3), T=1).rule == SPIKE
    # an ANN's zeros are features like others, and those behind the readout
    (found,) = count_energy(nn.Linear(3, 4), torch.zeros(1, 3)).layers
    assert found.rule == ANALOG
    found = only(nn.Linear(3, 4), torch.zeros(1, 3), T=2)
    assert (found.rule, found.acs, found.macs, found.twin_macs) == (ANALOG, 0, 12, 12)


def test_shared_layer_adds_up_and_has_one_rule():
    spikes, sums = torch.tensor([[1.0, 0, 1]]), torch.tensor([[2.0, 1, 0]])
    assert only(nn.Linear(3, 4), spikes, spikes).acs == 16
    # 2 + 3 units, each to four outputs
    found = only(nn.Linear(3, 4), spikes, sums)
    assert (found.rule, found.acs, found.twin_macs) == (INTEGER, 20, 24)
    # two heights are no spikes, and one analog call makes the layer analog
    assert only(nn.Linear(3, 4), spikes, 3 * spikes).rule == INTEGER
    found = only(nn.Linear(3, 4), spikes, spikes / 3)
    assert (found.rule, found.acs, found.macs) == (ANALOG, 0, 24)


@pytest.mark.parametrize(
    ('where', 'outputs'),
    # 3x3, padding 1, on 4x4: a corner reaches 4 outputs, an edge 6, the middle 9
    [((0, 0), 4), ((0, 1), 6), ((1, 1), 9), ((3, 3), 4)],
)
def test_padding_by_hand(where, outputs):
    x = torch.zeros(1, 2, 4, 4)
    x[0, 1][where] = 1
    found = only(nn.Conv2d(2, 5, 3, padding=1), x)
    assert (found.acs, found.twin_macs) == (5 * outputs, 16 * 5 * 2 * 9)


@pytest.mark.parametrize(
    ('where', 'outputs'),
    # 2x2 with stride 3 on 5x5: outputs at 0 and 3, each reading two places; row and column 2 are skipped
    [((0, 0), 1), ((1, 4), 1), ((2, 0), 0), ((2, 2), 0), ((3, 3), 1)],
)
def test_stride_by_hand(where, outputs):
    x = torch.zeros(1, 1, 5, 5)
    x[0, 0][where] = 1
    found = only(nn.Conv2d(1, 7, 2, stride=3), x)
    assert (found.acs, found.twin_macs) == (7 * outputs, 4 * 7 * 4)


def test_groups_by_hand():
    # depthwise: a spike in the middle reaches the nine outputs of its own channel
    x = torch.zeros(1, 6, 3, 3)
    x[0, 2, 1, 1] = 1
    found = only(nn.Conv2d(6, 6, 3, padding=1, groups=6), x)
    assert (found.acs, found.twin_macs) == (9, 6 * 9 * 9)
    assert only(nn.Conv2d(6, 4, 3, padding=1, groups=2), x).acs == 9 * 2


CONVOLUTIONS = [
    nn.Conv2d(4, 6, 3),
    nn.Conv2d(4, 6, (3, 5), stride=(2, 1), padding=(2, 0), dilation=(1, 2), groups=2),
    nn.Conv2d(4, 6, 4, padding='same'),
    nn.Conv2d(4, 6, 3, padding='valid', stride=3),
    nn.Conv2d(4, 6, 3, padding=1, padding_mode='reflect'),
    nn.Conv2d(4, 6, 3, padding=1, padding_mode='circular', stride=2),
    nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
    nn.ConvTranspose2d(4, 6, (2, 3), dilation=2),
    nn.Conv1d(4, 6, 5, stride=2, padding=3),
    nn.Conv3d(4, 6, (1, 3, 2), stride=(2, 1, 1), padding=(0, 1, 1)),
]


@pytest.mark.parametrize('layer', CONVOLUTIONS, ids=str)
@pytest.mark.parametrize('batched', [True, False])
def test_accumulations_are_what_a_convolution_with_ones_does(layer, batched):
    torch.manual_seed(0)
    x = torch.randint(0, 4, (3, 4, 9, 10, 7)[: len(layer.kernel_size) + 2]).float()
    x = x if batched else x[0]
    ones = layer.requires_grad_(False)
    ones.weight.fill_(1)
    ones.bias.zero_()
    output = ones(x)
    assert accumulations(layer, x, output) == pytest.approx(output.double().sum().item())


class Small(nn.Module):
    """A stem on the image, a folded spiking layer, a readout, and an analog head."""

    def __init__(self, T):
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 1, bias=False)
        self.encoder = DirectEncoder(T)
        self.neuron = IF(T)
        self.conv = nn.Conv2d(2, 3, 1, bias=False)
        self.readout = Readout(T)
        self.head = nn.Linear(3, 5)
        nn.init.constant_(self.stem.weight, 0.5)
        self.conv.weight.data = torch.tensor([[0.3, 0.3], [0.1, 0.3], [-0.2, 0.5]])[..., None, None]

    def forward(self, x):
        x = self.conv(self.neuron(self.encoder.repeat(self.stem(x))))
        return self.head(self.readout(x).mean((2, 3)))


def test_whole_network_by_hand():
    model = Small(T=4).train()
    # 0.5 charges the neuron to its threshold in every second step; the other pixel is dark but for a whisper
    x = torch.tensor([1.0, 0.01]).view(1, 1, 1, 2)
    report = count_energy(model, x)
    stem, conv, head = report.layers
    # 2 pixels x 2 channels, once: the image does not change
    assert (stem.name, stem.rule, stem.macs, stem.twin_macs) == ('stem', ANALOG, 4, 4)
    # 2 channels fire twice in 4 steps and reach 3 outputs each time
    assert (conv.name, conv.rule, conv.acs, conv.twin_macs) == ('conv', SPIKE, 12, 12)
    assert (head.name, head.rule, head.macs, head.twin_macs) == ('head', ANALOG, 15, 15)
    assert report.neuron_updates == 2 * 2 * 4
    assert report.uncounted_macs == 0
    assert (report.images, report.T) == (1, 4)
    assert report.total('energy_uj') == pytest.approx((19 * 4.6 + 12 * 0.9) * 1e-6)
    assert report.ratio == pytest.approx((19 * 4.6 + 12 * 0.9) / (31 * 4.6))
    assert model.training and model.head.training
    assert not any(m._forward_hooks for m in model.modules())


def test_means_are_per_image_however_the_images_come():
    model, images = Small(T=2), torch.rand(4, 1, 3, 3)
    images[:, :, 0] = 4
    assert count_energy(model, images) == count_energy(model, iter([images[:3], images[3:]]))


def test_data_batches_go_through_test_step():
    class Task(Small):
        def test_step(self, data):
            return self(torch.stack(data['inputs']))

    model, images = Task(T=2), torch.rand(3, 1, 3, 3)
    batch = dict(inputs=list(images), data_samples=None)
    assert count_energy(model, batch) == count_energy(model, images)


def test_products_of_activations_are_named_not_counted():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.query = nn.Linear(3, 3)

        def forward(self, x):
            return self.query(x) @ x.transpose(1, 2)

    report = count_energy(Attention(), torch.rand(2, 5, 3))
    assert report.total('macs') == 5 * 9
    assert report.uncounted_macs == 5 * 5 * 3


def test_report_prints_and_dumps():
    report = count_energy(Small(T=4), torch.rand(2, 1, 3, 3))
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(report.table())
    text = console.export_text()
    assert all(word in text for word in ('stem', 'spike AC', 'analog MAC', 'ANN twin', 'T=4'))
    content = json.loads(json.dumps(report.as_dict()))
    assert content['layers'][1]['rule'] == SPIKE
    assert content['energy_uj'] == pytest.approx(report.total('energy_uj'))


def test_errors():
    with pytest.raises(ValueError, match='was called'):
        count_energy(nn.ReLU(), torch.zeros(1, 1))
    with pytest.raises(TypeError, match='inputs'):
        count_energy(Small(T=2), [dict(images=1)])
    model = Small(T=2)
    model.neuron.T = 3
    with pytest.raises(ValueError, match='different T'):
        count_energy(model, torch.zeros(1, 1, 2, 2))


def test_hooks_go_even_after_an_error():
    model = Small(T=2)
    with pytest.raises(RuntimeError):
        count_energy(model, torch.zeros(1, 2, 3, 3))
    assert model.training and not any(m._forward_hooks for m in model.modules())


def test_silent_layers_are_marked():
    """A network that says nothing is cheap, and its table says why."""
    model = Small(T=4)
    model.neuron.settings = replace(model.neuron.settings, v_threshold=50.0)
    report = replace(count_energy(model, torch.rand(2, 1, 3, 3)), remark='Of the figures.')
    assert report.firing_rates.silent == ['neuron'] == report.as_dict()['silent_layers']
    table = report.table()
    names, _, densities = ([*column.cells] for column in table.columns[:3])
    # behind it the head is given zeros, too, of the mean over time
    assert dict(zip(names, densities))['conv'] == 'silent' != dict(zip(names, densities))['stem']
    assert '1 of 1 neuron layers are silent' in table.caption and table.caption.endswith('Of the figures.')
    assert 'silent' not in count_energy(Small(T=4), torch.ones(2, 1, 3, 3)).table().caption
