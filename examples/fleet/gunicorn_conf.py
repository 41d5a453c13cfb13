"""The settings of the example's gunicorn; workers and the address come on top."""

import os
from importlib import import_module

pythonpath = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
wsgi_app = "fleet.app:application"

# The application is made once, and used first in the workers.
preload_app = True
if os.environ["FLEET_ORIGIN"].startswith("redis:"):
    import_module("redis")  # takes long: once, and not in each worker at its first request

# The demo stops a worker in the middle of a creation: its master must not take it for hung.
timeout = 120

# The control socket of newer versions has one fixed path per user; two servers would quarrel.
control_socket_disable = True
