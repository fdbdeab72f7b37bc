"""While these tests run, beartype checks every shape in the signatures of hrm.models."""

import sys

import jaxtyping
import torch

torch.set_num_threads(1)

# Nothing to do where pytest's --jaxtyping-packages has done it; too late where another test imported the models first.
if "hrm.models" not in sys.modules:
    jaxtyping.install_import_hook("hrm.models", "beartype.beartype")
