"""What trained models do: how good their text is, and how it changes."""
