"""Tests of provisioner/commands."""
