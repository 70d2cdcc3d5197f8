"""Spiking heads."""
