"""Distillation losses, one registered class each."""

from .base import DistillLoss
from .feature import FeatureMSE
from .response import ChannelWiseKL, DenseResponse, LogitKL, PixelKL, kl_divergence

__all__ = ['ChannelWiseKL', 'DenseResponse', 'DistillLoss', 'FeatureMSE', 'LogitKL', 'PixelKL', 'kl_divergence']
