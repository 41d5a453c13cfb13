"""Which caller creates, which waits, which passes."""
