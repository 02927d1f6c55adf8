"""One of the workers of test_zero_memory.py: ``python zero_worker.py RANK WORLD FOLDER`` trains by each strategy."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from torch import distributed
from training_tools import TigerFactory

from genrec.config import DeepSpeedSettings, TrainingSettings
from genrec.training.loop import fit
from genrec.training.strategies import build_strategy

NAMES = ("ddp", "zero-1", "zero-2", "zero-3")


def main() -> None:
    rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = str(rank)  # as Ray Train sets it; DeepSpeed asks for it
    distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=world)
    for name in NAMES:
        stage = int(name.removeprefix("zero-")) if name.startswith("zero-") else 2
        settings = TrainingSettings(
            strategy="ddp" if name == "ddp" else "deepspeed",
            workers=world,
            batch_size=16,
            max_steps=4,
            log_every=1,
            tensorboard=False,
            learning_rate=1e-2,
            deepspeed=DeepSpeedSettings(zero_stage=stage, persistence_elements=0),
        )
        fit(TigerFactory()(), settings, 5, folder / name, build_strategy(settings.strategy, torch.device("cpu")))
        distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
