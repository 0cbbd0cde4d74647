"""Tests of provisioner/rootfs."""
