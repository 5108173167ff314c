"""The instruction corpus that the demo trains on and is scored with.

Not here: anything that another run needs.
"""
