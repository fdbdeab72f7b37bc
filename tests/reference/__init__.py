"""The published equations, restated from the papers in plain torch and apart from the package, for the tests to compare with."""
