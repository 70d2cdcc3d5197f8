"""What is drawn holds the numbers that were given; mmsnn look writes one file."""

import runpy

import cv2
import matplotlib
import numpy as np
import pytest
import torch

from mmsnn import visualize
from mmsnn.shipped import home

matplotlib.use('Agg')
import matplotlib.pyplot as plt  # noqa: E402


@pytest.fixture
def axes():
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


def test_a_raster_has_a_mark_a_spike(axes):
    spikes = (torch.rand(5, 2, 3, 4) < 0.4).float()
    visualize.raster(axes, spikes, sample=1, neurons=torch.arange(12))
    marks = [c.get_positions() for c in axes.collections]
    for k, steps in enumerate(marks):
        assert [t - 1 for t in steps] == spikes[:, 1].flatten(1)[:, k].nonzero().flatten().tolist()


def test_neurons_that_fire_are_chosen():
    spikes = torch.zeros(3, 1, 100)
    spikes[1, 0, [7, 50, 93]] = 1
    assert visualize.choose(spikes, 3).tolist() == [7, 50, 93]
    assert visualize.choose(spikes, 2).tolist() == [7, 93]
    assert len(visualize.choose(torch.zeros(3, 1, 100), 4)) == 4


def test_potentials_have_their_threshold_and_marks(axes):
    v = torch.tensor([0.5, 1.2, 0.3]).view(3, 1, 1)
    visualize.membrane(axes, v, 0.9, spikes=(v > 0.9).float())
    trace, mark, threshold = axes.lines
    assert trace.get_ydata() == pytest.approx([0.5, 1.2, 0.3])
    assert (mark.get_xdata().tolist(), mark.get_ydata()) == ([2], pytest.approx([1.2]))
    assert threshold.get_ydata() == [0.9, 0.9]


def test_a_map_is_the_mean_over_time_and_channels(axes):
    spikes = (torch.rand(4, 2, 3, 5, 6) < 0.5).float()
    visualize.rate_map(axes, spikes, sample=1)
    assert np.allclose(axes.images[0].get_array(), spikes[:, 1].mean((0, 1)))
    visualize.rate_map(axes, spikes, np.zeros((20, 24, 3)), sample=1)
    assert axes.images[-1].get_array().shape == (20, 24)


def test_rates_over_time(axes):
    spikes = (torch.rand(4, 2, 3) < 0.5).float()
    visualize.rate_over_time(axes, dict(first=spikes))
    assert np.allclose(axes.lines[0].get_ydata(), spikes.mean((1, 2)))


def test_event_frames_show_both_polarities():
    figure, (left, right) = plt.subplots(1, 2)
    frames = torch.zeros(3, 2, 4, 4)
    frames[0, 0, 1, 1], frames[2, 1, 2, 2] = 1, 1
    visualize.event_frames([left, right], frames)
    first, last = left.images[0].get_array(), right.images[0].get_array()
    assert first[1, 1, 0] > first[1, 1, 2] and last[2, 2, 2] > last[2, 2, 0]
    assert (first[0, 0] == 1).all()
    plt.close(figure)


@pytest.mark.parametrize(
    ('call', 'said'),
    [
        (lambda axes: visualize.raster(axes, torch.zeros(4, 3)), r'\[T, B, ...\], got \(4, 3\)'),
        (lambda axes: visualize.raster(axes, torch.zeros(4, 3, 2), sample=3), 'sample=3: there are 3 samples'),
        (lambda axes: visualize.rate_map(axes, torch.zeros(4, 3, 2)), r'a map needs spikes \[T, B, C, H, W\]'),
        (lambda axes: visualize.event_frames([axes], torch.zeros(4, 3, 2, 2)), r'\[T, 2, H, W\]'),
    ],
)
def test_what_cannot_be_drawn_is_said(axes, call, said):
    with pytest.raises(ValueError, match=said):
        call(axes)


def test_look_writes_one_file(tmp_path, lively, monkeypatch):
    from mmsnn.building import build_model, read

    config = tmp_path / 'small.py'
    config.write_text(
        "_base_ = 'mmsnn::spiking/spiking_r18_cifar10_small.py'\n"
        'model = dict(backbone=dict(base_channels=8, stem_channels=8, T=2), head=dict(in_channels=64))\n'
        "steps = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=32), dict(type='PackInputs')]\n"
        'test_dataloader = dict(dataset=dict(pipeline=steps))\n'
    )
    model = build_model(read(str(config)))
    lively(model.backbone)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'small.pth')
    image = tmp_path / 'noise.png'
    cv2.imwrite(str(image), np.random.default_rng(0).integers(0, 255, (40, 48, 3), dtype=np.uint8))
    look = runpy.run_path(str(home() / 'tools' / 'look.py'))['main']
    titles = []
    monkeypatch.setattr(plt, 'close', lambda figure: titles.extend(axes.get_title() for axes in figure.axes))
    picture = look([str(config), str(tmp_path / 'small.pth'), str(image), '--out', str(tmp_path / 'look.png')])
    assert cv2.imread(str(picture)).std() > 10
    # the ninth of 17 layers
    assert 'spikes of backbone.layer2.1.neuron2' in titles and 'backbone.layer4.1.neuron2' in titles
    page = look([str(config), str(tmp_path / 'small.pth'), str(image), '--out', str(tmp_path / 'look.html')])
    text = page.read_text()
    assert 'data:image/png;base64,' in text and 'backbone.layer4' in text and 'http' not in text
