"""From files to batches of tokens, the same on any number of ranks."""
