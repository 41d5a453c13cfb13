"""Ready-made links to frameworks. Each module uses public names of ``dogpile_fs`` only, and nothing imports it.

A module here imports its framework when the module itself is imported. The extra of the framework's name installs
the framework.
"""
