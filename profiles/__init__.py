"""Profiles: what a distribution needs beyond its image, one TOML file each."""
