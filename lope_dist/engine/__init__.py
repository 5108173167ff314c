"""Who runs the steps, on how many ranks, and what each rank holds; plans of time and memory.

The only package that imports deepspeed. Not here: stages, losses and rows.
"""
