"""Tests of provisioner/doctor."""
