"""Spiking backbones, one architecture per file; `base`, `arguments`, `residual` and `transformer` are shared."""
