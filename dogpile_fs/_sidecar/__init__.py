"""The record of a resource: its bytes, its file, its freshness."""
