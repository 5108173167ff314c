"""All examples of `data`: checked row by row in one pass, and kept on disk in one form.

Not here: how one row is read (`rows`) or becomes tokens (`tokens`), and order (`feed`).
"""
