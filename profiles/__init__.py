"""The bundled profiles, one TOML file for each distribution (docs/profiles.md)."""
