"""Inference on events: what a spiking network does not fire costs nothing."""

from .engine import Engine
from .report import ConvCounts, EventReport
from .switch import event_driven, event_report

__all__ = ['ConvCounts', 'Engine', 'EventReport', 'event_driven', 'event_report']
