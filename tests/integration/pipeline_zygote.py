"""Runs the command line again and again in forked children, so that a run costs no imports.

One line on standard input is one command as a JSON list; the answers are a line with the child's process id
and, when it has ended, a line with its exit status (negative: the signal that killed it).
"""

import importlib
import json
import os
import sys

MODULES = (
    "faiss", "matplotlib.figure", "pyarrow.parquet", "sklearn.decomposition", "sklearn.feature_extraction.text",
    "genrec.cli", "genrec.data.prepare", "genrec.decoding", "genrec.encoders", "genrec.evaluation.report",
    "genrec.models.item_knn", "genrec.stages.compare", "genrec.tokenizer.fit", "genrec.training.loop",
    "genrec.training.next_item",
)  # fmt: skip


def main() -> None:
    for name in MODULES:
        importlib.import_module(name)
    import torch

    from genrec.cli import main as run

    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the command prints is not an answer
    answers.write("ready\n")
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                status = run(json.loads(line))
            finally:
                sys.stdout.flush()
                os._exit(status)
        answers.write(f"{child}\n")
        answers.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")


if __name__ == "__main__":
    main()
