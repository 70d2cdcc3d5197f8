"""Datasets: event frames and windows, Tiny ImageNet, CIFAR from archives, and the generated set of the demo."""

from .cifar_archive import CIFAR10Archive, CIFAR100Archive
from .digit_scenes import make_digit_scenes
from .event_frames import CIFAR10DVS, NMNIST, DVS128Gesture, NCaltech101
from .event_transforms import (
    EventCutout,
    EventRandomCrop,
    EventRandomFlip,
    EventResize,
    EventRoll,
    LoadEventFrames,
    NeuromorphicAugment,
    PackEventDetInputs,
)
from .gen1 import Gen1, LoadEventWindow
from .tiny_imagenet import TinyImageNet

__all__ = [
    'CIFAR100Archive',
    'CIFAR10Archive',
    'CIFAR10DVS',
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
    'NMNIST',
    'NeuromorphicAugment',
    'PackEventDetInputs',
    'TinyImageNet',
    'make_digit_scenes',
]
