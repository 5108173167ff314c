"""`launch/train.py` with more arguments on ranks that are not 0, as on a host with its own disk.

`other_host.py ARGUMENT... --there ARGUMENT...`
"""

import os
import runpy
import sys

at = sys.argv.index("--there")
there = sys.argv[at + 1 :] if os.environ["RANK"] != "0" else []
sys.argv = ["launch/train.py", *sys.argv[1:at], *there]
runpy.run_path("launch/train.py", run_name="__main__")
