"""Distillation losses, one registered class each."""

from .base import DistillLoss
from .dense import ChannelWiseKL, DenseResponse, PixelKL
from .feature import PKD, AffineMSE, AttentionMSE, BlurMSE, FeatureMSE
from .rate import FiringRate
from .response import (
    DIST,
    EnOF,
    LogitKL,
    WeightedSoftLabels,
    kl_divergence,
)
from .targets import cross_entropy, soft_targets
from .temporal import SeAl, StepLogitKL, TemporalSeparation
from .temporal_self import ETC, TET, TKS, StrongWeak, TemporalSpatialSelf

__all__ = [
    'DIST',
    'ETC',
    'PKD',
    'TET',
    'TKS',
    'AffineMSE',
    'AttentionMSE',
    'BlurMSE',
    'ChannelWiseKL',
    'DenseResponse',
    'DistillLoss',
    'EnOF',
    'FeatureMSE',
    'FiringRate',
    'LogitKL',
    'PixelKL',
    'SeAl',
    'StepLogitKL',
    'StrongWeak',
    'TemporalSeparation',
    'TemporalSpatialSelf',
    'WeightedSoftLabels',
    'cross_entropy',
    'kl_divergence',
    'soft_targets',
]
