"""The use of dogpile_fs and of each of its peers."""
