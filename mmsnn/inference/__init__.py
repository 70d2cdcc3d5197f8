"""Inference on events: what a spiking network does not fire costs nothing."""

from .engine import Engine, event_driven, event_report
from .report import ConvCounts, EventReport

__all__ = ['ConvCounts', 'Engine', 'EventReport', 'event_driven', 'event_report']
