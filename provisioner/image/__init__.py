"""Images as documents: references, digests, platforms, manifests and configs (OCI image-spec)."""
