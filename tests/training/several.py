"""`python -m tests.training.several JSON`: `hrm` commands, one after the other, in processes forked after the imports.

JSON holds [processes, arguments] of each.
"""

import contextlib
import io
import json
import os
import socket
import sys

# An import takes longer than any of the trainings; these bring the others along.
import torch._dynamo
import torch.distributed.fsdp  # noqa: F401

import hrm.cli.options
import hrm.puzzles.training.session
import hrm.text.training.session  # noqa: F401
from hrm.cli.main import main


def together(processes: int, args: list[str]) -> bool:
    """Whether a command succeeds in all of these processes, which know of each other as those of torchrun do."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    children = []
    for rank in range(processes):
        children.append(os.fork())
        if not children[-1]:
            if processes > 1:
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                os.environ |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
            os._exit(main(args))
    return not any([os.waitpid(child, 0)[1] for child in children])


if __name__ == "__main__":
    for recipe in ("text-char", "sudoku-4x4"):  # what is read from the docstrings of the flags is kept for all of them
        with contextlib.redirect_stdout(io.StringIO()):
            main(["train", recipe, "--help"])
    sys.exit(not all(together(processes, args) for processes, args in json.loads(sys.argv[1])))
