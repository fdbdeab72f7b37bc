"""Talking with a model of text: reasoning modes, memory, commands, and a terminal."""
