"""Datasets: the small generated set behind the demo."""

from .digit_scenes import make_digit_scenes

__all__ = ['make_digit_scenes']
