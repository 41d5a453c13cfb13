"""The trial of NFS: a datafile on a real mount, between hosts that are guests of User Mode Linux."""
