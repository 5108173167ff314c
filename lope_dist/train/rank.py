"""One rank of a run that is there already: `python -m lope_dist.train.rank RUN/run.yaml`."""

from __future__ import annotations

import sys

from lope_dist.config.load import load_config
from lope_dist.core.console import open_console
from lope_dist.core.errors import LopeError
from lope_dist.core.exits import end
from lope_dist.train.session import train

if __name__ == "__main__":
    with open_console():
        try:
            train(load_config(sys.argv[1]), resume=True)
        except LopeError as error:
            end(error)
