"""What a spiking network does and costs, measured on inputs."""

from .benchmark import benchmark
from .energy import EnergyReport, LayerEnergy, count_energy
from .firing_rate import firing_rates

__all__ = ['EnergyReport', 'LayerEnergy', 'benchmark', 'count_energy', 'firing_rates']
