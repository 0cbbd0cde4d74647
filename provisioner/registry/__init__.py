"""Talking to registries (OCI distribution-spec v1.1)."""
