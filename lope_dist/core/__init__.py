"""Errors, seeds, registry, files and logs: what every other package may import.

Not here: anything of the method, a model or a run. It imports nothing of ours.
"""
