"""Moving frames: the event loop, and endpoints that carry frames over descriptors."""
