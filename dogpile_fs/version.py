"""The version, where the build finds it without importing the package."""

VERSION = "0.2.0"
