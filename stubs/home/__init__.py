"""The home side: tracer, deputy, capture, file service, coherence, streams and terminal."""
