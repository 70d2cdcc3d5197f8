"""Spiking backbones, an architecture a file, and what they share: `base`, `arguments`, `residual`, `transformer`."""
