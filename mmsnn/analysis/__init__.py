"""Measuring spiking networks on inputs: firing rates, energy, operations, parameters, speed."""

from .benchmark import benchmark
from .energy import EnergyReport, LayerEnergy, count_energy
from .firing_rate import firing_rates
from .macs import MacReport, count_macs
from .parameters import ParameterReport, count_parameters

__all__ = [
    'EnergyReport',
    'LayerEnergy',
    'MacReport',
    'ParameterReport',
    'benchmark',
    'count_energy',
    'count_macs',
    'count_parameters',
    'firing_rates',
]
