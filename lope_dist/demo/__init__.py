"""The instruction corpus of the quickstart and its held-out tasks."""
