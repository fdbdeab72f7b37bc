"""One page about runs, that anyone can open."""
