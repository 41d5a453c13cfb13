"""Django's own tests of caches, run with ours: ``python -m tests.django_suite``."""
