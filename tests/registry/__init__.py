"""Tests of provisioner/registry."""
