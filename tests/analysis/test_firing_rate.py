import pytest
import torch
from torch import nn

from mmsnn.analysis import firing_rates
from mmsnn.layers import DirectEncoder
from mmsnn.neurons import IF, ILIF, expand_levels


def net(*neurons, T):
    return nn.Sequential(DirectEncoder(T), *neurons)


def test_rates_by_hand():
    # 0.5 a step fires in steps 2 and 4; 1 always; 0.2 and 0 never: 6 spikes in 4 neurons x 4 steps
    images = torch.tensor([0.5, 1.0, 0.2, 0.0]).view(1, 1, 2, 2)
    assert firing_rates(net(IF(4), T=4), images) == {'1': 6 / 16}


def test_each_layer_has_its_own_rate_and_batches_are_averaged():
    model = net(IF(2), IF(2, v_threshold=2.0), T=2)
    batches = [torch.full((3, 1, 1, 1), 1.0), torch.zeros(1, 1, 1, 1)]
    # in three of four images the first fires in both steps, the second in one of them
    assert firing_rates(model, batches) == {'1': 0.75, '2': 0.375}


def test_shared_neuron_is_averaged_over_its_places():
    neuron = IF(2, v_threshold=2.0)
    # first use: fires in step 2; second use: receives one spike and stays silent
    assert firing_rates(net(neuron, neuron, T=2), torch.ones(1, 1, 1, 1)) == {'1': 0.25}


def test_ilif_gives_the_mean_integer():
    model = net(ILIF(1, levels=4), T=1)
    images = torch.tensor([0.4, 0.6, 3.2, 9.0]).view(1, 1, 2, 2)
    # 0, 1, 3 and, at the most, 4
    assert firing_rates(model, images) == {'1': 2.0}


def test_expanded_ilif_counts_spikes_not_heights():
    model = expand_levels(net(ILIF(1, levels=4), T=1))
    # an integer of 3 is three spikes of height 4 in four micro-steps
    assert firing_rates(model, torch.full((1, 1, 1, 1), 3.0)) == {'1': 0.75}


def test_model_is_left_as_it_was():
    model = net(IF(2), nn.Dropout(), T=2)
    model[2].eval()
    firing_rates(model, torch.ones(1, 1, 1, 1))
    assert model.training and model[1].training and not model[2].training
    assert not any(m._forward_hooks for m in model.modules())


def test_data_batches_go_through_test_step():
    class Task(nn.Module):
        def __init__(self):
            super().__init__()
            self.neuron = IF(1)

        def test_step(self, data):
            return self.neuron(torch.stack(data['inputs']))

    assert firing_rates(Task(), dict(inputs=[torch.ones(2), torch.zeros(2)])) == {'neuron': 0.5}


def test_no_neuron_is_an_error():
    with pytest.raises(ValueError, match='no spiking neuron'):
        firing_rates(nn.Linear(1, 1), torch.zeros(1, 1))
