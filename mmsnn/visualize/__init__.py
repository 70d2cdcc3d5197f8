"""Drawing spike rasters, membrane potentials, firing rates over images and over time, event frames and predictions.

Every function draws into given matplotlib axes::

    with mmsnn.record(model, 'backbone.layer1.0.neuron1', what=('spikes', 'v')) as recorded:
        model(images)
    figure, axes = plt.subplots()
    mmsnn.visualize.raster(axes, recorded['backbone.layer1.0.neuron1']['spikes'])
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
