"""Spikes to look at: rasters, membrane potentials, rates over images and over time, event frames, results.

Every function draws into matplotlib axes that it is given::

    with mmsnn.record(model, 'backbone.layer1.0.neuron1', what=('spikes', 'v')) as found:
        model(images)
    figure, axes = plt.subplots()
    mmsnn.visualize.raster(axes, found['backbone.layer1.0.neuron1']['spikes'])
"""

from .results import draw_boxes, draw_rates, draw_result
from .spikes import choose, event_frames, membrane, raster, rate_map, rate_over_time

__all__ = [
    'choose',
    'draw_boxes',
    'draw_rates',
    'draw_result',
    'event_frames',
    'membrane',
    'raster',
    'rate_map',
    'rate_over_time',
]
