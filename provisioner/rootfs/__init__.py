"""From layers to a directory: reading archives, and writing trees that nothing can be written outside of."""
