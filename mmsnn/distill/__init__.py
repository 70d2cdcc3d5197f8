"""Knowledge distillation: a student and a teacher around any task model."""

from mmsnn.checkpoints.transfer import TransferReport, transfer_weights

from .connectors import Affine, BlurRestore, ConvBN, Resize, WeakHead
from .distiller import Distiller
from .losses import (
    DIST,
    ETC,
    FGD,
    PKD,
    TET,
    TKS,
    AffineMSE,
    AttentionMSE,
    BlurMSE,
    BoxResponse,
    ChannelWiseKL,
    DenseResponse,
    DistillLoss,
    EnOF,
    FeatureMSE,
    FiringRate,
    LogitKL,
    PixelKL,
    SeAl,
    StepLogitKL,
    StrongWeak,
    TemporalSeparation,
    TemporalSpatialSelf,
    WeightedSoftLabels,
)
from .recording import Recorder
from .schedules import Progress, Schedule
from .taps import Tap
from .teacher import Teacher

__all__ = [
    'Affine',
    'AffineMSE',
    'AttentionMSE',
    'BlurMSE',
    'BlurRestore',
    'BoxResponse',
    'ChannelWiseKL',
    'ConvBN',
    'DIST',
    'DenseResponse',
    'DistillLoss',
    'Distiller',
    'ETC',
    'EnOF',
    'FGD',
    'FeatureMSE',
    'FiringRate',
    'LogitKL',
    'PKD',
    'PixelKL',
    'Progress',
    'Recorder',
    'Resize',
    'Schedule',
    'SeAl',
    'StepLogitKL',
    'StrongWeak',
    'TET',
    'TKS',
    'Tap',
    'Teacher',
    'TemporalSeparation',
    'TemporalSpatialSelf',
    'TransferReport',
    'WeakHead',
    'WeightedSoftLabels',
    'transfer_weights',
]
