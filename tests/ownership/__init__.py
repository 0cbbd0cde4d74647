"""Tests of provisioner/ownership."""
