"""From compressed layers to entries applied to a tree."""
