"""Deep supervision: the loop, the losses, the optimizers and the batches."""
