"""What other users of the machine can do to us, and what they cannot: see SECURITY.rst."""
