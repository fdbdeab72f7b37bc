"""The published equations, restated from the papers in plain torch, for the tests to compare the package with."""
