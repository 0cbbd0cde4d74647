"""Tests of provisioner/container."""
