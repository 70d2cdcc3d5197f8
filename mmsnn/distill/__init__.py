"""Knowledge distillation: a student and a teacher around any task model."""

from .connectors import ConvBN
from .distiller import Distiller
from .losses import ChannelWiseKL, DenseResponse, DistillLoss, FeatureMSE, LogitKL, PixelKL
from .schedules import Progress, Schedule
from .taps import Recorder, Tap
from .teacher import Teacher
from .transfer import TransferReport, transfer_weights

__all__ = [
    'ChannelWiseKL',
    'ConvBN',
    'DenseResponse',
    'DistillLoss',
    'Distiller',
    'FeatureMSE',
    'LogitKL',
    'PixelKL',
    'Progress',
    'Recorder',
    'Schedule',
    'Tap',
    'Teacher',
    'TransferReport',
    'transfer_weights',
]
