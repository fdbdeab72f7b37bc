"""Learning one book after another: a character model that grows, remembers, and can be switched off at any moment."""
