"""Tests of provisioner/store."""
