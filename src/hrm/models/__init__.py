"""Architecture only: no files, no devices, no training, and no knowledge of what a Sudoku is."""
