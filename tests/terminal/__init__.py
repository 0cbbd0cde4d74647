"""Tests of provisioner/terminal."""
