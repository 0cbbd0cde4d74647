"""Tests of provisioner/sources."""
