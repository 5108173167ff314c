"""One stage of a run: its set-up, its loop and steps, validation and figures.

Not here: what lasts longer than a stage (`run`), and how ranks compute a step (`engine`).
"""
