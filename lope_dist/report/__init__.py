"""Tables, plots and one HTML page from a run folder's JSON files.

Not here: torch, and figures that no file has.
"""
