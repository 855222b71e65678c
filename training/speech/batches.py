"""What batches of sounds have in common, whatever is learnt about them.

Letters in shapes: `N` sounds of a batch, `T` samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed


def place_among_processes() -> tuple[int, int]:
    """Tell which of how many processes that learn together this one is."""
    if not distributed.is_initialized():
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def shared_out(members: NDArray[np.int64], least: int) -> list[int]:
    """Give this process's share of a batch: all of it if a share would be smaller than `least`."""
    first, processes = place_among_processes()
    every: list[int] = members.tolist()
    return every[first::processes] if len(every) >= least * processes else every


def side_by_side(sounds: Sequence[NDArray[np.int16]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Give sounds as they are learnt from: audio i16 [N, T], filled up with 0, and lengths i64 [N]."""
    lengths = [len(sound) for sound in sounds]
    audio = np.zeros((len(sounds), max(lengths)), dtype=np.int16)
    for row, sound in zip(audio, sounds, strict=True):
        row[: len(sound)] = sound
    return torch.from_numpy(audio), torch.tensor(lengths)
