"""Checkpoints, our own and those of others: read safely, matched with a model, converted, and refused by name."""
