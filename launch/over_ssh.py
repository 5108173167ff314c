"""Start the hosts of a hostfile: `launch/over_ssh.py --hostfile HOSTFILE [OPTION]... SCRIPT ...`.

`launch/ssh.sh` uses it. It is the command `deepspeed`, and sends more of this shell's variables to
the hosts: those that `lope_dist/core/sent_variables.py` lists.
"""

from __future__ import annotations

import sys
from typing import NoReturn

from lope_dist.core.console import show_error
from lope_dist.core.errors import LopeError
from lope_dist.core.sent_variables import SENT, sent_variables


def main() -> None:
    """Add to the variables that DeepSpeed sends, and be its launcher."""
    from deepspeed.launcher import runner

    hosts = runner.fetch_hostfile(runner.parse_args().hostfile) or ()
    try:
        if len(hosts) > 1:  # one host is started here, and nothing is sent
            sent_variables()
    except LopeError as error:
        _refuse(error)
    runner.EXPORT_ENVS.extend(SENT)
    try:
        runner.main()
    except RuntimeError as error:
        if "'pdsh' not installed" not in str(error):
            raise
        _refuse(
            LopeError(
                "A launch on several hosts over ssh needs pdsh here, and it is not installed: apt "
                "install pdsh, or start launch/no_ssh.sh on every host."
            )
        )


def _refuse(error: LopeError) -> NoReturn:
    show_error(f"error: {error}")
    sys.exit(error.status)


if __name__ == "__main__":
    main()
