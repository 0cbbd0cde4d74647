"""Tests of provisioner/filesystem."""
