"""The instruction corpus that the demo trains on and is scored with."""
