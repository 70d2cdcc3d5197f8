"""Datasets: event frames and windows, Tiny ImageNet, CIFAR-10 from JPEG files, the generated set of the demo."""

from .cifar10_jpeg import CIFAR10JPEG
from .digit_scenes import make_digit_scenes
from .event_frames import CIFAR10DVS, DVS128Gesture, LoadEventFrames, NCaltech101
from .event_transforms import (
    EventCutout,
    EventRandomCrop,
    EventRandomFlip,
    EventResize,
    EventRoll,
    NeuromorphicAugment,
    PackEventDetInputs,
)
from .gen1 import Gen1, LoadEventWindow
from .tiny_imagenet import TinyImageNet

__all__ = [
    'CIFAR10DVS',
    'CIFAR10JPEG',
    'DVS128Gesture',
    'EventCutout',
    'EventRandomCrop',
    'EventRandomFlip',
    'EventResize',
    'EventRoll',
    'Gen1',
    'LoadEventFrames',
    'LoadEventWindow',
    'NCaltech101',
    'NeuromorphicAugment',
    'PackEventDetInputs',
    'TinyImageNet',
    'make_digit_scenes',
]
