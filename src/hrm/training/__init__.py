"""Training, whatever is trained: session, loop, trainer, updates, devices and what a person sees."""
