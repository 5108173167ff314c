"""Start a script's ranks on this machine: `launch/one_host.py NUM_RANKS SCRIPT [ARGUMENT]...`.

`lope launch` and the quickstart use it. It is DeepSpeed's launcher of one host, without the
`deepspeed` command around it. At Ctrl-C that command ends with a traceback while the ranks still
write their checkpoint; this one waits for them and ends with status 130.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import signal
import sys
from contextlib import suppress

from lope_dist.core.errors import EXIT_INTERRUPTED


def main() -> None:
    """Parse the arguments and start the ranks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("num_ranks", type=int, metavar="NUM_RANKS")
    parser.add_argument("script", metavar="SCRIPT", help="such as launch/train.py")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARGUMENT")
    given = parser.parse_args()
    devices = list(range(given.num_ranks))
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    if visible and os.environ.get("DS_ACCELERATOR") != "cpu":
        if given.num_ranks > len(visible):
            parser.error(
                f"{given.num_ranks} ranks need as many devices, and CUDA_VISIBLE_DEVICES="
                f"{','.join(visible)} names {len(visible)}; start fewer, or name more."
            )
        devices = visible[: given.num_ranks]
    sys.exit(run(devices, given.script, given.arguments))


def run(devices: list[int] | list[str], script: str, arguments: list[str]) -> int:
    """Start a rank for each device, wait for all, and return the status."""
    came, note = os.pipe()
    for end in (came, note):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(note)  # notes which signals come, whoever handles them
    try:
        from deepspeed.launcher import launch

        from lope_dist.core.ports import free_port

        hosts = base64.urlsafe_b64encode(json.dumps({"localhost": devices}).encode()).decode()
        options = [f"--world_info={hosts}", f"--master_port={free_port()}", "--no_local_rank"]
        options.append("--log_level=error")
        sys.argv = [launch.__file__, *options, script, *arguments]
        launch.main()
        status = 0
    except KeyboardInterrupt:  # before DeepSpeed handles it: no rank has begun to train
        return EXIT_INTERRUPTED
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    signals = b""
    with suppress(BlockingIOError):
        signals = os.read(came, 64)
    return EXIT_INTERRUPTED if status and signal.SIGINT in signals else status


if __name__ == "__main__":
    main()
