"""Who runs the steps. The only package that imports deepspeed."""
