"""Clients for registries (OCI distribution-spec v1.1), Docker Hub's own API and LXC image servers, over HTTP.

Terms: a `RegistryClient` asks one registry, `Mirrors` asks a registry and its mirrors; a document is an index or a
manifest; a challenge is a registry's demand for credentials, a login is a user's credentials.

Invariants: a document is verified before it is returned, and has a deadline; a blob is verified by the store.
Credentials are sent only to the registry that they are for and to its token server, and appear in no message. Addresses
are parsed by the library that connects. Text from a registry is escaped before it is printed. Every failure is a
ProvisionError. May import errors, filesystem, image, settings, sizes, terminal, threads.
"""
