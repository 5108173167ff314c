"""Forward passes without gradient between the steps of ZeRO-3, which leave its trace alone.

ZeRO-3 learns in which order the modules of a training pass run, and gathers their weights ahead.
A forward pass without its backward pass, or one that leaves adapters out, is another order:
DeepSpeed would throw away what it has learnt and gather nothing ahead for the next steps, and
leave weights whole that the training pass would have let go of. So such passes are followed by a
coordinator of their own. `tests/dist` holds that training afterwards is the same to the bit.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class EvaluationTrace:
    """The trace of evaluation passes of one ZeRO-3 engine."""

    def __init__(self, offload: Any) -> None:
        """Begin with none; ``offload`` is DeepSpeed's `DeepSpeedZeRoOffload`."""
        self._offload = offload
        self._coordinator: Any = copy.copy(offload.param_coordinator)
        if self._coordinator.is_invalid_trace():  # of an engine that has not trained yet
            self._coordinator._clear_trace_structures()  # or both would record in one list
        else:
            self._coordinator._invalidate_trace()

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Context whose forward passes this trace follows. Collective: yes."""
        from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

        parameters = list(self._offload.module.parameters())
        whole = {id(p) for p in parameters if p.ds_status == ZeroParamStatus.AVAILABLE}
        of_training = self._offload.param_coordinator
        self._offload.param_coordinator = self._coordinator
        try:
            yield
            self._coordinator.reset_step()  # takes back what was gathered ahead
        finally:
            self._offload.param_coordinator = of_training
        for parameter in parameters:
            is_whole = parameter.ds_status == ZeroParamStatus.AVAILABLE
            if is_whole and id(parameter) not in whole and not parameter.ds_active_sub_modules:
                parameter.partition()
