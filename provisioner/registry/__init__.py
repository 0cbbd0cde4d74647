"""Talking to registries over HTTP (OCI distribution-spec v1.1), to Docker Hub's own API and to LXC image servers.

Nouns: a registry client asks one registry, mirrors several; a document is an index or a manifest; a challenge is what a
registry wants to see before it answers, a login is what it is shown.

What holds here: a document is verified before it is returned, a blob is not (the store does that), and comes within a
deadline; credentials go only to the registry that they are for and to its token server, and appear in no message; the
library that connects decides where an address leads; text of a registry is escaped before a user sees it; every failure
is a ProvisionError. May import errors, filesystem, image, settings, sizes, terminal, threads.
"""
