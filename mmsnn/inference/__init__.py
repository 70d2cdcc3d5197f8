"""Inference on events: what a spiking network does not fire costs nothing."""

from .engine import Engine, event_driven, event_report
from .report import EventReport, SiteCounts

__all__ = ['Engine', 'EventReport', 'SiteCounts', 'event_driven', 'event_report']
