"""How dogpile_fs and each of its peers is used."""
