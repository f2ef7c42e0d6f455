"""What home and node say to each other, and how it is spelled in bytes. No I/O here."""
