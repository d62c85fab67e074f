"""The processes of one launch that share an evaluation."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch

from upge.common.errors import UpgeError

#: How long processes wait for the slowest; of one that is gone they hear at once.
_LONGEST = timedelta(days=7)


@dataclass(frozen=True)
class Ranks:
    """This process and how many there are.

    Args:
        rank: of this one; the first, 0, alone writes what is common, and prints.
        world: their number.
    """

    rank: int = 0
    world: int = 1

    @staticmethod
    def launched() -> Ranks:
        """The processes that torchrun or another launcher has started, one without it.

        Raises:
            UpgeError: the environment variables of the launcher don't fit each other.
        """
        try:
            ranks = Ranks(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
            if ranks.world != 1:
                _distributed().init_process_group("gloo")
                if torch.cuda.is_available():
                    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        except (ValueError, RuntimeError) as error:
            raise UpgeError(
                f"processes can't be opened as the launcher says ({error}); see WORLD_SIZE, RANK, "
                "MASTER_ADDR and MASTER_PORT in the environment"
            ) from error
        return ranks

    @property
    def is_first(self) -> bool:
        """Whether this process writes what is common, and prints."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until all processes have come here.

        Raises:
            UpgeError: one is gone.
        """
        if self.world == 1:
            return
        try:
            _distributed().monitored_barrier(timeout=_LONGEST)
        except RuntimeError as error:
            raise UpgeError(
                "another process of this evaluation is gone (killed, out of memory, or cut off); "
                "rerun the command to resume"
            ) from error


def _distributed() -> Any:
    return torch.distributed
