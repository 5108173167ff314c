"""A corpus built ahead: shards of tokens, their manifest, and who builds them.

Not here: what is in a shard's row (`tokens` makes it), and which rows a step reads (`feed`).
"""
