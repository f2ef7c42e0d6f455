"""Home's file service: answers what nodes ask of files, and tells them what changes."""
