"""How far a stage is, for who watches: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import time
from collections import deque

import torch
from tqdm import tqdm

from lope_dist.core.bars import clock
from lope_dist.core.console import log_only, stderr, tell
from lope_dist.core.memory import format_bytes, rss_bytes

_PACE_STEPS = 50
"""Of so many steps the mean time tells how long the others will take."""


class StageDisplay:
    """The display of one stage. The first and the last step always have a line.

    Args:
        name: The stage's name.
        num_steps: Its steps.
        first: How many of them were done before this start.
        later_steps: Those of the stages behind it.
        every_s: Seconds from one line to the next. On a terminal the lines go to the log alone.
    """

    def __init__(
        self, name: str, num_steps: int, first: int, later_steps: int, every_s: float
    ) -> None:
        self._name, self._num_steps, self._later_steps = name, num_steps, later_steps
        self._every_s, self._num_made = every_s, 0
        self._tokens, self._seconds = 0, 0.0
        self._durations: deque[float] = deque(maxlen=_PACE_STEPS)
        self._last_line = self._last_step = time.monotonic()
        self._bar = None
        if stderr().isatty():
            self._bar = tqdm(
                total=num_steps,
                initial=first,
                desc=name,
                file=stderr(),
                mininterval=0.2,
                dynamic_ncols=True,
                bar_format="{desc} {n_fmt}/{total_fmt} |{bar}|{postfix}",
            )

    def step(self, step: int, loss: float, lr: float, tokens: int) -> None:
        """Show a step that was made, numbered from 0; ``tokens`` are those of all ranks."""
        now = time.monotonic()
        if self._num_made == 1:
            self._durations.clear()  # the first step takes longer than any other
        self._num_made += 1
        self._durations.append(now - self._last_step)
        self._tokens, self._seconds = self._tokens + tokens, self._seconds + now - self._last_step
        self._last_step = now
        has_line = now - self._last_line >= self._every_s
        has_line = has_line or self._num_made == 1 or step + 1 == self._num_steps
        if self._bar is None and not has_line:
            return
        rate = f"{self._tokens / max(self._seconds, 1e-9):,.0f}"
        memory, (stage, run) = memory_in_use(), self._time_left(step)
        if self._bar is not None:  # short, and what matters first, for terminals of 80 columns
            eta = f"ETA {stage} run {run}" if run else f"ETA {stage}"
            rest = f"loss {loss:.3f} {rate} tok/s lr {lr:.0e} {memory / 2**30:.1f} GiB"
            self._bar.set_postfix_str(f"{eta} {rest}", refresh=False)
            self._bar.update()
        if has_line:
            line = (
                f"{time.strftime('%H:%M:%S')} {self._name} {step + 1}/{self._num_steps} "
                f"loss {loss:.4f}, lr {lr:.1e}, {rate} tokens/s, memory {format_bytes(memory)}, "
                f"ETA {stage}"
            )
            line = f"{line}, of the run {run}" if run else line
            log_only(line) if self._bar is not None else tell(line)
            self._last_line, self._tokens, self._seconds = now, 0, 0.0

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.close()

    def _time_left(self, step: int) -> tuple[str, str]:
        """Return what is left of the stage and, unless it is the last, of the run."""
        pace = sum(self._durations) / len(self._durations)
        left = self._num_steps - step - 1
        run = clock((left + self._later_steps) * pace) if self._later_steps else ""
        return clock(left * pace), run


def memory_in_use() -> int:
    """Return the bytes that this process holds: of its GPU, else of the host."""
    if torch.cuda.is_available():
        return torch.cuda.memory_reserved()
    return rss_bytes()
