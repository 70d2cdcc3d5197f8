"""Distillation losses, one registered class each."""

from .base import DistillLoss
from .detection import FGD, BoxResponse, DenseResponse
from .feature import PKD, AffineMSE, AttentionMSE, BlurMSE, FeatureMSE
from .rate import FiringRate
from .response import (
    DIST,
    EnOF,
    LogitKL,
    WeightedSoftLabels,
    kl_divergence,
)
from .segmentation import ChannelWiseKL, PixelKL
from .targets import cross_entropy, soft_targets
from .temporal import SeAl, StepLogitKL, TemporalSeparation
from .temporal_self import ETC, TET, TKS, StrongWeak, TemporalSpatialSelf

__all__ = [
    'DIST',
    'ETC',
    'FGD',
    'PKD',
    'TET',
    'TKS',
    'AffineMSE',
    'AttentionMSE',
    'BlurMSE',
    'BoxResponse',
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
