"""Counting spikes: rates, silent channels and layers, and that counting disturbs nothing."""

import pytest
import torch
import torch.utils.checkpoint as cp
from torch import nn

from mmsnn.analysis import firing_rates
from mmsnn.models import SEWResNet
from mmsnn.neurons import IF, ILIF, LIF, FiringRates, SpikeCounter, expand_levels


def count(model, *inputs):
    with SpikeCounter(model) as counter:
        for x in inputs:
            model(x)
    return counter.rates()


class TestCounts:
    def test_channels_by_hand(self):
        # T=2, one image, channels given 1, 0.5 and 0.2 a step: 2, 1 and 0 spikes in each of 4 neurons
        x = torch.tensor([1.0, 0.5, 0.2]).view(1, 3, 1, 1).expand(2, 3, 2, 2)
        rates = count(nn.Sequential(IF(2)), x)
        layer = rates.layers['0']
        assert rates == {'0': (8 + 4) / 24} and rates.mean == 0.5
        assert (layer.channels, layer.silent_channels, layer.updates, layer.silent) == (3, 1, 24, False)
        assert rates.silent_channels == 1 / 3 and rates.silent == [] and rates.warning() is None

    def test_forwards_add_up(self):
        one, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        assert count(nn.Sequential(IF(1)), one).layers['0'].silent_channels == 1
        rates = count(nn.Sequential(IF(1)), one, other)
        assert rates.layers['0'].silent_channels == 0 and rates == {'0': 0.5}

    def test_mean_is_over_neurons_not_over_layers(self):
        model = nn.Sequential(IF(1), nn.Flatten(), nn.Linear(8, 1, bias=False), IF(1))
        nn.init.zeros_(model[2].weight)
        rates = count(model, torch.ones(1, 2, 2, 2))
        assert rates == {'0': 1.0, '3': 0.0} and rates.mean == 8 / 9
        assert rates.silent == ['3'] and rates.silent_channels == 1 / 3

    @pytest.mark.parametrize('shape, layers', [((2, 5, 3), [nn.Linear(3, 3)]), ((2, 4, 4, 3), [nn.LayerNorm(3)])])
    def test_behind_linear_layers_channels_are_last(self, shape, layers):
        rates = count(nn.Sequential(*layers, IF(2)), torch.zeros(shape))
        assert rates.layers['1'].channels == 3

    def test_time_as_its_own_dimension(self):
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv, self.neuron = nn.Conv2d(1, 6, 1), IF(4)

            def forward(self, x):
                return self.neuron(torch.stack([self.conv(x)] * 4))

        assert count(Net(), torch.ones(2, 1, 3, 3)).layers['neuron'].channels == 6
        assert count(nn.Sequential(IF(4)), torch.ones(8)).layers['0'].channels == 1

    def test_one_module_at_places_of_different_width(self):
        neuron = IF(1)
        model = nn.Sequential(neuron, nn.Conv2d(1, 3, 1, bias=False), neuron)
        nn.init.zeros_(model[1].weight)
        layer = count(model, torch.ones(1, 1, 2, 2)).layers['0']
        assert (layer.rate, layer.channels, layer.silent_channels, layer.updates) == (4 / 16, 4, 3, 16)

    def test_integers_and_their_expansion(self):
        model, x = nn.Sequential(ILIF(1, levels=4)), torch.tensor([[0.4, 0.6, 3.2, 9.0]])
        assert count(model, x) == {'0': 2.0}
        expanded = count(expand_levels(model), x.repeat(4, 1))
        assert expanded == {'0': 0.5} and expanded.layers['0'].silent_channels == 1

    def test_several_processes(self):
        """What counters in two processes have seen, as if one had seen all."""
        inputs = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0]])
        counters = []
        for x in inputs:
            model = nn.Sequential(IF(1))
            with SpikeCounter(model) as counter:
                model(x)
            counters.append(counter)
        both = counters[0].rates([counter.counts() for counter in counters])
        assert both.layers == count(nn.Sequential(IF(1)), *inputs).layers

    def test_half_precision(self):
        # 4,096 spikes and more are no whole numbers in half precision
        assert count(nn.Sequential(IF(1)), torch.ones(1, 1, 70, 70, dtype=torch.bfloat16)) == {'0': 1.0}


class TestManners:
    def test_same_numbers_and_nothing_left(self):
        """Fused norms stay fused while spikes are counted, and the hooks go."""
        model = SEWResNet(18, T=2, base_channels=32).train()
        x, norms = torch.randn(3, 3, 128, 128), []
        handle = model.layer1[0].neuron1.register_forward_pre_hook(
            lambda _, args, kwargs: norms.append(kwargs.get('norm')), with_kwargs=True
        )
        state = {k: v.clone() for k, v in model.state_dict().items()}
        plain = model(x)
        model.load_state_dict(state)
        with SpikeCounter(model):
            counted = model(x)
        handle.remove()
        assert all(torch.equal(a, b) for a, b in zip(plain, counted))
        assert norms == [model.layer1[0].bn1] * 2
        assert not any(m._forward_hooks for m in model.modules())

    def test_hooks_go_after_an_error(self):
        model = nn.Sequential(IF(2))
        with pytest.raises(ValueError, match='T=2 time steps'), SpikeCounter(model):
            model(torch.zeros(3, 1))
        assert not model[0]._forward_hooks

    @pytest.mark.parametrize('reentrant', [False, True])
    def test_checkpointing_counts_once(self, reentrant):
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv, self.neuron = nn.Conv2d(1, 2, 1), LIF(1, v_threshold=0.1)

            def forward(self, x):
                return cp.checkpoint(lambda x: self.neuron(self.conv(x)), x, use_reentrant=reentrant)

        model = Net()
        with SpikeCounter(model) as counter:
            model(torch.rand(2, 1, 3, 3, requires_grad=True)).sum().backward()
        assert counter.rates().layers['neuron'].updates == 2 * 2 * 9

    def test_compiled_models_are_counted(self):
        model = nn.Sequential(nn.Conv2d(1, 2, 1), IF(2, v_threshold=0.1))
        nn.init.ones_(model[0].weight)
        compiled, x = torch.compile(model, backend='eager'), torch.ones(2, 1, 3, 3)
        compiled(x)
        with SpikeCounter(compiled) as counter:
            compiled(x)
        assert counter.rates() == count(model, x) and list(counter.rates()) == ['1']
        torch._dynamo.reset()


class TestWords:
    def net(self):
        return nn.Sequential(IF(1, v_threshold=0.5), IF(1, v_threshold=9.0))

    def test_warning_names_layers_and_remedies(self):
        said = count(self.net(), torch.ones(1, 2)).warning()
        assert said.startswith('1 of 2 neuron layers are silent, no neuron fired: 1 (v_threshold 9)')
        assert all(word in said for word in ('v_threshold', 'norm', 'mmsnn.TDBN', 'init_cfg'))

    def test_many_layers_are_a_few_names(self):
        said = count(nn.Sequential(*[IF(1) for _ in range(30)]), torch.zeros(1, 2)).warning()
        assert said.startswith('30 of 30') and ' 19 and 10 more (' in said

    def test_nearly_silent(self):
        """A tenth of the channels at work will do; less, and the layer is named as well."""
        x = torch.zeros(1, 20)
        x[0, :2] = 1
        assert count(nn.Sequential(IF(1)), x).warning() is None
        x[0, 1] = 0
        rates = count(nn.Sequential(IF(1)), x)
        assert rates.nearly_silent == ['0'] and rates.silent == []
        assert rates.warning().startswith(
            '1 of 1 neuron layers are nearly silent, channels that never fired: 0 (19 of 20) (v_threshold 1)'
        )
        assert [*rates.table().columns[3].cells] == ['nearly silent']
        both = count(nn.Sequential(IF(1), IF(1, v_threshold=9.0)), x).warning()
        assert '1 of 2 neuron layers are silent, no neuron fired: 1; 1 of 2 neuron layers are nearly' in both

    def test_table_marks_silent_layers(self):
        table = count(self.net(), torch.ones(1, 2)).table()
        names, rates, channels, marks = ([*column.cells] for column in table.columns)
        assert names == ['0', '1'] and rates == ['1.0000', '0.0000']
        assert channels == ['0 of 2', '2 of 2'] and marks == ['', 'silent']
        assert 'silent' in table.caption and 'v_threshold' in table.caption
        assert 'silent' not in count(self.net()[:1], torch.ones(1, 2)).table().caption

    def test_norms_that_have_seen_nothing(self):
        """In eval mode they normalise nothing, which is why an untrained network is silent."""
        model, x = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), IF(1, v_threshold=9.0)), torch.ones(2, 1, 3, 3)
        assert '1 batch norms are in eval mode and have seen no batch' in firing_rates(model, x).warning()
        assert 'eval mode' not in count(model, x).warning() and 'eval mode' not in firing_rates(model, x).warning()

    def test_nothing_counted(self):
        rates = SpikeCounter(nn.Linear(1, 1)).rates()
        assert isinstance(rates, FiringRates) and not rates and (rates.mean, rates.silent_channels) == (0, 0)
