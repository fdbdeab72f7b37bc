"""Text written for many at once: segments of different requests are one batch, whatever their lengths and depths."""
