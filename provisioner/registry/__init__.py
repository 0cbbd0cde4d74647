"""Talking to registries over HTTP (OCI distribution-spec v1.1), and to Docker Hub's own API.

Nouns: a registry client asks one registry; mirrors ask several registries for the same content; a document is an index
or a manifest; a challenge is what a registry wants to see before it answers, a login is what it is shown.

What holds here: a document is verified before it is returned, a blob is not (the store verifies it); credentials go
only to the registry that they are for and to its token server, and appear in no message; text of a registry is escaped
before a user sees it; every failure is a ProvisionError, and a TransientError where trying again may help.

May import errors, filesystem, image, settings and terminal.
"""
