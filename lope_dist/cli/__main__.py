"""`python -m lope_dist.cli`: the `lope` command of exactly this Python and this code."""

from lope_dist.cli import main

main()
