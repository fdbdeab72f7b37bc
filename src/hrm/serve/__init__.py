"""Runs behind an HTTP address: an API for programs, and a page for people. Nothing below knows of either."""
