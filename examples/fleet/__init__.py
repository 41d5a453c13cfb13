"""Two hosts behind nginx that share a datafile through an origin, and a verdict; see README.rst."""
