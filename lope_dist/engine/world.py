"""The processes of a run: who this one is, and the few things they tell each other.

Collectives here are for small host-side numbers. Everything is set in-process, so that
any launcher (`deepspeed`, `torchrun`, none) gives the same run.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist

from lope_dist.config.engine import EngineConfig
from lope_dist.core.errors import LopeError, PeerLost, first_line, status_of
from lope_dist.core.ports import free_port
from lope_dist.engine.patience import be_patient, connect, limit_of
from lope_dist.engine.peers import Peers
from lope_dist.engine.processes import local_size
from lope_dist.engine.rendezvous import no_connection, open_store

T = TypeVar("T")
_LETTING_GO_S = 0.1
"""Far beyond what gloo's threads take to give back a collective's tensors."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


class World:
    """This process among the others.

    Attributes:
        rank: 0 to size - 1, over all hosts.
        size: Number of processes (the world size).
        device: Where this rank computes.
    """

    def __init__(
        self, rank: int, size: int, device: torch.device, peers: Peers | None = None
    ) -> None:
        self.rank, self.size, self.device = rank, size, device
        self._peers = peers

    @property
    def is_main(self) -> bool:
        """Whether this rank prints, logs and writes."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the element-wise sum over ranks, in float64. Collective: yes."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def max(self, values: Sequence[float]) -> list[float]:
        """Return the element-wise maximum over ranks. Collective: yes."""
        return self._reduce(values, dist.ReduceOp.MAX)

    def barrier(self) -> None:
        """Wait for all ranks. Collective: yes."""
        self.sum([0.0])

    def on_main(self, action: Callable[[], T]) -> T | None:
        """Run something on rank 0 alone; if it fails there, every rank stops with its status.

        Collective: yes.
        """
        result: T | None = None
        error: Exception | None = None
        if self.is_main:
            try:
                result = action()
            except Exception as caught:  # of any kind: the others must not wait in vain
                error = caught
        (status,) = self.sum([0.0 if error is None else status_of(error)])
        if error is not None:
            raise error
        if status:
            raise PeerLost("Rank 0 stopped; see its message.", int(status))
        return result

    @contextmanager
    def failures_named(self, if_memory_is_short: str) -> Iterator[None]:
        """Context in which a collective's failure names the rank that caused it.

        An error of this rank's own is passed on, and told to the others.

        Args:
            if_memory_is_short: What to do where the device's memory does not suffice.

        Raises:
            PeerLost: another rank is gone; the sentence names it.
            LopeError: the device's memory does not suffice.
        """
        try:
            with lack_of_memory_named(if_memory_is_short):
                yield
        except BaseException as error:
            if self._peers is None:
                raise
            is_collective = _is_of_a_collective(error)
            cause = self._peers.blame() if is_collective else None
            reason = (cause or str(error).strip() or type(error).__name__).splitlines()[0]
            if is_collective and cause is None:
                cause = f"Communication failed, and all ranks still live: {reason}"
            self._peers.tell(cause or reason, status_of(error))
            if cause:
                raise self._peers.loss(cause) from error
            raise

    def close(self) -> None:
        """Leave the process group, if there is one. Collective: yes.

        Gloo's threads give the last tensors back a moment after a collective is over, and need
        Python for it. Were Python ending by then, they would abort the process
        (pytorch/pytorch#190489), and a run that ended well would count as failed.
        """
        if dist.is_initialized():
            self.barrier()
            if self._peers is not None:
                self._peers.close()
                # The store is rank 0's: it stays until the others' threads have let go of it.
                self.barrier()
            dist.destroy_process_group()
            time.sleep(_LETTING_GO_S)

    def _reduce(self, values: Sequence[float], op: dist.ReduceOp.RedOpType) -> list[float]:
        if self.size == 1:
            return [float(v) for v in values]
        if self._peers is not None:
            self._peers.advance()
        tensor = torch.tensor(list(values), dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor, op=op)
        return tensor.tolist()


@contextmanager
def lack_of_memory_named(remedy: str) -> Iterator[None]:
    """Context in which a device without enough memory is a mistake of the user, with a remedy.

    Raises:
        LopeError: the device's memory does not suffice.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        rank = os.environ.get("RANK", "0")
        raise LopeError(
            f"The device of rank {rank} has too little memory ({first_line(error)}); {remedy}."
        ) from error


def start_world(config: EngineConfig) -> World:
    """Join the process group that the launcher's environment describes.

    Collective: yes. Without a launcher this is a world of one.

    Raises:
        LopeError: the local engine under several ranks; more ranks than devices; no network
            interface of the given name.
        PeerLost: ranks that do not come, or that cannot connect to each other.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    device = rank_device()
    if config.kind == "local":
        if world_size > 1:
            raise LopeError(
                f"engine.kind = 'local' runs on one rank, but the launcher started {world_size}; "
                "use engine.kind=deepspeed or start one process."
            )
        return World(0, 1, device)
    _set_threads(local_size())
    _describe_single_process()
    peers = _meet(config, device)
    return World(dist.get_rank(), dist.get_world_size(), device, peers)


def _is_of_a_collective(error: BaseException) -> bool:
    """Return whether an error comes from communication rather than from this rank's own work."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and ("gloo" in str(error) or "NCCL" in str(error))
    )


def _meet(config: EngineConfig, device: torch.device) -> Peers | None:
    """Call the roll, then make the process group; return the others, if there are any.

    The roll is called first because a process group that waits in vain does not say for whom.

    Raises:
        LopeError: what `open_store` raises.
        PeerLost: ranks that do not come, or that cannot connect to each other.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    # On CPU DeepSpeed compiles a shared-memory all-reduce at start-up that training never
    # calls. A job killed meanwhile leaves a lock behind on which every later job waits for
    # ever. Declaring the operator absent avoids the compiler, the minute and the lock.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    # torchrun's store outlives a restart of the ranks.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    store = open_store(backend, config.timeout_s, config.interface)
    peers = Peers(rank, size, address, config.timeout_s, attempt) if size > 1 else None
    try:
        dist.init_process_group(
            backend,
            store=dist.PrefixStore(f"lope/{attempt}", store),
            rank=rank,
            world_size=size,
            # Until all are connected; by then the others have been looked at, and one was named.
            timeout=limit_of(config.timeout_s),
        )
        connect(device)
        be_patient(config.timeout_s)
        deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)
    except Exception as error:
        sentence = no_connection(error)
        if peers is not None:
            peers.tell(sentence)
        raise PeerLost(sentence) from error
    return peers


def rank_device() -> torch.device:
    """Return where this rank computes: the GPU of its place on the host, else the CPU.

    Raises:
        LopeError: the host has fewer GPUs than ranks.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if local_rank >= (num := torch.cuda.device_count()):
        raise LopeError(
            f"The launcher started more ranks than the {num} CUDA devices of this host "
            f"(CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES', 'not set')}); start "
            "one rank for each device."
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def _describe_single_process() -> None:
    """Fill in the launcher's variables for a process that no launcher started."""
    if "RANK" in os.environ:
        return
    variables = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_PORT": free_port()}
    os.environ.update({key: str(value) for key, value in variables.items()})
    os.environ["MASTER_ADDR"] = "127.0.0.1"


def _set_threads(local_size: int) -> None:
    """Share the host's cores among its ranks, unless the user has decided."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local_size))


def calm_allocator(from_bytes: int = 1 << 17) -> None:
    """Make glibc give freed memory back: large tensors of many sizes otherwise fragment its heaps.

    Blocks of ``from_bytes`` and more are mapped by themselves. The same as
    MALLOC_MMAP_THRESHOLD_, MALLOC_TRIM_THRESHOLD_ and MALLOC_ARENA_MAX, but independent of who
    started the process. Each such tensor then costs page faults, so it is not for a training whose
    tensors have the same sizes in each step. Before a model is built: one without weights leaves a
    hole of its size in the heap, which tensors would fill for good.
    Elsewhere than glibc there is nothing to do.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
        mallopt(option, from_bytes)
    mallopt(_M_ARENA_MAX, 2)
