"""Rows of files and of hub data sets, each as an example: turns of a conversation.

Not here: templates and tokens (`tokens`), and the pass that checks all rows (`examples`).
"""
