"""What is kept on this machine: blobs by their digest, documents, notes of tags."""
