"""Datasets: the small generated set behind the demo, and CIFAR-10 from JPEG files."""

from .cifar10_jpeg import CIFAR10JPEG
from .digit_scenes import make_digit_scenes

__all__ = ['CIFAR10JPEG', 'make_digit_scenes']
