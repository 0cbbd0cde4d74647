"""Tests of provisioner/archives."""
