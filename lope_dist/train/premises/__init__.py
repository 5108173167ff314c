"""What is known of a run before its first step: its rows, its model without weights, its sizes.

Not here: what only the loaded model proves (`run`).
"""
