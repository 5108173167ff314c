import subprocess
import sys
from pathlib import Path

from lope_dist.export.folder import new_folder

HOLD = """
import sys, time
from pathlib import Path
from lope_dist.export.folder import new_folder
with new_folder(Path(sys.argv[1])):
    print("writing", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_export_left_is_removed_and_what_is_written_is_not(tmp_path: Path) -> None:
    out = tmp_path / "peft"
    held = [
        subprocess.Popen([sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in held:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
    held[0].kill()
    held[0].wait()
    (tmp_path / ".other.1.partial").mkdir()
    with new_folder(out):
        pass
    names = {path.name for path in tmp_path.iterdir()}
    held[1].kill()
    held[1].wait()
    assert names == {"peft", ".other.1.partial", f".peft.{held[1].pid}.partial"}
