"""The promises of SECURITY.rst, tested as other users of the machine."""
