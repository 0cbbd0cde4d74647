"""Tests of provisioner/layers."""
