"""DeepSpeed's small C++ extension, built once a machine and never waited for in vain.

torch guards a build by a file that the builder removes. A build that is killed leaves it behind, and every later one
waits for ever, without a word. A lock of the operating system ends with its process: whoever holds ours knows that
nobody else of genrec builds, so that torch's file, if it is there, is such a leftover.
"""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)

BATON, OURS = "lock", "genrec.lock"


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Build in ``folder`` one process at a time; a file that a killed build of torch's left there is removed."""
    with (folder / OURS).open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        baton = folder / BATON
        if baton.exists():
            logger.warning("%s: left by a build that was killed; removed", baton)
            baton.unlink(missing_ok=True)
        yield


def load_extension() -> None:
    """Build or load what DeepSpeed's CPU workers exchange tensors with, before DeepSpeed does so itself."""
    import deepspeed
    from deepspeed.accelerator import get_accelerator
    from torch.utils.cpp_extension import _get_build_directory

    builder = get_accelerator().create_op_builder("ShareMemCommBuilder")
    if builder is None or not deepspeed.ops.__compatible_ops__.get(builder.NAME, False):
        return
    with alone_in(Path(_get_build_directory(builder.name, verbose=False))):
        builder.load()
