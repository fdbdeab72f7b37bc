"""Before any test: one torch thread per process, the same random examples every time."""

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings

settings.register_profile("hrm", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("hrm")

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell does so with what it starts in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
