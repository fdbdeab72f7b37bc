"""`torchrun -m tests.training.several JSON`: one `hrm` command after the other, each forked after the imports.

JSON holds [port, arguments] of each; at the port the processes that belong together find each other.
"""

import json
import os
import sys

# An import takes longer than any of the trainings; these bring the others along.
import torch._dynamo
import torch.distributed.fsdp  # noqa: F401

import hrm.puzzles.training.session
import hrm.text.training.session  # noqa: F401
from hrm.cli.main import main

if __name__ == "__main__":
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"  # torchrun's serves one command only
    for port, args in json.loads(sys.argv[1]):
        os.environ["MASTER_PORT"] = str(port)
        child = os.fork()
        if not child:
            os._exit(main(args))
        if os.waitpid(child, 0)[1]:
            sys.exit(1)
