"""Shared code of the tests: builders of archives and images, servers, containers, and tools."""
