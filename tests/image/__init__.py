"""Tests of provisioner/image."""
