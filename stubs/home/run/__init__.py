"""What mrun does: trace a program to its start, capture it, keep deputy and body in step."""
