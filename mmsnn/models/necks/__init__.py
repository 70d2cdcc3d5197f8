"""Spiking necks."""
