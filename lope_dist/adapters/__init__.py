"""The LoPE layer, the baselines' modules, and how they get into a model.

Not here: ranks and partitions (`engine`), the base's own layers (`model`), what is minimized
(`train`).
"""
