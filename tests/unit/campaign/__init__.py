"""Tests of tests.campaign."""
