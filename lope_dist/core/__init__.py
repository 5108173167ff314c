"""Registry, seeds, errors and the run log: what every other package may import."""
