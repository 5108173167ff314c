"""The typed, frozen configuration tree, how it is read, and why a setting is refused.

Not here: torch, and anything that has to look at a model, a row or a device.
"""
