"""Tests of provisioner/launch."""
