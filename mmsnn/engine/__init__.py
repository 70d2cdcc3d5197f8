"""Training and testing around a model: configs and their checks, hooks, loops, logging and safety."""
