"""What runs around a model."""
