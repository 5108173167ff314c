"""`lope` on one rank, harmed at a gather: `harmed_answers.py VICTIM NTH SIGNAL WORD...`.

On rank VICTIM the signal is sent to itself before its NTH gather for answers.
"""

import os
import signal
import sys

from lope_dist.cli import main
from lope_dist.engine import gathering

victim, nth, name, *words = sys.argv[1:]
count = [0]
agree = gathering._Order._agree


def harmed(self, index):
    """Count, and do harm at the moment that was asked for."""
    count[0] += 1
    if count[0] == int(nth) and os.environ["RANK"] == victim:
        os.kill(os.getpid(), getattr(signal, name))
    return agree(self, index)


gathering._Order._agree = harmed
sys.argv = ["lope", *words]
main()
